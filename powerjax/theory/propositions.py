"""Propositions 1, 2, 4, 5 and Corollary 1, each as a function that returns its two sides.

Put in a model, a proposal or a reward of your own; `.deviation` is how far the sides are apart.
Log-laws and rewards are [..., Y], the last axis the completions, the leading ones prompts.
Proposition 3 and Lemma 1 are in `sharpening`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.theory import laws
from powerjax.theory.exact import TabularModel, sum_along

MAX_PAIRS = 2**25


class Sides(NamedTuple):
    """The two sides of an identity, cell by cell."""

    left: np.ndarray
    right: np.ndarray

    @property
    def deviation(self) -> float:
        """Largest |left - right| / max(1, |left|, |right|), so absolute below 1; NaN is inf."""
        left, right = np.broadcast_arrays(self.left, self.right)
        with np.errstate(invalid="ignore"):
            gap = np.abs(left - right) / np.maximum(1, np.maximum(np.abs(left), np.abs(right)))
        gap = np.where(left == right, 0.0, np.where(np.isnan(gap), np.inf, gap))
        return float(gap.max(initial=0.0))


class PairSides(NamedTuple):
    """Two sides for every unordered pair (i, j) of tokens after every prefix of `depth` tokens."""

    left: np.ndarray
    right: np.ndarray
    depth: np.ndarray
    prefix: np.ndarray
    i: np.ndarray
    j: np.ndarray

    @property
    def deviation(self) -> float:
        return Sides(self.left, self.right).deviation


def next_token_conditionals(model: TabularModel, alpha: float) -> Sides:
    """Eq. 6: pi_alpha's conditionals from Eq. 4's law, summed, and from p^alpha times power sums.

    Cells: every (prefix, token) whose prefix has positive probability, as probabilities.
    """
    summed = model.sum_by_prefix(laws.power(model.log_joint(), alpha))
    left, right = [], []
    for mass, table in zip(summed[1:], model.powered(alpha).log_p, strict=True):
        total = laws.log_sum_exp(mass)
        reached = np.isfinite(total)
        left.append(np.exp(mass[reached] - total[reached, None]).ravel())
        right.append(np.exp(table[reached]).ravel())
    return Sides(np.concatenate(left), np.concatenate(right))


def prefix_totals(model: TabularModel, alpha: float) -> Sides:
    """Eq. 8: log g_t for every prefix, by summing pi^alpha over completions and by recursion."""
    summed = model.sum_by_prefix(laws.check_alpha(alpha) * model.log_joint())
    recursed = model.log_prefix_totals(alpha)
    return Sides(*(np.concatenate([x.ravel() for x in side]) for side in (summed, recursed)))


def prop1_log_odds(model: TabularModel, alpha: float, depth: int | None = None) -> PairSides:
    """Proposition 1, Eq. 7, in logs: how power corrects the odds that temperature gives.

    Left: log odds of i against j under pi_alpha, whose conditionals are summed from Eq. 4's law,
    minus those under Eq. 5. Right: (1 - alpha)(H_alpha(q_i) - H_alpha(q_j)), q the suffix laws.
    Cells: every pair i < j of tokens of positive probability after every reached prefix, at one
    depth or at all.
    """
    depths = range(model.length) if depth is None else [depth]
    first, second = np.triu_indices(model.vocab_size, 1)
    count = sum(model.num_live**t for t in depths) * len(first)
    if count > MAX_PAIRS:
        raise ValueError(
            f"{count:,} pairs to compare, the limit is {MAX_PAIRS:,}: give a depth, or a model "
            f"with fewer tokens or prefixes"
        )
    summed = model.sum_by_prefix(laws.power(model.log_joint(), alpha))
    cells = []
    for t in depths:
        temperature = model.tempered(alpha).log_p[t]
        entropy = np.zeros(temperature.shape)
        if t + 1 < model.length:
            after = laws.renyi_entropy(model.suffix_log_laws(t + 1), alpha)
            entropy[:, : model.num_live] = after.reshape(len(entropy), -1)
        alive = np.isfinite(summed[t + 1])
        power = np.where(alive, summed[t + 1], 0.0) - np.where(alive, temperature, 0.0)
        left = power[:, first] - power[:, second]
        right = (1 - alpha) * (entropy[:, first] - entropy[:, second])
        rows, pairs = np.nonzero(alive[:, first] & alive[:, second])
        cells.append(
            (
                left[rows, pairs],
                right[rows, pairs],
                np.full(len(rows), t),
                rows,
                first[pairs],
                second[pairs],
            )
        )
    return PairSides(*(np.concatenate(column) for column in zip(*cells, strict=True)))


def log_incremental_weights(
    model: TabularModel, proposal: TabularModel, alpha: float
) -> tuple[np.ndarray, ...]:
    """log W_t of Eq. 9 for every (prefix, token), [A^t, V] for each t, from Eq. 8's g_t.

    W_t = g_t / (g_(t-1) q). A token that neither can draw has W = 0; one that pi_alpha draws and
    the proposal cannot has W = inf. After a prefix that pi cannot reach W_t is left at 0.
    """
    totals = model.log_prefix_totals(alpha)
    weights, before = [], totals[0].reshape(-1)
    for now, log_q in zip(totals[1:], proposal.log_p, strict=True):
        with np.errstate(invalid="ignore"):
            log_w = now - before[:, None] - log_q
        weights.append(np.where(np.isneginf(now), -np.inf, log_w))
        before = model.live(now)
    return tuple(weights)


def prop2_moments(model: TabularModel, proposal: TabularModel, alpha: float) -> tuple[Sides, Sides]:
    """Proposition 2, for each reached prefix: (E[W_t], 1) and (Var[W_t], sum f^2/q - 1).

    f = g_t/g_(t-1) is pi_alpha's conditional by Eq. 6. Both hold in the limit where the proposal
    leaves out a token that pi_alpha draws: the mean stays 1 and the variance is infinite.
    """
    weights = log_incremental_weights(model, proposal, alpha)
    target = model.powered(alpha)
    means, variances, formulas = [], [], []
    for log_w, log_q, log_f in zip(weights, proposal.log_p, target.log_p, strict=True):
        reached = np.isfinite(log_w).any(axis=1) | np.isposinf(log_w).any(axis=1)
        w, q, f = (np.exp(x[reached]) for x in (log_w, log_q, log_f))
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.where(np.isinf(w), f, q * w).sum(axis=1))
            spread = np.where(np.isinf(w), np.inf, q * np.square(w - 1))
            variances.append(spread.sum(axis=1))
            formulas.append(np.where(f > 0, f * np.exp((log_f - log_q)[reached]), 0).sum(axis=1))
    mean = np.concatenate(means)
    return (
        Sides(mean, np.ones_like(mean)),
        Sides(np.concatenate(variances), np.concatenate(formulas) - 1),
    )


def prop2_minimiser(model: TabularModel, alpha: float) -> Sides:
    """Proposition 2, Eq. 10: at q* = g_t/g_(t-1) Var[W_t] is 0, its least value, at each prefix."""
    variance = prop2_moments(model, model.powered(alpha), alpha)[1].left
    return Sides(variance, np.zeros_like(variance))


def prop2_product(model: TabularModel, proposal: TabularModel, alpha: float) -> Sides:
    """Eq. 23: sum of log W_t along each completion, and its log importance weight pi_alpha/q.

    Cells: the completions that the proposal can draw.
    """
    weights = log_incremental_weights(model, proposal, alpha)
    log_q = proposal.log_joint()
    drawn = np.isfinite(log_q)
    weights = tuple(np.where(np.isposinf(log_w), 0.0, log_w) for log_w in weights)
    left = sum_along(weights, model.eos)[0]
    return Sides(left[drawn], laws.power(model.log_joint(), alpha)[drawn] - log_q[drawn])


def _support(log_law: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """One law and values on it without the completions of probability zero."""
    alive = np.isfinite(log_law)
    return (log_law[alive], *(np.broadcast_to(value, log_law.shape)[alive] for value in values))


@jax.jit
@jax.grad
def _reward_slope(exponent: jax.Array, log_p: jax.Array, reward: jax.Array) -> jax.Array:
    return jnp.vdot(jax.nn.softmax(exponent * log_p), reward)


def expected_reward_gradient(log_p: np.ndarray, reward: np.ndarray, alpha: float) -> float:
    """d/d alpha of R(alpha) = E_{pi_alpha}[reward] by jax.grad in float64, for one law [Y]."""
    alpha = laws.check_alpha(alpha)
    log_p, reward = _support(log_p, reward)
    with jax.enable_x64(True):
        return float(_reward_slope(jnp.float64(alpha), jnp.asarray(log_p), jnp.asarray(reward)))


def prop4_derivative(log_p: np.ndarray, reward: np.ndarray, alpha: float) -> Sides:
    """Proposition 4, Eq. 18: dR/d alpha by jax.grad, and Cov_{pi_alpha}(reward, r_self).

    log_p and reward are [Y], any reward; r_self is the sum log-likelihood.
    """
    left = expected_reward_gradient(log_p, reward, alpha)
    log_p, reward = _support(log_p, reward)
    log_target = laws.power(log_p, alpha)
    centred = log_p - laws.mean(log_target, log_p)
    right = laws.mean(log_target, centred * (reward - laws.mean(log_target, reward)))
    return Sides(np.array(left), np.array(right))


def prop4_affine(log_p: np.ndarray, slope: float, offset: float, alpha: float) -> Sides:
    """Eq. 19: for reward = slope * r_self + offset, dR/d alpha = slope * Var(r_self) >= 0."""
    left = expected_reward_gradient(log_p, slope * log_p + offset, alpha)
    (log_p,) = _support(log_p)
    log_target = laws.power(log_p, alpha)
    variance = laws.mean(log_target, np.square(log_p - laws.mean(log_target, log_p)))
    return Sides(np.array(left), np.array(slope * variance))


def regularised_objective(
    log_q: np.ndarray, log_p: np.ndarray, reward: np.ndarray, beta: float
) -> np.ndarray:
    """Eq. 11 for each prompt: E_{y~q} r - beta KL(q || pi). -inf where q draws what pi cannot."""
    cost = _check_beta(beta) * laws.kl(log_q, log_p)
    return np.where(np.isposinf(cost), -np.inf, laws.mean(log_q, reward) - cost)


def regularised_optimum(
    log_p: np.ndarray, reward: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 12: pi*_beta = pi exp(r/beta) / Z_r as a log-law, and log Z_r."""
    log_weights = log_p + np.asarray(reward) / _check_beta(beta)
    return laws.normalise(log_weights), laws.log_sum_exp(log_weights)


def prop5_objective(log_q: np.ndarray, log_p: np.ndarray, reward: np.ndarray, beta: float) -> Sides:
    """Proposition 5: J_beta(q) (Eq. 11) = -beta KL(q || pi*_beta) + beta log Z_r, for any q and r.

    So pi*_beta is the unique maximiser: the KL is zero there and nowhere else.
    """
    log_star, log_z = regularised_optimum(log_p, reward, beta)
    left = regularised_objective(log_q, log_p, reward, beta)
    return Sides(left, beta * log_z - beta * laws.kl(log_q, log_star))


def cor1_optimum(log_p: np.ndarray, beta: float) -> Sides:
    """Corollary 1, Eq. 13: with r = r_self, pi*_beta is pi_alpha at alpha = 1 + 1/beta."""
    left = regularised_optimum(log_p, log_p, beta)[0]
    return Sides(np.exp(left), np.exp(laws.power(log_p, 1 + 1 / beta)))


def eq14_reverse_kl(log_q: np.ndarray, log_p: np.ndarray, beta: float) -> Sides:
    """Eq. 14, r = r_self: J_beta(q) = -beta KL(q || pi_alpha) + beta log Z_alpha."""
    alpha = 1 + 1 / _check_beta(beta)
    left = regularised_objective(log_q, log_p, np.where(np.isfinite(log_p), log_p, 0), beta)
    log_target = laws.power(log_p, alpha)
    return Sides(left, beta * (laws.log_power_sum(log_p, alpha) - laws.kl(log_q, log_target)))


def eq15_forward_kl(log_q: np.ndarray, log_p: np.ndarray, alpha: float) -> Sides:
    """Eq. 15, 16: KL(pi_alpha || q) = E_{pi_alpha}[-log q] - H(pi_alpha), the constant named.

    As the KL is zero at q = pi_alpha alone, so is the NLL's minimum.
    """
    log_target = laws.power(log_p, alpha)
    nll = -laws.mean(log_target, log_q)
    return Sides(laws.kl(log_target, log_q), nll - laws.renyi_entropy(log_target, 1))


@jax.jit
@jax.grad
def _nll_slope(logits: list[jax.Array], masses: list[jax.Array]) -> jax.Array:
    terms = zip(logits, masses, strict=True)
    return -sum(jnp.sum(mass * jax.nn.log_softmax(table)) for table, mass in terms)


def eq16_stationary(model: TabularModel, alpha: float, policy: TabularModel | None = None) -> Sides:
    """Eq. 16: the gradient of E_{pi_alpha}[-log q] in the logits of q, by jax.grad, against 0.

    Taken at q = pi_alpha's conditionals, or at a `policy` of your own, where it is not zero.
    """
    policy = policy or model.powered(alpha)
    masses = model.sum_by_prefix(laws.power(model.log_joint(), alpha))[1:]
    with jax.enable_x64(True):
        # A token of probability zero has logit -inf; -1e3 leaves its mass at zero in float64 too.
        logits = [jnp.asarray(np.maximum(table, -1e3)) for table in policy.log_p]
        slopes = _nll_slope(logits, [jnp.asarray(np.exp(mass)) for mass in masses])
    left = np.concatenate([np.asarray(slope).ravel() for slope in slopes])
    return Sides(left, np.zeros_like(left))


def _check_beta(beta: float) -> float:
    beta = float(beta)
    if not (np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be a positive, finite number, got {beta:g}")
    return beta
