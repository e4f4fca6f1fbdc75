"""Laws on a finite set as log-probabilities in float64: powers, entropies, distances, draws.

A law is a probability distribution. Here are the power distribution of Eq. 4 and 5 (`power`), the
modes of Eq. 2 (`modes`), the Renyi entropy of Prop. 1 and the Hellinger distance of Lemma 1.

The last axis runs over the outcomes, Y of them; leading axes (prompts, prefixes) are batch axes. A
probability of zero is the log-probability -inf and always legal: every function takes the limit.
"""

from __future__ import annotations

import numpy as np

SUM_TOLERANCE = 1e-9


def check_alpha(alpha: float) -> float:
    """Returns alpha as a float. Raises ValueError unless it is positive and finite."""
    alpha = float(alpha)
    if not (np.isfinite(alpha) and alpha > 0):
        raise ValueError(
            f"alpha must be a positive, finite number, got {alpha:g}: pi^alpha has no law otherwise"
        )
    return alpha


def check_log_law(log_law: np.ndarray, name: str = "the law") -> np.ndarray:
    """Returns the log-probabilities [..., Y] in float64.

    Raises ValueError, beginning with `name`, for NaN and where a law does not sum to 1.
    """
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
    """Returns the logarithms of probabilities, -inf for zeros, without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, dtype=np.float64))


def log_sum_exp(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns log sum exp along an axis; -inf where all values are -inf."""
    peak = values.max(axis=axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    return log_of(np.exp(values - peak).sum(axis=axis)) + np.squeeze(peak, axis=axis)


def normalise(log_mass: np.ndarray) -> np.ndarray:
    """Returns the log-law proportional to exp(log_mass). Raises ValueError if the mass is 0."""
    total = log_sum_exp(log_mass)
    if np.isneginf(total).any():
        raise ValueError("the mass is zero everywhere: it cannot be made a law")
    return log_mass - total[..., None]


def mean(log_law: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns E[values]. An outcome of probability zero adds 0, even if its value is infinite."""
    probs = np.exp(log_law)
    return np.sum(probs * np.where(probs > 0, values, 0.0), axis=-1)


def power(log_law: np.ndarray, alpha: float) -> np.ndarray:
    """Returns pi^alpha / Z_alpha: Eq. 4 for a law of completions, Eq. 5 for one of next tokens."""
    return normalise(check_alpha(alpha) * log_law)


def log_power_sum(log_law: np.ndarray, alpha: float) -> np.ndarray:
    """Returns log Z_alpha = log sum pi^alpha, the normaliser of Eq. 4."""
    return log_sum_exp(check_alpha(alpha) * log_law)


def renyi_entropy(log_law: np.ndarray, order: float) -> np.ndarray:
    """Returns H_order = log(sum q^order) / (1 - order) in nats, the entropy of Prop. 1.

    Every order in [0, inf] is legal: 1 gives the limit, Shannon's entropy, and inf the min-entropy.
    Near 1 the sum is written 1 + sum q (q^(order-1) - 1), whose second term has no cancellation.
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
    """Returns the mask of the modes y* = argmax log pi (Eq. 2), all those within `tolerance`."""
    return log_law >= log_law.max(axis=-1, keepdims=True) - tolerance


def kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Returns KL(p || q) in nats; inf where q gives zero to an outcome that p can draw."""
    with np.errstate(invalid="ignore"):
        return mean(log_p, log_p - log_q)


def total_variation(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Returns sum |p - q| / 2, in [0, 1]."""
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum(axis=-1)


def squared_hellinger(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Returns H^2 = sum (sqrt p - sqrt q)^2, in [0, 2] (Lemma 1)."""
    return np.square(np.exp(log_p / 2) - np.exp(log_q / 2)).sum(axis=-1)


def draw(rng: np.random.Generator, log_law: np.ndarray, size: int) -> np.ndarray:
    """Draws `size` outcomes of one law [Y], int [size], never one of probability zero."""
    cdf = np.cumsum(np.exp(log_law))
    uniforms = np.minimum(rng.random(size) * cdf[-1], np.nextafter(cdf[-1], 0))
    return np.searchsorted(cdf, uniforms, side="right")


def draw_rows(rng: np.random.Generator, log_laws: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Draws one outcome from row rows[k] of log_laws [R, Y] for each k; returns int [k]."""
    cdf = np.cumsum(np.exp(log_laws), axis=-1)
    total = cdf[rows, -1]
    uniforms = np.minimum(rng.random(rows.shape) * total, np.nextafter(total, 0))
    return (uniforms[:, None] >= cdf[rows]).sum(axis=-1)
