"""Every identity on models that hypothesis draws; and a wrong version of each, which must show."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerjax.theory import TabularModel, laws
from powerjax.theory import propositions as props
from powerjax.theory.propositions import Sides
from tests.theory import drawn

TOLERANCE = 1e-10
WRONG = 1e-3
"""A wrong formula must be at least so far off on every fixed model."""

exactly = settings(max_examples=60, deadline=None)
traced = settings(max_examples=12, deadline=None)


def holds(sides) -> None:
    """Both sides agree; NaN never does, and an infinity only with itself."""
    assert sides.deviation <= TOLERANCE


class TestIdentities:
    @exactly
    @given(drawn.models(), drawn.ALPHAS)
    def test_eq6_eq8(self, model, alpha):
        holds(props.next_token_conditionals(model, alpha))
        totals = props.prefix_totals(model, alpha)
        assert totals.deviation <= TOLERANCE
        assert (np.isneginf(totals.left) == np.isneginf(totals.right)).all()

    @exactly
    @given(drawn.models(), drawn.ALPHAS)
    def test_prop1(self, model, alpha):
        pairs = props.prop1_log_odds(model, alpha)
        holds(pairs)
        if all(np.isfinite(table).all() for table in model.log_p):
            each = model.vocab_size * (model.vocab_size - 1) // 2
            assert len(pairs.left) == each * sum(len(table) for table in model.log_p)

    @exactly
    @given(drawn.models(), drawn.ALPHAS, st.integers(0, 99))
    def test_prop2(self, model, alpha, seed):
        for proposal in (drawn.policy_like(model, seed), model, model.tempered(alpha)):
            mean, variance = props.prop2_moments(model, proposal, alpha)
            holds(mean)
            holds(variance)
            holds(props.prop2_product(model, proposal, alpha))
        holds(props.prop2_minimiser(model, alpha))
        for weights in props.log_incremental_weights(model, model.powered(alpha), alpha):
            reached = np.isfinite(weights)
            np.testing.assert_allclose(weights[reached], 0, atol=TOLERANCE)

    @exactly
    @given(drawn.models(), drawn.ALPHAS, st.integers(0, 99))
    def test_prop2_in_the_limit_where_the_proposal_leaves_tokens_out(self, model, alpha, seed):
        proposal = drawn.policy_like(model, seed, zeros=0.5)
        mean, variance = props.prop2_moments(model, proposal, alpha)
        holds(mean)
        assert not np.isnan(variance.left).any() and variance.deviation <= TOLERANCE
        holds(props.prop2_product(model, proposal, alpha))

    @traced
    @given(drawn.models(), drawn.ALPHAS, st.integers(0, 99), st.floats(0.1, 3), st.floats(-2, 2))
    def test_prop4(self, model, alpha, seed, slope, offset):
        log_p = model.log_joint()
        reward = np.random.default_rng(seed).standard_normal(log_p.shape)
        holds(props.prop4_derivative(log_p, reward, alpha))
        affine = props.prop4_affine(log_p, slope, offset, alpha)
        holds(affine)
        assert affine.left >= -TOLERANCE

    @exactly
    @given(drawn.models(), st.floats(0.1, 5), st.integers(0, 99))
    def test_prop5_cor1_eq14(self, model, beta, seed):
        log_p = model.log_joint()
        log_q = drawn.policy_like(model, seed).log_joint()
        reward = np.random.default_rng(seed).standard_normal(log_p.shape)
        log_star, log_z = props.regularised_optimum(log_p, reward, beta)
        for q in (log_q, log_p, log_star):
            sides = props.prop5_objective(q, log_p, reward, beta)
            assert sides.deviation <= TOLERANCE and not np.isnan(sides.left)
            assert sides.left <= beta * log_z + TOLERANCE
            assert props.eq14_reverse_kl(q, log_p, beta).deviation <= TOLERANCE
        holds(props.cor1_optimum(log_p, beta))

    @exactly
    @given(drawn.models(), drawn.ALPHAS, st.integers(0, 99))
    def test_eq15(self, model, alpha, seed):
        log_p = model.log_joint()
        holds(props.eq15_forward_kl(drawn.policy_like(model, seed).log_joint(), log_p, alpha))
        at_target = props.eq15_forward_kl(laws.power(log_p, alpha), log_p, alpha)
        holds(at_target)
        assert abs(at_target.left) <= TOLERANCE

    @traced
    @given(drawn.models(), drawn.ALPHAS)
    def test_eq16(self, model, alpha):
        holds(props.eq16_stationary(model, alpha))


def test_prompts_are_a_batch_axis():
    """Prop. 5 and Eq. 14, 15 take [X, Y] and give one value for each prompt x."""
    rng = np.random.default_rng(0)
    prompts = [TabularModel.random(rng, 3, 3, eos=True) for _ in range(4)]
    log_p = np.stack([model.log_joint() for model in prompts])
    log_q = np.stack([drawn.policy_like(model, 1).log_joint() for model in prompts])
    reward = rng.standard_normal(log_p.shape)
    for sides in (
        props.prop5_objective(log_q, log_p, reward, 0.4),
        props.eq14_reverse_kl(log_q, log_p, 0.4),
        props.eq15_forward_kl(log_q, log_p, 3.0),
    ):
        assert sides.left.shape == (4,)
        holds(sides)


def test_prop2_minimiser_beats_every_random_proposal():
    """3,000 proposals, near q* and far: none has a smaller variance, at any prefix."""
    rng = np.random.default_rng(0)
    for model in drawn.fixed_models()[:2]:
        best = props.prop2_minimiser(model, 4.0)
        oracle = model.powered(4.0)
        smallest = np.inf
        for scale in np.geomspace(1e-2, 3, 1500):
            tables = [t + scale * rng.standard_normal(t.shape) for t in oracle.log_p]
            proposal = TabularModel.from_logits(tables, model.eos)
            variance = props.prop2_moments(model, proposal, 4.0)[1].left
            assert (variance > best.left).all()
            smallest = min(smallest, variance.min())
        assert 0 < smallest < 1e-3


def test_prop4_reward_rises_with_alpha_in_the_affine_case():
    for model in drawn.fixed_models():
        log_p = model.log_joint()
        alphas = np.geomspace(0.1, 20, 60)
        rewards = [laws.mean(laws.power(log_p, a), 2 * log_p + 1) for a in alphas]
        assert (np.diff(rewards) >= 0).all()


def test_eq16_no_random_policy_has_a_smaller_nll():
    for model in drawn.fixed_models():
        target = laws.power(model.log_joint(), 3.0)
        best = -laws.mean(target, model.powered(3.0).log_joint())
        for seed in range(200):
            nll = -laws.mean(target, drawn.policy_like(model, seed).log_joint())
            assert nll > best


def _shannon(model):
    """Prop. 1 with Shannon's entropy in the place of Renyi's, at the first token."""
    pairs = props.prop1_log_odds(model, 3.0, depth=0)
    entropy = np.zeros(model.vocab_size)
    entropy[: model.num_live] = laws.renyi_entropy(model.suffix_log_laws(1), 1)
    return Sides(pairs.left, -2 * (entropy[pairs.i] - entropy[pairs.j]))


def _other_exponent(function, *args):
    """The left side at alpha = 3 with the right side at 3.1."""
    return lambda model: Sides(function(model, *args, 3.0).left, function(model, *args, 3.1).right)


def _laws(model):
    """(log q, log p, reward, beta) on the completions that have positive probability."""
    log_p = model.log_joint()
    log_q = laws.normalise(
        drawn.policy_like(model).log_joint() + np.where(np.isneginf(log_p), log_p, 0)
    )
    return log_q, log_p, np.random.default_rng(1).standard_normal(log_p.shape), 0.5


def _mean_under_another_proposal(model):
    proposal, other = drawn.policy_like(model, 1), drawn.policy_like(model, 2)
    weights = props.log_incremental_weights(model, proposal, 3.0)[0]
    return Sides(laws.mean(other.log_p[0], np.exp(weights)), np.ones(1))


def _variance_without_minus_one(model):
    variance = props.prop2_moments(model, drawn.policy_like(model), 3.0)[1]
    return Sides(variance.left, variance.right + 1)


def _minimiser_is_temperature(model):
    variance = props.prop2_moments(model, model.tempered(3.0), 3.0)[1].left
    return Sides(variance, np.zeros_like(variance))


def _product_without_the_last(model):
    proposal = drawn.policy_like(model)
    weights = list(props.log_incremental_weights(model, proposal, 3.0))
    weights[-1] = np.zeros_like(weights[-1])
    from powerjax.theory.enumeration import sum_along

    left = sum_along(weights, model.eos)[0]
    right = laws.power(model.log_joint(), 3.0) - proposal.log_joint()
    possible = np.isfinite(right)
    return Sides(left[possible], right[possible])


def _covariance_with_the_mean_log_likelihood(model):
    _, log_p, reward, _ = _laws(model)
    per_token = np.where(np.isfinite(log_p), log_p, 0) / model.completions()[1]
    target = laws.power(log_p, 3.0)
    gap = reward - laws.mean(target, reward)
    left = props.prop4_derivative(log_p, reward, 3.0).left
    return Sides(left, laws.mean(target, gap * per_token))


def _covariance_under_the_base(model):
    _, log_p, reward, _ = _laws(model)
    gap = reward - laws.mean(log_p, reward)
    left = props.prop4_derivative(log_p, reward, 3.0).left
    return Sides(left, laws.mean(log_p, gap * np.where(np.isfinite(log_p), log_p, 0)))


def _affine_without_its_slope(model):
    log_p = model.log_joint()
    return Sides(
        props.prop4_affine(log_p, 2.0, 1.0, 2.0).left,
        props.prop4_affine(log_p, 1.0, 1.0, 2.0).right,
    )


def _objective_with_the_kl_turned_round(model):
    log_q, log_p, reward, beta = _laws(model)
    log_star, log_z = props.regularised_optimum(log_p, reward, beta)
    left = props.prop5_objective(log_q, log_p, reward, beta).left
    return Sides(left, beta * log_z - beta * laws.kl(log_star, log_q))


def _objective_without_log_z(model):
    sides = props.prop5_objective(*_laws(model))
    _, log_p, reward, beta = _laws(model)
    return Sides(sides.left, sides.right - beta * props.regularised_optimum(log_p, reward, beta)[1])


def _corollary_without_the_one(model):
    log_p = model.log_joint()
    return Sides(props.cor1_optimum(log_p, 0.5).left, np.exp(laws.power(log_p, 1 / 0.5)))


def _eq14_with_z_not_scaled(model):
    log_q, log_p, _, beta = _laws(model)
    sides = props.eq14_reverse_kl(log_q, log_p, beta)
    return Sides(sides.left, sides.right + (1 - beta) * laws.log_power_sum(log_p, 1 + 1 / beta))


def _eq15_with_a_collision_entropy(model):
    log_q, log_p, _, _ = _laws(model)
    target = laws.power(log_p, 3.0)
    left = props.eq15_forward_kl(log_q, log_p, 3.0).left
    return Sides(left, -laws.mean(target, log_q) - laws.renyi_entropy(target, 2))


PERTURBED = {
    "Eq. 6: the temperature law's conditionals": lambda m: Sides(
        np.exp(m.powered(3.0).log_p[0]), np.exp(m.tempered(3.0).log_p[0])
    ),
    "Eq. 6: another exponent": _other_exponent(props.next_token_conditionals),
    "Eq. 8: another exponent": lambda m: Sides(
        np.nan_to_num(props.prefix_totals(m, 3.0).left, neginf=0),
        np.nan_to_num(props.prefix_totals(m, 3.1).right, neginf=0),
    ),
    "Prop. 1: the sign": lambda m: Sides(
        props.prop1_log_odds(m, 3.0).left, -props.prop1_log_odds(m, 3.0).right
    ),
    "Prop. 1: another exponent": _other_exponent(props.prop1_log_odds),
    "Prop. 1: Shannon's entropy": _shannon,
    "Prop. 2: the mean under another proposal": _mean_under_another_proposal,
    "Prop. 2: the variance without the -1": _variance_without_minus_one,
    "Prop. 2: temperature as the minimiser": _minimiser_is_temperature,
    "Eq. 23: the last weight left out": _product_without_the_last,
    "Prop. 4: the mean log-likelihood": _covariance_with_the_mean_log_likelihood,
    "Prop. 4: the covariance under the base": _covariance_under_the_base,
    "Eq. 19: without the slope": _affine_without_its_slope,
    "Prop. 5: the KL turned round": _objective_with_the_kl_turned_round,
    "Prop. 5: without log Z": _objective_without_log_z,
    "Cor. 1: alpha = 1/beta": _corollary_without_the_one,
    "Eq. 14: log Z not scaled by beta": _eq14_with_z_not_scaled,
    "Eq. 15: the collision entropy": _eq15_with_a_collision_entropy,
    "Eq. 16: the gradient at the temperature law": lambda m: props.eq16_stationary(
        m, 3.0, m.tempered(3.0)
    ),
}


@pytest.mark.parametrize("name", PERTURBED)
def test_a_wrong_formula_is_caught(name):
    for model in drawn.fixed_models():
        assert PERTURBED[name](model).deviation > WRONG


def test_deviation_counts_nan_and_infinities():
    assert Sides(np.array([np.nan]), np.array([np.nan])).deviation == np.inf
    assert Sides(np.array([-np.inf]), np.array([-np.inf])).deviation == 0
    assert Sides(np.array([-np.inf]), np.array([0.0])).deviation == np.inf
    assert Sides(np.array([200.0]), np.array([100.0])).deviation == 0.5


def test_bad_input():
    model = drawn.fixed_models()[0]
    log_p = model.log_joint()
    with pytest.raises(ValueError, match="pairs to compare, the limit"):
        wide = TabularModel.random(np.random.default_rng(0), 1000, 2)
        props.prop1_log_odds(wide, 2.0)
    for beta in (0, -1, np.inf):
        with pytest.raises(ValueError, match="beta must be a positive, finite number"):
            props.cor1_optimum(log_p, beta)
    with pytest.raises(ValueError, match="alpha must be"):
        props.prop4_derivative(log_p, log_p, 0.0)
    with pytest.raises(ValueError, match="alpha must be"):
        props.prop1_log_odds(model, -2.0)


def test_x64_stays_local():
    model = drawn.fixed_models()[0]
    props.prop4_derivative(model.log_joint(), model.log_joint(), 2.0)
    props.eq16_stationary(model, 2.0)
    assert jnp.ones(1).dtype == jnp.float32
