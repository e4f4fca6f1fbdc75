"""Numbers and names that samplers take: bounds hold on the device, records have Python's values."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import records, sample
from powerjax.sample import draws, inputs

SMALL = dict(max_new_tokens=12, num_slots=8, progress=False)


def test_numbers_of_numpy_are_taken_and_recorded_as_pythons(tiny_qwen):
    out = sample.power(
        tiny_qwen,
        np.array([[5, 6, 7]]),
        alpha=np.float32(1.5),
        temperature=np.float64(0.5),
        block_size=np.int64(6),
        num_mcmc_steps=jnp.int32(1),
        max_new_tokens=np.int16(12),
        num_samples=np.array(2),
        top_k=np.uint8(3),
        num_slots=np.int64(8),
        seed=np.uint64(2**64 - 1),
        ids=np.array([9]),
        progress=False,
    )
    rows = out.to_records()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert records.chain_name(rows[0]) == f"prompts/9/tiny_qwen/power/{2**64 - 1}/0"
    assert (rows[0]["alpha"], rows[0]["temperature"]) == (1.5, 0.5)
    json.dumps(out.settings)
    chosen = sample.best_of_n(tiny_qwen, [[5]], n=np.int64(2), **SMALL)
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(alpha=1e39), "alpha is 1e+39"),
        (dict(alpha=3e38), "power_inf is the limit"),
        (dict(alpha=10**400), "alpha is 1000"),
        (dict(alpha=np.nan), "alpha is nan"),
        (dict(alpha=0.999), "alpha is 0.999"),
        (dict(alpha="4"), "alpha is '4'"),
        (dict(alpha=True), "alpha is True"),
        (dict(alpha=[4.0]), "alpha is [4.0]"),
        (dict(temperature=1e39), "temperature is 1e+39"),
        (dict(temperature=np.inf), "temperature is inf"),
        (dict(temperature=1e-5), "temperature is 1e-05"),
        (dict(temperature="x"), "temperature is 'x'"),
        (dict(num_mcmc_steps=2**31), "num_mcmc_steps is 2147483648"),
        (dict(num_mcmc_steps=True), "num_mcmc_steps is True"),
        (dict(block_size=2**31), "block_size is 2147483648"),
        (dict(num_samples=2**40), "num_samples is 1099511627776"),
        (dict(num_samples="2"), "num_samples is '2'"),
        (dict(num_slots=2**31), "num_slots is 2147483648"),
        (dict(top_k=np.True_), "top_k is np.True_"),
        (dict(max_new_tokens=2**16), "max_new_tokens is 65536"),
        (dict(seed=2**64), "seed is 18446744073709551616"),
        (dict(seed=-(2**63) - 1), "seed is -9223372036854775809"),
        (dict(seed="0"), "seed is '0'"),
        (dict(seed=False), "seed is False"),
        (dict(ids=[0, 2**64]), "the ids 0 and 18446744073709551616 name the same draws"),
        (dict(ids=[-1, 2**64 - 1]), "the ids -1 and 18446744073709551615 name the same draws"),
        (dict(ids=[0, "0"]), "the ids 0 and '0' are written alike"),
        (dict(ids=[np.int64(5), "5"]), "the ids 5 and '5' are written alike"),
        (dict(seed=jax.random.key(0)), "seed is Array"),
        (dict(alpha=jax.random.key(1)), "alpha is Array"),
        (dict(ids=[2**64 + 1, 0]), "id 18446744073709551617 has more than 64 bits"),
        (dict(ids=[0, -(2**70)]), "id -1180591620717411303424 has more than 64 bits"),
        (dict(ids=[10**5000, 0]), "id a number of 16610 bits has more than 64 bits"),
        (dict(ids=[True, 2]), "id True is neither a string nor a whole number"),
        (dict(ids=["a\udc00", "b"]), "half a surrogate pair"),
        (dict(ids="ab"), "ids is one string"),
        (dict(ids={"a", "b"}), "ids is of type set"),
    ],
)
def test_numbers_and_names_that_mean_nothing_are_one_line(tiny_qwen, options, words):
    with pytest.raises(ValueError) as error:
        sample.power(tiny_qwen, [[5], [6]], **{**SMALL, **options})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_bounds_hold_for_the_value_that_the_device_has():
    assert np.float32(1 - 1e-9) == 1  # the device computes with alpha 1
    assert inputs.power(1 - 1e-9, None) == (1 - 1e-9, None)
    assert inputs.positive(1e-4) == 1e-4  # float32 rounds it to less
    with pytest.raises(ValueError):
        inputs.power(1 - 1e-7, None)


def test_a_chain_with_the_largest_alpha_has_finite_books(tiny_qwen):
    (one,) = sample.power(tiny_qwen, [[5]], alpha=1e30, num_mcmc_steps=2, **SMALL)
    assert np.isfinite(one.log_prob)


def test_every_seed_has_draws_of_its_own_and_the_old_ones_keep_theirs():
    seeds = [-(2**63), -2, -1, 0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    keys = {tuple(draws.chain_keys(seed, ["a"], [0])[0].tolist()) for seed in seeds}
    assert len(keys) == len(seeds)
    known = draws.chain_keys(7, ["a", 3], [0, 1]).tolist()
    assert known == [[3968493238, 909897712], [4260294033, 432275780]]
