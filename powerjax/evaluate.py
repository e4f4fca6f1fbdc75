"""Records to numbers: accuracy, self-reward, Best-of-N, and how sure one may be of them.

One *pass* is one completion of every problem, that is, one (seed, sample_index); tables give mean
and standard deviation over passes, as the paper's do over its four seeds. The intervals answer
another question, how the mean would move with other problems: they are 95 % percentile intervals of
a bootstrap that redraws problems and keeps each problem's completions together.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from powerjax.records import Record


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, its standard deviation over passes (None for one pass), and its 95 % interval."""

    mean: float
    std: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a set of records shows. Accuracies are None where no answer is known."""

    num_problems: int
    num_passes: int
    accuracy: Estimate | None
    self_reward: Estimate
    best_of_n_accuracy: Estimate | None
    best_of_n_self_reward: Estimate
    acceptance_rate: float | None
    forward_tokens: float  # a completion
    num_tokens: float  # a completion, EOS counted
    finished: float  # the share that ended in EOS


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of a table: what one sampler did on one model."""

    model: str
    sampler: str
    records: Sequence[Record]
    summary: Summary


def summarize(records: Sequence[Record], *, num_resamples: int = 2000) -> Summary:
    """The figures of one sampler on one task; `records` may lack some completions."""
    if not records:
        raise ValueError("there are no records to summarize")
    # Sorted, so that the order in which chains finished moves no bootstrap interval.
    problems = {name: i for i, name in enumerate(sorted({r["problem_id"] for r in records}))}
    passes = sorted({(r["seed"], r["sample_index"]) for r in records})
    column = {name: i for i, name in enumerate(passes)}

    def table(value: Callable[[Record], float | None]) -> np.ndarray:
        """[problem, pass], NaN where there is no record or no value."""
        cells = np.full((len(problems), len(passes)), np.nan)
        for record in records:
            found = value(record)
            if found is not None:
                at = problems[record["problem_id"]], column[record["seed"], record["sample_index"]]
                cells[at] = found
        return cells

    self_reward = table(lambda r: r["self_reward"])
    correct = table(lambda r: r.get("correct"))
    chosen = np.nanargmax(self_reward, axis=1)[:, None]  # Best-of-N: the largest self-reward
    graded = not np.isnan(correct).all()
    acceptance = table(lambda r: r.get("acceptance_rate"))
    redraw = np.random.default_rng(0).integers(len(problems), size=(num_resamples, len(problems)))
    best_correct = np.take_along_axis(correct, chosen, axis=1)
    best_reward = np.take_along_axis(self_reward, chosen, axis=1)
    return Summary(
        num_problems=len(problems),
        num_passes=len(passes),
        accuracy=_estimate(correct, redraw) if graded else None,
        self_reward=_estimate(self_reward, redraw),
        best_of_n_accuracy=_estimate(best_correct, redraw) if graded else None,
        best_of_n_self_reward=_estimate(best_reward, redraw),
        acceptance_rate=None if np.isnan(acceptance).all() else float(np.nanmean(acceptance)),
        forward_tokens=float(np.nanmean(table(lambda r: r.get("num_forward_tokens")))),
        num_tokens=float(np.nanmean(table(lambda r: r["num_tokens"]))),
        finished=float(np.nanmean(table(lambda r: r["finish_reason"] == "eos"))),
    )


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
    redraw = np.random.default_rng(0).integers(len(shared), size=(num_resamples, len(shared)))
    low, high = np.percentile(each[redraw].mean(axis=1), [2.5, 97.5])
    return Estimate(float(each.mean()), None, float(low), float(high))


def _estimate(cells: np.ndarray, redraw: np.ndarray) -> Estimate:
    """Mean over problems of each problem's mean, so that a missing completion shifts nothing."""
    known = ~np.isnan(cells).all(axis=1)
    each = np.nanmean(cells[known], axis=1)
    resampled = each[redraw % len(each)].mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    by_pass = np.nanmean(cells, axis=0)
    return Estimate(
        mean=float(each.mean()),
        std=float(by_pass.std(ddof=1)) if len(by_pass) > 1 else None,
        low=float(low),
        high=float(high),
    )
