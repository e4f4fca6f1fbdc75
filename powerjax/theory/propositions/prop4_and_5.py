"""Propositions 4 and 5, Corollary 1 and the two KLs: Eq. 11 to 16, 18 and 19.

Every function that is named for a proposition or an equation returns its two sides (`Sides`).
Log-laws and rewards are [..., Y]: the last axis holds completions, the leading ones prompts. q is a
policy, beta the factor of the KL in J_beta, r_self the sum log-likelihood log pi (Eq. 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.theory import laws
from powerjax.theory.exact import TabularModel
from powerjax.theory.propositions.sides import Sides


def _support(log_law: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns a log-law [Y] and values on it without the completions of probability zero."""
    alive = np.isfinite(log_law)
    return (log_law[alive], *(np.broadcast_to(value, log_law.shape)[alive] for value in values))


@jax.jit
@jax.grad
def _reward_slope(exponent: jax.Array, log_p: jax.Array, reward: jax.Array) -> jax.Array:
    return jnp.vdot(jax.nn.softmax(exponent * log_p), reward)


def expected_reward_gradient(log_p: np.ndarray, reward: np.ndarray, alpha: float) -> float:
    """Returns d/d alpha of R(alpha) = E_{pi_alpha}[reward], by jax.grad in float64.

    log_p and reward are [Y]. This is the left side of Eq. 18.
    """
    alpha = laws.check_alpha(alpha)
    log_p, reward = _support(log_p, reward)
    with jax.enable_x64(True):
        return float(_reward_slope(jnp.float64(alpha), jnp.asarray(log_p), jnp.asarray(reward)))


def prop4_derivative(log_p: np.ndarray, reward: np.ndarray, alpha: float) -> Sides:
    """Returns both sides of Proposition 4 (Eq. 18): dR/d alpha and Cov_{pi_alpha}(reward, r_self).

    The left is by jax.grad. log_p and the reward, which is arbitrary, are [Y]; r_self is log_p.
    """
    left = expected_reward_gradient(log_p, reward, alpha)
    log_p, reward = _support(log_p, reward)
    log_target = laws.power(log_p, alpha)
    centred = log_p - laws.mean(log_target, log_p)
    right = laws.mean(log_target, centred * (reward - laws.mean(log_target, reward)))
    return Sides(np.array(left), np.array(right))


def prop4_affine(log_p: np.ndarray, slope: float, offset: float, alpha: float) -> Sides:
    """Returns both sides of Eq. 19: dR/d alpha for an affine reward, and slope * Var(r_self).

    The reward is slope * r_self + offset. The variance is under pi_alpha, so the right is >= 0.
    """
    left = expected_reward_gradient(log_p, slope * log_p + offset, alpha)
    (log_p,) = _support(log_p)
    log_target = laws.power(log_p, alpha)
    variance = laws.mean(log_target, np.square(log_p - laws.mean(log_target, log_p)))
    return Sides(np.array(left), np.array(slope * variance))


def regularised_objective(
    log_q: np.ndarray, log_p: np.ndarray, reward: np.ndarray, beta: float
) -> np.ndarray:
    """Returns J_beta(q) of Eq. 11 for each prompt: E_{y~q} r - beta KL(q || pi).

    It is -inf where q can draw a completion that pi cannot.
    """
    cost = _check_beta(beta) * laws.kl(log_q, log_p)
    return np.where(np.isposinf(cost), -np.inf, laws.mean(log_q, reward) - cost)


def regularised_optimum(
    log_p: np.ndarray, reward: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-law pi*_beta = pi exp(r/beta) / Z_r of Eq. 12, and log Z_r."""
    log_mass = log_p + np.asarray(reward) / _check_beta(beta)
    return laws.normalise(log_mass), laws.log_sum_exp(log_mass)


def prop5_objective(log_q: np.ndarray, log_p: np.ndarray, reward: np.ndarray, beta: float) -> Sides:
    """Returns both sides of Prop. 5: J_beta(q) (Eq. 11), and beta log Z_r - beta KL(q || pi*_beta).

    They are equal for any q and r. So pi*_beta (Eq. 12) is the unique maximiser of J_beta: the KL
    is zero there and nowhere else.
    """
    log_star, log_z = regularised_optimum(log_p, reward, beta)
    left = regularised_objective(log_q, log_p, reward, beta)
    return Sides(left, beta * log_z - beta * laws.kl(log_q, log_star))


def cor1_optimum(log_p: np.ndarray, beta: float) -> Sides:
    """Returns both sides of Corollary 1 (Eq. 13): pi*_beta for r = r_self, and pi_(1 + 1/beta).

    Cells: probabilities of completions.
    """
    left = regularised_optimum(log_p, log_p, beta)[0]
    return Sides(np.exp(left), np.exp(laws.power(log_p, 1 + 1 / beta)))


def eq14_reverse_kl(log_q: np.ndarray, log_p: np.ndarray, beta: float) -> Sides:
    """Returns both sides of Eq. 14: J_beta(q), and beta log Z_alpha - beta KL(q || pi_alpha).

    The reward of J_beta is r_self, and alpha = 1 + 1/beta.
    """
    alpha = 1 + 1 / _check_beta(beta)
    left = regularised_objective(log_q, log_p, np.where(np.isfinite(log_p), log_p, 0), beta)
    log_target = laws.power(log_p, alpha)
    return Sides(left, beta * (laws.log_power_sum(log_p, alpha) - laws.kl(log_q, log_target)))


def eq15_forward_kl(log_q: np.ndarray, log_p: np.ndarray, alpha: float) -> Sides:
    """Returns both sides of Eq. 15: KL(pi_alpha || q), and E_{pi_alpha}[-log q] - H(pi_alpha).

    The expectation is the negative log-likelihood that Eq. 16 minimises. It differs from the KL by
    a constant in q, so its minimum is at q = pi_alpha too.
    """
    log_target = laws.power(log_p, alpha)
    nll = -laws.mean(log_target, log_q)
    return Sides(laws.kl(log_target, log_q), nll - laws.renyi_entropy(log_target, 1))


@jax.jit
@jax.grad
def _nll_slope(logits: list[jax.Array], masses: list[jax.Array]) -> jax.Array:
    likelihood = jnp.zeros(())
    for table, mass in zip(logits, masses, strict=True):
        likelihood += jnp.sum(mass * jax.nn.log_softmax(table))
    return -likelihood


def eq16_stationary(model: TabularModel, alpha: float, policy: TabularModel | None = None) -> Sides:
    """Returns the gradient of Eq. 16's loss E_{pi_alpha}[-log q] in the logits of q, and 0.

    The gradient is by jax.grad at q = pi_alpha, where it vanishes, or at `policy` if that is given.
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
