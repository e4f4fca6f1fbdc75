"""Means over problems and passes, with their standard deviations and 95 % intervals.

One *pass* is one completion of every problem, that is, one (seed, sample_index). Standard
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
    """A mean and how sure it is.

    Attributes:
      std: standard deviation over passes; None for a single pass.
      low, high: the ends of the 95 % interval over problems.
    """

    mean: float
    std: float | None
    low: float
    high: float


class Table:
    """Records laid out as [problem, pass].

    Raises ValueError if there are no records, if one lacks a field that is needed, and if two have
    the same problem, seed and sample.

    Attributes:
      problems: the problems' ids, sorted.
      passes: the (seed, sample_index), sorted.
      cells: (place in problems, place in passes) -> record, where there is one.
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
        problem_at = {name: i for i, name in enumerate(self.problems)}
        pass_at = {name: i for i, name in enumerate(self.passes)}
        self.cells: dict[tuple[int, int], Record] = {}
        for record in records:
            place = (
                problem_at[record["problem_id"]],
                pass_at[record["seed"], record["sample_index"]],
            )
            if place in self.cells:
                raise ValueError(
                    f"{record.get('id')!r} and {self.cells[place].get('id')!r} are of the same"
                    " problem, seed and sample: they belong to different rows"
                )
            self.cells[place] = record

    def of(self, value: Callable[[Record], float | None]) -> np.ndarray:
        """Returns the values of the records, float64 [problem, pass].

        NaN stands where there is no record, or where its value is None.
        """
        values = np.full((len(self.problems), len(self.passes)), np.nan)
        for place, record in self.cells.items():
            number = value(record)
            if number is not None:
                values[place] = number
        return values


class Estimator:
    """Estimates means of [problem, pass] arrays; the bootstrap redraws are the same for all."""

    def __init__(self, num_problems: int, num_resamples: int):
        self._num_resamples = num_resamples
        self._redraw = _redraws(num_problems, num_resamples)

    def __call__(self, cells: np.ndarray) -> Estimate | None:
        """Returns the mean over problems of each problem's mean.

        NaN in `cells` [problem, pass] means "not known": a missing completion leaves its problem
        as important as the others. Returns None where no value is known.
        """
        known = ~np.isnan(cells)
        if not known.any():
            return None
        each = np.nanmean(cells[known.any(axis=1)], axis=1)
        redraw = self._redraw
        if len(each) < redraw.shape[1]:  # some problems have no value: resample the rest only
            redraw = _redraws(len(each), self._num_resamples)
        low, high = np.percentile(each[redraw].mean(axis=1), _PERCENTILES)
        by_pass = np.nanmean(cells[:, known.any(axis=0)], axis=0)
        return Estimate(
            mean=float(each.mean()),
            std=float(by_pass.std(ddof=1)) if len(by_pass) > 1 else None,
            low=float(low),
            high=float(high),
        )

    def known(self, cells: np.ndarray) -> Estimate:
        """Returns what `__call__` does. Raises ValueError where no value is known."""
        estimate = self(cells)
        if estimate is None:
            raise ValueError("there is no value to take the mean of")
        return estimate


def _redraws(count: int, num_resamples: int) -> np.ndarray:
    """Returns places of problems drawn with replacement, int [num_resamples, count]."""
    return np.random.default_rng(0).integers(count, size=(num_resamples, count))


def _mean_by_problem(records: Sequence[Record], value: str) -> dict[str, float]:
    """Returns problem -> mean of a field over those of its records that have it."""
    by_problem: dict[str, list[float]] = {}
    for record in records:
        if record.get(value) is not None:
            by_problem.setdefault(record["problem_id"], []).append(record[value])
    return {name: float(np.mean(values)) for name, values in by_problem.items()}


def paired_difference(
    ours: Sequence[Record],
    theirs: Sequence[Record],
    value: str = "correct",
    *,
    num_resamples: int = 2000,
) -> Estimate:
    """Returns the mean over problems of (ours - theirs), each problem's completions averaged first.

    The interval is a bootstrap over the problems that both have. It is narrower than the intervals
    of the two means, because what makes a problem hard for both cancels.

    Args:
      value: the field of a record that is averaged; records without it are left out.

    Raises ValueError if no problem is in both.
    """
    a, b = _mean_by_problem(ours, value), _mean_by_problem(theirs, value)
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("the two have no problem in common: there is no paired difference")
    each = np.array([a[name] - b[name] for name in shared])
    resampled = each[_redraws(len(shared), num_resamples)].mean(axis=1)
    low, high = np.percentile(resampled, _PERCENTILES)
    return Estimate(float(each.mean()), None, float(low), float(high))


def best(cells: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Returns for each problem its cell at the pass of largest reward, [problem, 1].

    `cells` and `reward` are [problem, pass]. NaN stands where a problem has no known reward.
    """
    chosen = np.argmax(np.where(np.isnan(reward), -np.inf, reward), axis=1)[:, None]
    at_best = np.take_along_axis(cells, chosen, axis=1)
    return np.where(np.isnan(reward).all(axis=1)[:, None], np.nan, at_best)


def best_of_each(cells: np.ndarray, reward: np.ndarray, n: int) -> np.ndarray:
    """Returns the expected cell of Best-of-n for each problem, [problem, 1].

    The expectation is over all choices of n of a problem's N completions, and exact: the i-th best
    of N (counted from 0) is the best one in C(N-1-i, n-1) of the C(N, n) choices. With N = 3 and
    n = 2 the best of all is taken in two choices of three, the second best in one.

    `cells` and `reward` are [problem, pass]. NaN stands for problems of fewer than n completions.
    """
    expected = np.full((len(cells), 1), np.nan)
    for problem, (values, rewards) in enumerate(zip(cells, reward, strict=True)):
        known = np.flatnonzero(~np.isnan(rewards))
        count = len(known)
        if count < n:
            continue
        order = known[np.argsort(-rewards[known], kind="stable")][: count - n + 1]
        num_choices = [math.comb(count - 1 - i, n - 1) for i in range(len(order))]
        expected[problem] = np.dot(num_choices, values[order]) / math.comb(count, n)
    return expected


def pass_at_k(n: int, num_right: int, k: int) -> float:
    """Returns 1 - C(n-c, k) / C(n, k), the unbiased estimate of pass@k from c right of n >= k."""
    return 1.0 - math.comb(n - num_right, k) / math.comb(n, k)


def forward_tokens(record: Record) -> float | None:
    """Returns the tokens fed to the model and to a proposal model for one completion.

    Returns None where the record does not say.
    """
    own = record.get("num_forward_tokens")
    return None if own is None else own + (record.get("num_proposal_forward_tokens") or 0)


def known_mean(cells: np.ndarray) -> float | None:
    """Returns the mean of the values that are not NaN; None where all are."""
    known = ~np.isnan(cells)
    return float(np.nanmean(cells)) if known.any() else None
