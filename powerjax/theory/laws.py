"""Laws on a finite set, as arrays of log-probabilities in float64: powers, entropies, distances.

The last axis runs over the outcomes, Y of them; leading axes (prompts, prefixes) are batch axes. A
probability of zero is the log-probability -inf and is always legal: every function takes the limit.
"""

from __future__ import annotations

import numpy as np

SUM_TOLERANCE = 1e-9


def check_alpha(alpha: float) -> float:
    """The exponent as a float; anything that is not a positive finite number is refused."""
    alpha = float(alpha)
    if not (np.isfinite(alpha) and alpha > 0):
        raise ValueError(
            f"alpha must be a positive, finite number, got {alpha:g}: pi^alpha has no law otherwise"
        )
    return alpha


def check_log_law(log_law: np.ndarray, name: str = "the law") -> np.ndarray:
    """The log-probabilities in float64; a row that does not sum to 1 is refused by name."""
    log_law = np.asarray(log_law, dtype=np.float64)
    if np.isnan(log_law).any():
        raise ValueError(f"{name} holds NaN; a zero probability is the log-probability -inf")
    sums = np.exp(log_law).sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        row = np.argmax(wrong.reshape(-1))
        raise ValueError(
            f"{name} does not sum to 1: row {row} of {wrong.size} sums to "
            f"{sums.reshape(-1)[row]:.12g}; normalise the probabilities first"
        )
    return log_law


def log_of(probs: np.ndarray) -> np.ndarray:
    """log of an array that may hold zeros (-inf, without a warning)."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, dtype=np.float64))


def log_sum_exp(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """log sum exp; a row of -inf gives -inf."""
    peak = values.max(axis=axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    return log_of(np.exp(values - peak).sum(axis=axis)) + np.squeeze(peak, axis=axis)


def normalise(log_weights: np.ndarray) -> np.ndarray:
    """The law proportional to exp(log_weights)."""
    total = log_sum_exp(log_weights)
    if np.isneginf(total).any():
        raise ValueError("a row of weights is zero everywhere: it cannot be made a law")
    return log_weights - total[..., None]


def mean(log_law: np.ndarray, values: np.ndarray) -> np.ndarray:
    """E[values]; an outcome of probability zero counts nothing, even if its value is infinite."""
    probs = np.exp(log_law)
    return np.sum(probs * np.where(probs > 0, values, 0.0), axis=-1)


def power(log_law: np.ndarray, alpha: float) -> np.ndarray:
    """The power distribution pi^alpha / Z_alpha (Eq. 4; on next tokens it is Eq. 5)."""
    return normalise(check_alpha(alpha) * log_law)


def log_power_sum(log_law: np.ndarray, alpha: float) -> np.ndarray:
    """log Z_alpha = log sum pi^alpha (Eq. 4)."""
    return log_sum_exp(check_alpha(alpha) * log_law)


def renyi_entropy(log_law: np.ndarray, order: float) -> np.ndarray:
    """H_order = log(sum q^order) / (1 - order) in nats, for every order in [0, inf] (Prop. 1).

    Order 1 is the limit, Shannon's entropy, and inf the min-entropy. Near 1 the sum is written
    1 + sum q (q^(order-1) - 1), whose second term has no cancellation.
    """
    order = float(order)
    if np.isnan(order) or order < 0:
        raise ValueError(f"the order of a Renyi entropy must be >= 0, got {order:g}")
    if np.isinf(order):
        return -log_law.max(axis=-1)
    if order == 0:
        return np.log(np.isfinite(log_law).sum(axis=-1))
    if order == 1:
        return -mean(log_law, log_law)
    if abs(order - 1) < 0.05:
        finite = np.where(np.isfinite(log_law), log_law, 0.0)
        return np.log1p(mean(log_law, np.expm1((order - 1) * finite))) / (1 - order)
    return log_sum_exp(order * log_law) / (1 - order)


def modes(log_law: np.ndarray, tolerance: float = 1e-12) -> np.ndarray:
    """Mask of y* = argmax of the self-reward log pi (Eq. 2), a set: ties within rounding belong."""
    return log_law >= log_law.max(axis=-1, keepdims=True) - tolerance


def kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats; inf where q leaves out what p can draw."""
    with np.errstate(invalid="ignore"):
        return mean(log_p, log_p - log_q)


def total_variation(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Half of sum |p - q|."""
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum(axis=-1)


def squared_hellinger(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """H^2 = sum (sqrt p - sqrt q)^2, in [0, 2] (Lemma 1)."""
    return np.square(np.exp(log_p / 2) - np.exp(log_q / 2)).sum(axis=-1)


def draw(rng: np.random.Generator, log_law: np.ndarray, size: int) -> np.ndarray:
    """`size` independent outcomes of one law [Y], never one of probability zero."""
    cdf = np.cumsum(np.exp(log_law))
    uniforms = np.minimum(rng.random(size) * cdf[-1], np.nextafter(cdf[-1], 0))
    return np.searchsorted(cdf, uniforms, side="right")


def draw_rows(rng: np.random.Generator, log_laws: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One outcome for each entry of `rows`, from that row of log_laws [R, Y]."""
    cdf = np.cumsum(np.exp(log_laws), axis=-1)
    total = cdf[rows, -1]
    uniforms = np.minimum(rng.random(rows.shape) * total, np.nextafter(total, 0))
    return (uniforms[:, None] >= cdf[rows]).sum(axis=-1)
