"""Means over problems and passes, and how sure one may be of them.

One *pass* is one completion of every problem, that is, one (seed, sample_index); standard
deviations are over passes, as the paper's are over its four seeds. Intervals are 95 % percentile
intervals of a bootstrap that redraws problems and keeps each problem's completions together.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from powerjax.records import Record, fields

_NEEDED = ("problem_id", "seed", "sample_index", "self_reward", "num_tokens", "finish_reason")
_PERCENTILES = (2.5, 97.5)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, its standard deviation over passes (None for one pass), and its 95 % interval."""

    mean: float
    std: float | None
    low: float
    high: float


class Table:
    """Records laid out as [problem, pass].

    Raises a ValueError of one line where there are none, for a record without a field that is
    needed, and for two of the same problem, seed and sample.
    """

    def __init__(self, records: Sequence[Record]):
        if not records:
            raise ValueError("there are no records to summarize")
        for record in records:
            missing = [name for name in _NEEDED if record.get(name) is None]
            if missing:
                raise ValueError(
                    f"the record {record.get('id')!r} has no {missing[0]}: is it of a sampler of"
                    " this project?"
                )
            fields.check(record, f"the record {record.get('id')!r}")
        # Sorted, so that the order in which chains finished moves no bootstrap interval.
        self.problems = sorted({r["problem_id"] for r in records}, key=str)
        self.passes = sorted({(r["seed"], r["sample_index"]) for r in records})
        row = {name: i for i, name in enumerate(self.problems)}
        column = {name: i for i, name in enumerate(self.passes)}
        self.cells: dict[tuple[int, int], Record] = {}
        for record in records:
            at = row[record["problem_id"]], column[record["seed"], record["sample_index"]]
            if at in self.cells:
                raise ValueError(
                    f"{record.get('id')!r} and {self.cells[at].get('id')!r} are of the same"
                    " problem, seed and sample: they belong to different rows"
                )
            self.cells[at] = record

    def of(self, value: Callable[[Record], float | None]) -> np.ndarray:
        """float64 [problem, pass], NaN where there is no record or no value."""
        cells = np.full((len(self.problems), len(self.passes)), np.nan)
        for at, record in self.cells.items():
            found = value(record)
            if found is not None:
                cells[at] = found
        return cells


class Estimator:
    """Means over problems of [problem, pass] tables, all with the same redraws of the problems."""

    def __init__(self, num_problems: int, num_resamples: int):
        self._num_resamples = num_resamples
        self._redraw = _redraws(num_problems, num_resamples)

    def __call__(self, cells: np.ndarray) -> Estimate | None:
        """Mean over problems of each problem's mean, so that a missing completion shifts nothing.

        NaN is "not known"; None where nothing is.
        """
        known = ~np.isnan(cells)
        if not known.any():
            return None
        each = np.nanmean(cells[known.any(axis=1)], axis=1)
        redraw = self._redraw
        if len(each) < redraw.shape[1]:  # the others have nothing to redraw
            redraw = _redraws(len(each), self._num_resamples)
        low, high = np.percentile(each[redraw].mean(axis=1), _PERCENTILES)
        by_pass = np.nanmean(cells[:, known.any(axis=0)], axis=0)
        return Estimate(
            mean=float(each.mean()),
            std=float(by_pass.std(ddof=1)) if len(by_pass) > 1 else None,
            low=float(low),
            high=float(high),
        )


def _redraws(count: int, num_resamples: int) -> np.ndarray:
    """int [num_resamples, count], each row a draw of `count` problems with replacement."""
    return np.random.default_rng(0).integers(count, size=(num_resamples, count))


def paired_difference(
    ours: Sequence[Record],
    theirs: Sequence[Record],
    value: str = "correct",
    *,
    num_resamples: int = 2000,
) -> Estimate:
    """The mean over problems of (ours - theirs), each problem's completions averaged first.

    Both are of the same problems, so the interval, a bootstrap over them, is narrower than the two
    rows' own. Raises ValueError where they share no problem.
    """

    def by_problem(records: Sequence[Record]) -> dict[str, float]:
        found = {}
        for record in records:
            if record.get(value) is not None:
                found.setdefault(record["problem_id"], []).append(record[value])
        return {name: float(np.mean(values)) for name, values in found.items()}

    a, b = by_problem(ours), by_problem(theirs)
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("the two have no problem in common: there is no paired difference")
    each = np.array([a[name] - b[name] for name in shared])
    resampled = each[_redraws(len(shared), num_resamples)].mean(axis=1)
    low, high = np.percentile(resampled, _PERCENTILES)
    return Estimate(float(each.mean()), None, float(low), float(high))


def best(cells: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """[problem, 1]: cells[problem, pass] at the largest reward; NaN where no reward is known."""
    chosen = np.argmax(np.where(np.isnan(reward), -np.inf, reward), axis=1)[:, None]
    found = np.take_along_axis(cells, chosen, axis=1)
    return np.where(np.isnan(reward).all(axis=1)[:, None], np.nan, found)


def best_of_each(cells: np.ndarray, reward: np.ndarray, n: int) -> np.ndarray:
    """[problem, 1]: the mean, over all choices of n of a problem's completions, of the best's cell.

    It is exact: the i-th best of N (from 0) is the best of C(N-1-i, n-1) of the C(N, n) choices.
    NaN for problems with fewer than n completions.
    """
    found = np.full((len(cells), 1), np.nan)
    for row, (values, rewards) in enumerate(zip(cells, reward, strict=True)):
        there = np.flatnonzero(~np.isnan(rewards))
        count = len(there)
        if count < n:
            continue
        order = there[np.argsort(-rewards[there], kind="stable")][: count - n + 1]
        weights = [math.comb(count - 1 - i, n - 1) for i in range(len(order))]
        found[row] = np.dot(weights, values[order]) / math.comb(count, n)
    return found


def pass_at_k(n: int, num_right: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the unbiased estimate of pass@k from c right of n, k <= n."""
    return 1.0 - math.comb(n - num_right, k) / math.comb(n, k)
