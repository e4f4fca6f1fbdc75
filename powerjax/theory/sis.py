"""Sequential importance sampling: the exact spread of its weights, and the exact law it draws from.

One-step proposals are log-laws [V] (or [..., V]); whole completions are log-laws [Y].
"""

from __future__ import annotations

import numpy as np

from powerjax.theory import laws


def squared_cv(log_target: np.ndarray, log_proposal: np.ndarray) -> np.ndarray:
    """CV^2 of W = target/proposal, Var[W]/E[W]^2 = sum f^2/q - 1 (Prop. 2), exact.

    inf where the proposal leaves out what the target draws.
    """
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isneginf(log_target), -np.inf, 2 * log_target - log_proposal)
    with np.errstate(over="ignore"):
        return np.expm1(laws.log_sum_exp(ratio))


def ess_fraction(log_target: np.ndarray, log_proposal: np.ndarray) -> np.ndarray:
    """ESS/N = 1 / (1 + CV^2) in the limit of many particles, exact."""
    return 1 / (1 + squared_cv(log_target, log_proposal))


def monte_carlo_ess(
    rng: np.random.Generator,
    log_target: np.ndarray,
    log_proposal: np.ndarray,
    num_particles: int,
    num_replicates: int,
) -> np.ndarray:
    """(sum W)^2 / (N sum W^2) from N draws of one proposal, for each replicate."""
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
    """sqrt(N) times the standard deviation of Monte-Carlo ESS/N, by the delta method.

    With m2 = E[W^2] and E[W] = 1 the fraction's deviation is (2 (W - 1) - (W^2/m2 - 1)) / m2.
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
    """The exact law [Y] of one completion drawn from N weighted particles, as a log-law.

    E[w(y)/sum w] = int_0^inf N q(y) w(y) exp(-s w(y)) phi(s)^(N-1) ds with phi(s) = E_q exp(-s w):
    one smooth integral, by the trapezoid rule in log s. N = 1 is the proposal, N = inf the target.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles must be at least 1, got {num_particles}")
    out = np.full(log_target.shape, -np.inf)
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
    out[drawn] = np.log(num_particles) + log_q + log_w + log_integral
    return laws.normalise(out)
