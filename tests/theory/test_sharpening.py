"""Proposition 3 and Lemma 1 by repeated distillation, and Eq. 2, 3."""

import numpy as np
import pytest

from powerjax.theory import TabularModel, checks, laws, sharpening

DELTA, RHO = 0.5, 0.05


def base(prompts: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    models = [TabularModel.random(rng, 3, 3, eos=True, scale=1.5) for _ in range(prompts)]
    return np.stack([model.log_joint() for model in models])


def fits(alpha: float, n: int, seed: int = 0, num_data_sets: int = 300, **kwargs):
    log_p, rng = base(), np.random.default_rng(seed)
    return sharpening.prop3_fits(
        log_p,
        sharpening.policy_class(log_p, alpha, 32, rng),
        alpha,
        n,
        delta=DELTA,
        rho=RHO,
        num_data_sets=num_data_sets,
        rng=rng,
        **kwargs,
    )


def test_constant():
    assert pytest.approx(23.3, abs=0.05) == 2 / sharpening.C0
    fit = fits(4.0, 1000)
    log_m_rho = np.log(32 / RHO)
    assert fit.statistical_term == pytest.approx(2 / sharpening.C0 * log_m_rho / (DELTA * 1000))
    assert fit.hellinger_bound == pytest.approx(2 * log_m_rho / 1000)
    vacuous = 23.3 * log_m_rho / DELTA
    assert fits(4.0, int(0.99 * vacuous)).statistical_term > 1
    assert fits(4.0, int(1.01 * vacuous)).statistical_term < 1


@pytest.mark.parametrize("alpha", [1.5, 4.0, 16.0])
@pytest.mark.parametrize("n", [10, 400, 3000, 30_000])
def test_bounds_hold(alpha, n):
    fit = fits(alpha, n)
    assert fit.failure_rate <= RHO
    assert fit.hellinger_failure_rate <= RHO


def test_most_of_the_launchers_cells_say_something():
    cells = checks.prop3_cells([1.5, 2.0, 4.0])
    telling = [cell for cell in cells if cell.fits.bound < 1]
    assert len(telling) >= 20
    assert max(cell.fits.failure_rate for cell in telling) <= checks.PROP3_RHO


def test_bounds_are_not_empty():
    """With Lemma 1's constant 30 times smaller the data break it: the experiment can fail."""
    fit = fits(4.0, 100)
    assert np.mean(fit.hellinger > fit.hellinger_bound / 30) > RHO


def test_error_vanishes_as_n_and_alpha_grow():
    path = [fits(2.0**k, 10**k, seed=k) for k in range(1, 7)]
    bounds = [fit.bound for fit in path]
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] < 1e-3
    misses = [fit.unsharpened.mean() for fit in path]
    assert misses[0] > 0.05 and misses[-1] == 0
    hellinger = [fit.hellinger.mean() for fit in path]
    assert hellinger[-1] < 1e-4 < hellinger[0]


def test_sharpened():
    log_p = laws.log_of([[0.6, 0.4, 0.0], [0.4, 0.2, 0.4]])
    np.testing.assert_allclose(sharpening.mode_mass(log_p, log_p), [0.6, 0.8])
    assert sharpening.unsharpened(log_p, log_p, 0.3) == 0.5
    assert sharpening.unsharpened(
        log_p, log_p, 0.3, prompt_law=np.array([0.9, 0.1])
    ) == pytest.approx(0.9)
    assert sharpening.is_sharpened(log_p, log_p, eps=0.5, delta=0.3)
    assert not sharpening.is_sharpened(log_p, log_p, eps=0.4, delta=0.3)
    sharp = laws.power(log_p, 50)
    assert sharpening.is_sharpened(sharp, log_p, eps=0, delta=1e-6)


def test_maximum_likelihood_is_the_likeliest():
    log_p, rng = base(2), np.random.default_rng(0)
    policies = sharpening.policy_class(log_p, 3.0, 9, rng)
    log_x = np.log([0.3, 0.7])
    chosen = sharpening.maximum_likelihood(policies, log_x, 8, 50, 20, np.random.default_rng(5))
    joint = np.exp(log_x[:, None] + policies[8]).ravel()
    counts = np.random.default_rng(5).multinomial(50, joint / joint.sum(), size=20)
    by_hand = [max(range(9), key=lambda m: float(count @ policies[m].ravel())) for count in counts]
    assert chosen.tolist() == by_hand


def test_a_policy_that_cannot_have_drawn_the_data_is_never_chosen():
    log_p = laws.log_of([[0.5, 0.25, 0.25]])
    narrow = laws.log_of([[1.0, 0.0, 0.0]])
    policies = np.stack([narrow, laws.power(log_p, 2.0)])
    rng = np.random.default_rng(0)
    chosen = sharpening.maximum_likelihood(policies, np.zeros(1), 1, 200, 50, rng)
    assert (chosen == 1).all()


def test_bad_input():
    log_p, rng = base(2), np.random.default_rng(0)
    policies = sharpening.policy_class(log_p, 4.0, 4, rng)
    good = {"delta": 0.5, "rho": 0.05, "num_data_sets": 1, "rng": rng}
    with pytest.raises(ValueError, match="delta and rho must lie between 0 and 1"):
        sharpening.prop3_fits(log_p, policies, 4.0, 10, **(good | {"delta": 1.0}))
    with pytest.raises(ValueError, match="last policy of the class must be pi_alpha"):
        sharpening.prop3_fits(log_p, policies, 3.0, 10, **good)
    with pytest.raises(ValueError, match="the policy class does not sum to 1"):
        sharpening.prop3_fits(log_p, policies + 0.1, 4.0, 10, **good)
    with pytest.raises(ValueError, match="prompts' law does not sum to 1"):
        sharpening.prop3_fits(log_p, policies, 4.0, 10, prompt_law=np.array([0.5, 0.4]), **good)
    with pytest.raises(ValueError, match="num_samples"):
        sharpening.prop3_fits(log_p, policies, 4.0, 0, **good)
