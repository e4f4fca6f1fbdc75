"""Records to numbers: accuracy, self-reward, Best-of-N, majority vote, pass@k, lengths and cost.

One *pass* is one completion of every problem, that is, one (seed, sample_index); tables give mean
and standard deviation over passes. The intervals answer another question, how the mean would move
with other problems. How both are made: `estimates`.
"""

import dataclasses
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from powerjax.evaluation.estimates import (
    Estimate,
    Estimator,
    Table,
    best,
    best_of_each,
    paired_difference,
    pass_at_k,
)
from powerjax.records import Record, identity, sampler_label
from powerjax.tasks import answers

__all__ = [
    "Estimate",
    "Priced",
    "Result",
    "Summary",
    "best_of",
    "paired_difference",
    "rows",
    "summarize",
    "within",
]

NAMES = {
    "standard": "Standard",
    "temperature": "Temperature",
    "power": "Power",
    "power_inf": "Power(inf)",
}
_MAX_VOTE_CHARS = 200  # longer answers vote as they stand


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a set of records shows. Accuracies are None where no answer is known.

    Attributes:
      best_of_n_accuracy, best_of_n_self_reward: of each problem's completion of largest
        self-reward, among all passes.
      majority_accuracy: of the answer most completions of a problem give (ties: the mean over the
        tied); None where answers cannot be compared, as programs.
      pass_at: k -> pass@k (Chen et al. 2021, unbiased), over problems with k completions or more.
      evaluated_self_reward, evaluated_best_of_n_accuracy: self-reward under the model of
        `grading.rescore`, and the accuracy of Best-of-N by it; None where records hold none.
      acceptance_rate: mean over chains of the share of moves accepted; None without moves.
      forward_tokens: fed to the model by decoding, a completion; None where records do not say.
      num_tokens: of a completion, EOS counted; length_quantiles: 5, 50 and 95 % of it.
      finished: the share that ended in EOS.
    """

    num_problems: int
    num_passes: int
    accuracy: Estimate | None
    self_reward: Estimate
    best_of_n_accuracy: Estimate | None
    best_of_n_self_reward: Estimate
    majority_accuracy: Estimate | None
    pass_at: dict[int, Estimate]
    evaluated_self_reward: Estimate | None
    evaluated_best_of_n_accuracy: Estimate | None
    acceptance_rate: float | None
    forward_tokens: float | None
    num_tokens: float
    length_quantiles: tuple[float, float, float]
    finished: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of a table: what one sampler did on one model.

    stages: (moves, accepted moves) of the sampler's stages, one after the other; () where that is
        not known, for a record holds one rate of its whole chain.
    """

    model: str
    sampler: str
    records: Sequence[Record]
    summary: Summary
    stages: Sequence[tuple[int, int]] = ()


@dataclasses.dataclass(frozen=True)
class Priced:
    """Best-of-n by self-reward: what it gives, and its price (None where it is not known)."""

    n: int
    forward_tokens: float | None
    accuracy: Estimate | None
    self_reward: Estimate


def summarize(
    records: Sequence[Record], *, pass_at: Sequence[int] | None = None, num_resamples: int = 2000
) -> Summary:
    """The figures of one sampler on one task; `records` may lack some completions.

    pass_at: for which k; by default the powers of two up to the fewest completions of a problem.

    Raises as `estimates.Table` does.
    """
    table = Table(records)
    estimate = Estimator(len(table.problems), num_resamples)
    self_reward = table.of(lambda r: r["self_reward"])
    correct = table.of(lambda r: r.get("correct"))
    evaluated = table.of(lambda r: r.get("evaluated_self_reward"))
    lengths = table.of(lambda r: r["num_tokens"])
    counts = (~np.isnan(correct)).sum(axis=1)
    pass_at = _powers_of_two(counts) if pass_at is None else pass_at
    return Summary(
        num_problems=len(table.problems),
        num_passes=len(table.passes),
        accuracy=estimate(correct),
        self_reward=estimate(self_reward),
        best_of_n_accuracy=estimate(best(correct, self_reward)),
        best_of_n_self_reward=estimate(best(self_reward, self_reward)),
        majority_accuracy=estimate(_majority(table)),
        pass_at={k: estimate(_pass_at(k, correct)) for k in pass_at if k <= counts.max()},
        evaluated_self_reward=estimate(evaluated),
        evaluated_best_of_n_accuracy=estimate(best(correct, evaluated)),
        acceptance_rate=_mean(table.of(lambda r: r.get("acceptance_rate"))),
        forward_tokens=_mean(table.of(lambda r: r.get("num_forward_tokens"))),
        num_tokens=_mean(lengths),
        length_quantiles=tuple(np.nanpercentile(lengths, [5, 50, 95]).tolist()),
        finished=_mean(table.of(lambda r: r["finish_reason"] == "eos")),
    )


def best_of(records: Sequence[Record], *, num_resamples: int = 2000) -> list[Priced]:
    """Best-of-n by self-reward for n = 1, 2, ... up to the number of passes.

    Each is the mean over all choices of n of a problem's completions, see `estimates.best_of_each`.
    """
    table = Table(records)
    estimate = Estimator(len(table.problems), num_resamples)
    self_reward = table.of(lambda r: r["self_reward"])
    correct = table.of(lambda r: r.get("correct"))
    forward = _mean(table.of(lambda r: r.get("num_forward_tokens")))
    most = int((~np.isnan(self_reward)).sum(axis=1).max())
    return [
        Priced(
            n=n,
            forward_tokens=None if forward is None else n * forward,
            accuracy=estimate(best_of_each(correct, self_reward, n)),
            self_reward=estimate(best_of_each(self_reward, self_reward, n)),
        )
        for n in range(1, most + 1)
    ]


def within(priced: Sequence[Priced], forward_tokens: float) -> Priced | None:
    """The largest of a row's `best_of` for at most so many forward tokens an answer.

    None where one completion costs more, or where its price is not known.
    """
    # A row's own price is within itself, whatever the last bit says.
    limit = forward_tokens * (1 + 1e-9)
    found = [p for p in priced if p.forward_tokens is not None and p.forward_tokens <= limit]
    return found[-1] if found else None


def rows(records: Sequence[Record], *, pass_at: Sequence[int] | None = None) -> list[Result]:
    """One Result for each model and sampler among the records, in their order.

    A sampler's name is that in the record's id; samplers of one name and different laws
    (`identity.LAW`) are rows of their own, named by what differs (`Power, N=30`, `Power, top_k
    20`). A setting that a record does not state differs from every value. Seeds of one row are its
    passes.
    """
    groups = defaultdict(list)
    for record in records:
        law = identity.stated(record)
        groups[str(record.get("model")), _sampler(record), tuple(law.items())].append(record)
    names = {}
    for row in dict.fromkeys((model, sampler) for model, sampler, _ in groups):
        same = [key for key in groups if key[:2] == row]
        for key, label in zip(same, identity.labels([dict(key[2]) for key in same]), strict=True):
            names[key] = ", ".join(filter(None, [row[1], label]))
    return [
        Result(key[0], names[key], members, summarize(members, pass_at=pass_at))
        for key, members in groups.items()
    ]


def vote_of(answer: str) -> str:
    """The form in which an answer votes: the normal forms of `answers`, without spaces."""
    if len(answer) > _MAX_VOTE_CHARS:
        return answer.strip()
    return answers.simplified(answers.literal(answer)).replace(" ", "")


def _sampler(record: Record) -> str:
    """The sampler's name, or the row's, as a table has it."""
    name = sampler_label(record)
    return NAMES.get(name, name.replace("_", " ").capitalize())


def _majority(table: Table) -> np.ndarray:
    """[problem, 1]: how right the most frequent answer is; NaN where answers do not vote."""
    found = np.full((len(table.problems), 1), np.nan)
    votes: list[dict[str, list[float]]] = [defaultdict(list) for _ in table.problems]
    for (row, _), record in table.cells.items():
        if "isolation" in (record.get("grade_detail") or {}):
            continue  # a program: two that do the same are seldom written the same
        if record.get("correct") is None:
            continue
        found[row] = 0.0  # where no completion has an answer
        if record.get("extracted_answer") is not None:
            votes[row][vote_of(record["extracted_answer"])].append(float(record["correct"]))
    for row, cast in enumerate(votes):
        most = max(map(len, cast.values()), default=0)
        if most:
            found[row] = np.mean([np.mean(same) for same in cast.values() if len(same) == most])
    return found


def _powers_of_two(counts: np.ndarray) -> list[int]:
    fewest = int(counts[counts > 0].min(initial=counts.max()))
    return [1 << i for i in range(fewest.bit_length())] if fewest else []


def _pass_at(k: int, correct: np.ndarray) -> np.ndarray:
    """[problem, 1], NaN where fewer than k completions are graded."""
    counts, num_right = (~np.isnan(correct)).sum(axis=1), np.nansum(correct, axis=1)
    each = [
        pass_at_k(int(n), int(c), k) if n >= k else math.nan
        for n, c in zip(counts, num_right, strict=True)
    ]
    return np.array(each)[:, None]


def _mean(cells: np.ndarray) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean
        found = float(np.nanmean(cells))
    return None if math.isnan(found) else found
