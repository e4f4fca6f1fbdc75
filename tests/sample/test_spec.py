"""Samplers as values: what follows from their settings, and that nothing of it gets lost."""

import dataclasses
import math

import numpy as np
import pytest

from powerjax import sample
from powerjax.records import fields, identity
from powerjax.sample import job, spec

# One setting of each sampler that is not its default.
CHANGED = {
    "power": {"alpha": 2.5, "temperature": 0.7, "block_size": 5, "num_mcmc_steps": 3},
    "power_inf": {"temperature": 0.7, "stop": "horizon", "top_k": 3},
    "standard": {"max_new_tokens": 17},
    "temperature": {"temperature": 0.7},
}


@pytest.mark.parametrize("name", spec.SAMPLERS)
def test_every_sampler_has_a_function_of_its_name(name):
    assert callable(getattr(sample, name)) and spec.SAMPLERS[name].name == name


@pytest.mark.parametrize("name", spec.SAMPLERS)
def test_records_keep_and_check_every_field_that_a_sampler_states(name):
    """A field outside LAW would not be recorded, and two laws would have one id."""
    stated = spec.of(name, {}).record_fields()
    assert set(stated) <= set(identity.LAW) & set(fields.FIELDS)
    assert {"sampler", "alpha", "temperature"} <= set(stated) and stated["sampler"] == name


@pytest.mark.parametrize("name", spec.SAMPLERS)
def test_a_setting_that_decides_the_law_changes_its_hash(name):
    plain = identity.law_hash(spec.of(name, {}).record_fields())
    for setting, value in CHANGED[name].items():
        changed = spec.of(name, {setting: value}).record_fields()
        assert identity.law_hash(changed) != plain, setting


def test_early_rejection_is_a_setting_of_no_law():
    for name in ("power", "power_inf"):
        on, off = (spec.of(name, {"early_rejection": flag}) for flag in (True, False))
        assert on != off and on.record_fields() == off.record_fields()


@pytest.mark.parametrize(
    "alpha, temperature, expected",
    [
        (4.0, None, 0.25),
        (4.0, 0.25, 0.25),
        (3.0, 1 / 3, 1 / 3),
        (3.0, 0.33333334, 1 / 3),
        (2, 0.7, 0.7),
    ],
)
def test_a_record_states_the_inverse_of_alpha_where_the_proposal_has_it(
    alpha, temperature, expected
):
    sampler = spec.Power(alpha=alpha, temperature=temperature)
    assert sampler.record_fields()["temperature"] == expected
    kernel = sampler.kernel_settings((0,))
    assert float(kernel.inv_temperature) == pytest.approx(1 / expected, rel=1e-6)


def test_standard_is_temperature_one_and_power_one_without_moves():
    ours = spec.Standard(max_new_tokens=9).kernel_settings((0,))
    for other in (
        spec.Temperature(temperature=1.0, max_new_tokens=9),
        spec.Power(alpha=1.0, num_mcmc_steps=0, block_size=9, max_new_tokens=9),
    ):
        kernel = other.kernel_settings((0,))
        for field in dataclasses.fields(kernel):
            np.testing.assert_array_equal(getattr(kernel, field.name), getattr(ours, field.name))


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("power", {"alpha": 0.5}, "alpha is 0.5"),
        ("power", {"kernel": "exakt"}, "kernel must be"),
        ("power", {"stop": "end"}, "stop must be"),
        ("power_inf", {"temperature": 0}, "temperature is 0"),
        ("temperature", {"temperature": math.nan}, "temperature is nan"),
        ("standard", {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ("standard", {"top_k": 1.5}, "top_k is 1.5"),
        ("smc", {}, "there is no sampler 'smc': give one of power, power_inf, standard, temper"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(name, settings, message):
    with pytest.raises(ValueError) as error:
        spec.of(name, settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_keyword_that_a_sampler_does_not_take_is_refused():
    with pytest.raises(TypeError, match=r"sample\.standard has no argument 'alpha'"):
        job.parse("standard", {"alpha": 4.0, "num_samples": 2})
    sampler, options = job.parse("power", {"alpha": 4, "num_samples": 2, "seed": 7})
    assert sampler == spec.Power(alpha=4.0)
    assert (options.num_samples, options.seed) == (2, 7)
