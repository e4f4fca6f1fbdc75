"""What weights and chains say about themselves: ESS, Pareto k-hat, R-hat.

ArviZ computes k-hat, R-hat and the effective sample size of chains (Vehtari et al. 2021, 2024).
"""

from collections.abc import Sequence

import numpy as np

_LEAST_TAIL = 5  # distinct weights in the tail, below which no Pareto distribution is fitted
LEAST_CHAINS, LEAST_MOVES = 16, 100  # below these numbers R-hat says little
RHAT_THRESHOLD, KHAT_THRESHOLD = 1.05, 0.7
_TIE = 1e-4  # nats; two programs give one completion values of log p that are nearer in float32


def ess_fraction(log_weights: np.ndarray) -> float:
    """(sum w)^2 / (n sum w^2) of n log-weights: 1 where all are equal, 1/n at the least."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (len(w) * np.square(w).sum()))


def k_hat(log_weights: np.ndarray) -> float | None:
    """The shape of the Pareto distribution that fits the largest of n weights (PSIS).

    The tail has the min(n/5, 3 sqrt(n)) largest weights, less those that equal the largest weight
    outside it: short completions repeat, and a fit to many equal weights has no meaning. None where
    fewer than five weights of the tail are distinct, by more than rounding (`tied`).
    """
    n, ordered = len(log_weights), np.sort(log_weights)
    size = int(min(n / 5, 3 * np.sqrt(n)))
    tail = ordered[ordered > ordered[-size - 1]] if size else ordered[:0]
    if len(np.unique(tied(tail))) < _LEAST_TAIL:
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

    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never move: R-hat is inf
        return float(array_stats.rhat(np.asarray(chains, np.float64)))


def bulk_ess(chains: np.ndarray) -> float | None:
    """The bulk effective sample size of chains [C, N]. None as for `rhat`."""
    if not _are_enough(chains):
        return None
    if np.ptp(chains) == 0:
        return float(chains.size)
    from arviz_stats.base import array_stats

    with np.errstate(divide="ignore", invalid="ignore"):
        return float(array_stats.ess(np.asarray(chains, np.float64), method="bulk"))


def tied(values: np.ndarray) -> np.ndarray:
    """Numbers (log p or log-weights), those that differ by rounding alone made equal: within 1e-4.

    A completion that was scored in two batches has two values of log p. Where many chains stand on
    it, the ranks inside R-hat would tell the chains apart by these values. Of sorted numbers, those
    whose neighbours are within 1e-4 are a run, and numbers of a run that is wider are made equal in
    cells of 1e-4.
    """
    distinct, places = np.unique(np.asarray(values, np.float64), return_inverse=True)
    is_first = np.append(True, np.diff(distinct) > _TIE)[: len(distinct)]
    first = distinct[is_first][np.cumsum(is_first) - 1]
    cells = first + np.floor((distinct - first) / _TIE) * _TIE
    return cells[places].reshape(np.shape(values))


def common_stage(num_moves: Sequence[int], moves_per_stage: int) -> slice:
    """The moves of the last stage that all of several chains reached, as a slice of their moves.

    The law that a chain tends to differs from stage to stage, so statistics of mixing are those of
    one stage.

    Args:
      num_moves: how many moves each chain made, one or more of them.
      moves_per_stage: of the sampler, `num_mcmc_steps`.

    Raises ValueError where there is a chain that ended within a stage.
    """
    broken = [n for n in num_moves if n < moves_per_stage or n % moves_per_stage]
    if broken:
        raise ValueError(f"a chain has {broken[0]} moves, and a stage {moves_per_stage}")
    stop = min(num_moves)
    return slice(stop - moves_per_stage, stop)


def _are_enough(chains: np.ndarray) -> bool:
    return chains.shape[0] >= LEAST_CHAINS and chains.shape[1] >= LEAST_MOVES
