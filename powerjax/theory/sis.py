"""Importance sampling: the spread of its weights (Eq. 10), and the law of what it resamples.

A weight W is target/proposal, for one token (Eq. 9) or a whole completion (Eq. 23). Laws are
log-laws: [V] or [..., V] for next tokens, [Y] for completions.
"""

from __future__ import annotations

import numpy as np

from powerjax.theory import laws


def squared_cv(log_target: np.ndarray, log_proposal: np.ndarray) -> np.ndarray:
    """Returns CV^2 = Var[W]/E[W]^2 = sum f^2/q - 1 (Eq. 10, Prop. 2).

    f is the target and q the proposal.

    It is inf where the proposal gives zero to an outcome that the target can draw.
    """
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isneginf(log_target), -np.inf, 2 * log_target - log_proposal)
    with np.errstate(over="ignore"):
        return np.expm1(laws.log_sum_exp(ratio))


def ess_fraction(log_target: np.ndarray, log_proposal: np.ndarray) -> np.ndarray:
    """Returns ESS/N = 1 / (1 + CV^2), the exact limit for many particles."""
    return 1 / (1 + squared_cv(log_target, log_proposal))


def monte_carlo_ess(
    rng: np.random.Generator,
    log_target: np.ndarray,
    log_proposal: np.ndarray,
    num_particles: int,
    num_replicates: int,
) -> np.ndarray:
    """Returns (sum W)^2 / (N sum W^2) over N draws of the proposal, [num_replicates]."""
    if num_particles < 1 or num_replicates < 1:
        raise ValueError("num_particles and num_replicates must be at least 1")
    log_proposal = laws.check_log_law(log_proposal, "the proposal")
    # The draws enter only through their counts, so a replicate costs one multinomial.
    counts = rng.multinomial(num_particles, np.exp(laws.normalise(log_proposal)), num_replicates)
    drawn = np.isfinite(log_proposal)
    log_w = log_target[drawn] - log_proposal[drawn]
    w = np.exp(log_w - log_w.max())
    first, second = counts[:, drawn] @ w, counts[:, drawn] @ np.square(w)
    return np.divide(first**2, num_particles * second, out=np.ones_like(first), where=second > 0)


def ess_error_scale(log_target: np.ndarray, log_proposal: np.ndarray) -> float:
    """Returns sqrt(N) times the standard deviation of Monte-Carlo ESS/N, by the delta method.

    With m2 = E[W^2] and E[W] = 1, one draw moves the fraction by (2 (W - 1) - (W^2/m2 - 1)) / m2,
    over N.
    """
    drawn = np.isfinite(log_proposal)
    log_q = log_proposal[drawn]
    w = np.exp(log_target[drawn] - log_q)
    second = laws.mean(log_q, np.square(w))
    influence = (2 * (w - 1) - (np.square(w) / second - 1)) / second
    return float(np.sqrt(laws.mean(log_q, np.square(influence))))


def resampled_law(
    log_target: np.ndarray, log_proposal: np.ndarray, num_particles: int, nodes: int = 4001
) -> np.ndarray:
    """Returns the log-law [Y] of one completion that is resampled from N weighted particles.

    N = 1 gives the proposal, and N = inf the target. The law is E[w(y)/sum w]

        = int_0^inf N q(y) w(y) exp(-s w(y)) phi(s)^(N-1) ds,    phi(s) = E_q exp(-s w),

    a smooth integral, taken by the trapezoid rule in log s at `nodes` points.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles must be at least 1, got {num_particles}")
    log_law = np.full(log_target.shape, -np.inf)
    drawn = np.isfinite(log_proposal) & np.isfinite(log_target)
    if not drawn.any():
        raise ValueError("the proposal draws nothing that the target can: every weight is zero")
    log_q = log_proposal[drawn]
    log_w = log_target[drawn] - log_q
    mass = np.exp(laws.log_sum_exp(log_q))
    if mass < 1 - laws.SUM_TOLERANCE:
        raise ValueError("the proposal draws completions of weight zero: all N may weigh nothing")
    ends = -log_w.max() - np.log(num_particles) - 40, -log_w.min() + 8
    log_s, step = np.linspace(*ends, nodes, retstep=True)
    exponent = np.exp(log_s[:, None] + log_w[None, :])
    log_phi = laws.log_sum_exp(log_q - exponent)
    integrand = log_s[:, None] - exponent + ((num_particles - 1) * log_phi)[:, None]
    log_integral = laws.log_sum_exp(integrand, axis=0) + np.log(step)
    log_law[drawn] = np.log(num_particles) + log_q + log_w + log_integral
    return laws.normalise(log_law)
