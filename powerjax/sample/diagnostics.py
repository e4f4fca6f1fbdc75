"""What weights and chains say about themselves: ESS, Pareto k-hat, R-hat.

ArviZ computes k-hat, R-hat and the effective sample size of chains (Vehtari et al. 2021, 2024).
"""

import numpy as np

_LEAST_TAIL = 5  # distinct weights in the tail, below which no Pareto distribution is fitted
LEAST_CHAINS, LEAST_MOVES = 16, 100  # below these numbers R-hat says little
RHAT_THRESHOLD, KHAT_THRESHOLD = 1.05, 0.7


def ess_fraction(log_weights: np.ndarray) -> float:
    """(sum w)^2 / (n sum w^2) of n log-weights: 1 where all are equal, 1/n at the least."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (len(w) * np.square(w).sum()))


def k_hat(log_weights: np.ndarray) -> float | None:
    """The shape of the Pareto distribution that fits the largest of n weights (PSIS).

    The tail has the min(n/5, 3 sqrt(n)) largest weights, less those that equal the largest weight
    outside it: short completions repeat, and a fit to many equal weights has no meaning. None where
    fewer than five weights of the tail are distinct.
    """
    n, ordered = len(log_weights), np.sort(log_weights)
    size = int(min(n / 5, 3 * np.sqrt(n)))
    tail = ordered[ordered > ordered[-size - 1]] if size else ordered[:0]
    if len(np.unique(tail)) < _LEAST_TAIL:
        return None
    from arviz_stats.base import array_stats  # takes a second to import

    # psislw takes log-likelihoods, which are the negative log-weights of leave-one-out. It makes a
    # tail of floor(3 sqrt(n / r_eff)) weights, and so r_eff sets the tail's size.
    r_eff = 9 * n / (len(tail) + 0.5) ** 2
    value = float(array_stats.psislw(-np.asarray(log_weights, np.float64), r_eff)[1])
    return value if np.isfinite(value) else None


def rhat(chains: np.ndarray) -> float | None:
    """Split R-hat of chains [C, N], rank-normalised; 1 where all numbers are equal.

    None for fewer than 16 chains or 100 moves.
    """
    if not _are_enough(chains):
        return None
    if np.ptp(chains) == 0:
        return 1.0
    from arviz_stats.base import array_stats

    return float(array_stats.rhat(np.asarray(chains, np.float64)))


def bulk_ess(chains: np.ndarray) -> float | None:
    """The bulk effective sample size of chains [C, N]. None as for `rhat`."""
    if not _are_enough(chains):
        return None
    if np.ptp(chains) == 0:
        return float(chains.size)
    from arviz_stats.base import array_stats

    return float(array_stats.ess(np.asarray(chains, np.float64), method="bulk"))


def _are_enough(chains: np.ndarray) -> bool:
    return chains.shape[0] >= LEAST_CHAINS and chains.shape[1] >= LEAST_MOVES
