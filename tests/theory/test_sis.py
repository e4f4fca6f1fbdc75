"""Importance weights: exact spread, Monte-Carlo estimates of it, and the law after resampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerjax.theory import laws, sis, zipf
from powerjax.theory import propositions as props
from tests.theory import drawn


@settings(max_examples=40, deadline=None)
@given(drawn.models(zeros=False), st.floats(0.3, 8), st.integers(0, 99))
def test_squared_cv_is_prop2s_variance(model, alpha, seed):
    proposal, target = drawn.policy_like(model, seed), model.powered(alpha)
    variance = props.prop2_moments(model, proposal, alpha)[1].left
    by_table = zip(target.log_p, proposal.log_p, strict=True)
    cv2 = np.concatenate([sis.squared_cv(f, q) for f, q in by_table])
    np.testing.assert_allclose(cv2, variance, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(
        np.concatenate(
            [sis.ess_fraction(f, q) for f, q in zip(target.log_p, proposal.log_p, strict=True)]
        ),
        1 / (1 + variance),
        rtol=1e-10,
    )


def test_limits():
    p, q = laws.log_of([0.5, 0.5, 0.0]), laws.log_of([1.0, 0.0, 0.0])
    assert sis.squared_cv(p, q) == np.inf and sis.ess_fraction(p, q) == 0
    assert sis.squared_cv(q, p) == pytest.approx(1)
    assert sis.squared_cv(p, p) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", ["base", "temperature", "uniform"])
def test_monte_carlo_ess_converges_at_the_rate_of_chance(name):
    """RMS error halves for four times the particles, and is what the delta method says."""
    policies = zipf.proposals(2.0)
    target, log_q = policies["oracle"], policies[name]
    exact = sis.ess_fraction(target, log_q)
    rng, sizes = np.random.default_rng(0), 4 ** np.arange(7, 13)
    errors = []
    for n in sizes:
        seen = sis.monte_carlo_ess(rng, target, log_q, int(n), 1500)
        errors.append(np.sqrt(np.square(seen - exact).mean()))
        assert abs(seen.mean() - exact) < 6 * errors[-1] / np.sqrt(1500) + 20 / n
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.03)
    predicted = sis.ess_error_scale(target, log_q) / np.sqrt(sizes)
    np.testing.assert_allclose(errors, predicted, rtol=0.1)


def test_monte_carlo_ess_is_that_of_particles_drawn_one_by_one():
    policies = zipf.proposals(4.0)
    target, log_q = policies["oracle"], policies["base"]
    rng = np.random.default_rng(0)
    w = np.exp((target - log_q)[laws.draw(rng, log_q, 50 * 4000).reshape(4000, 50)])
    one_by_one = w.sum(1) ** 2 / (50 * np.square(w).sum(1))
    counted = sis.monte_carlo_ess(rng, target, log_q, 50, 4000)
    assert counted.mean() == pytest.approx(one_by_one.mean(), abs=0.01)
    assert counted.std() == pytest.approx(one_by_one.std(), rel=0.08)


def test_oracle_has_no_error():
    target = zipf.proposals(4.0)["oracle"]
    seen = sis.monte_carlo_ess(np.random.default_rng(0), target, target, 10, 20)
    np.testing.assert_allclose(seen, 1, atol=1e-14)


@pytest.mark.parametrize("num_particles", [2, 7, 60])
def test_resampled_law_is_what_resampling_draws(num_particles):
    model = drawn.fixed_models()[0]
    target, log_q = laws.power(model.log_joint(), 3.0), model.tempered(3.0).log_joint()
    law = np.exp(sis.resampled_law(target, log_q, num_particles))
    rng, trials = np.random.default_rng(0), 60_000
    drawn_ = laws.draw(rng, log_q, trials * num_particles).reshape(trials, num_particles)
    w = np.exp((target - log_q)[drawn_])
    share = (w / w.sum(1, keepdims=True)).ravel()
    seen = np.bincount(drawn_.ravel(), share, minlength=len(law)) / trials
    assert np.abs(seen - law).max() < 5 * 0.5 / np.sqrt(trials)


def test_resampled_law_ends():
    model = drawn.fixed_models()[2]
    target, log_q = laws.power(model.log_joint(), 3.0), model.log_joint()
    np.testing.assert_allclose(
        np.exp(sis.resampled_law(target, log_q, 1)), np.exp(log_q), atol=1e-13
    )
    np.testing.assert_allclose(
        np.exp(sis.resampled_law(target, target, 5)), np.exp(target), atol=1e-13
    )
    far = [laws.total_variation(sis.resampled_law(target, log_q, n), target) for n in (100, 1000)]
    assert far[1] == pytest.approx(far[0] / 10, rel=0.2)
    fine = sis.resampled_law(target, log_q, 30, nodes=16_001)
    np.testing.assert_allclose(
        np.exp(fine), np.exp(sis.resampled_law(target, log_q, 30)), atol=1e-13
    )


def test_bad_input():
    p, q = laws.log_of([0.5, 0.5, 0.0]), laws.log_of([0.0, 0.5, 0.5])
    with pytest.raises(ValueError, match="completions of weight zero"):
        sis.resampled_law(p, q, 3)
    with pytest.raises(ValueError, match="num_particles must be at least 1"):
        sis.resampled_law(p, p, 0)
    with pytest.raises(ValueError, match="at least 1"):
        sis.monte_carlo_ess(np.random.default_rng(0), p, p, 0, 1)
    with pytest.raises(ValueError, match="the proposal does not sum to 1"):
        sis.monte_carlo_ess(np.random.default_rng(0), p, q - 1, 5, 1)
