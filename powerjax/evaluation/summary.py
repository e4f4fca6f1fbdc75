"""Records to numbers: accuracy, self-reward, Best-of-N, majority vote, pass@k, lengths and cost.

A row of the tables is one sampler on one model (`Result`). One *pass* is one completion of every
problem, that is, one (seed, sample_index). A mean's standard deviation is over passes; its interval
says how it would move with other problems. `estimates` computes both.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from powerjax.evaluation import diagnostics
from powerjax.evaluation.estimates import (
    Estimate,
    Estimator,
    Table,
    best,
    forward_tokens,
    known_mean,
    pass_at_k,
)
from powerjax.evaluation.nearness import Nearness
from powerjax.records import Record, identity, sampler_label
from powerjax.tasks import answers

# Sampler -> its name in tables. One that is not here, such as a table row's slug, is capitalized.
NAMES = {
    "standard": "Standard",
    "temperature": "Temperature",
    "power": "Power",
    "power_inf": "Power(inf)",
}
_MAX_VOTE_CHARS = 200  # longer answers vote as they stand


@dataclasses.dataclass(frozen=True)
class Summary:
    """The numbers of a set of records. Accuracies are None where no verdict is known.

    Attributes:
      accuracy: the share of right completions.
      self_reward: mean log-likelihood per token under the model (nats, EOS counted).
      best_of_n_accuracy, best_of_n_self_reward: the same of one completion per problem, that of
        largest self-reward among all passes.
      majority_accuracy: accuracy of the answer that most completions of a problem give. Where
        answers tie, it is the mean over them. None where answers cannot be compared (programs).
      pass_at: k -> pass@k (Chen et al. 2021, unbiased), over problems with k completions or more.
      evaluated_self_reward: self-reward under the model given to `rescoring.rescore`; None where
        records hold none.
      evaluated_best_of_n_accuracy: accuracy of Best-of-N by that self-reward; None likewise.
      acceptance_rate: mean over chains of the share of moves accepted; None without moves.
      forward_tokens: tokens fed to the model by decoding, per completion, and to a proposal model
        where there is one; None where records do not say.
      proposal_forward_tokens: how many of them were fed to the proposal model; None without one.
      num_tokens: tokens per completion, EOS counted.
      length_quantiles: the 5, 50 and 95 % quantiles of tokens per completion.
      finished: the share of completions that ended in EOS.
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
    proposal_forward_tokens: float | None
    num_tokens: float
    length_quantiles: tuple[float, float, float]
    finished: float


@dataclasses.dataclass(frozen=True)
class Result:
    """The records of one row of a table, one sampler on one model, and their numbers.

    Attributes:
      stages: (moves, accepted moves) of each stage of the sampler. () where it is not known: a
        record holds only the rate of its whole chain.
      mixing: what the chains' traces say; None where no record is traced.
      nearness: what the weights against pi^alpha say; None where they are not known.
    """

    model: str
    sampler: str
    records: Sequence[Record]
    summary: Summary
    stages: Sequence[tuple[int, int]] = ()
    mixing: diagnostics.Mixing | None = None
    nearness: Nearness | None = None


def summarize(
    records: Sequence[Record], *, pass_at: Sequence[int] | None = None, num_resamples: int = 2000
) -> Summary:
    """Returns the numbers of one sampler on one task; `records` may lack some completions.

    Args:
      pass_at: the k of pass@k. None means the powers of two up to the fewest graded completions
        that a problem has.

    Raises ValueError as `estimates.Table` does.
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
        self_reward=estimate.known(self_reward),
        best_of_n_accuracy=estimate(best(correct, self_reward)),
        best_of_n_self_reward=estimate.known(best(self_reward, self_reward)),
        majority_accuracy=estimate(_majority(table)),
        pass_at={k: estimate.known(_pass_at(k, correct)) for k in pass_at if k <= counts.max()},
        evaluated_self_reward=estimate(evaluated),
        evaluated_best_of_n_accuracy=estimate(best(correct, evaluated)),
        acceptance_rate=known_mean(table.of(lambda r: r.get("acceptance_rate"))),
        forward_tokens=known_mean(table.of(forward_tokens)),
        proposal_forward_tokens=known_mean(
            table.of(lambda r: r.get("num_proposal_forward_tokens"))
        ),
        num_tokens=float(np.nanmean(lengths)),
        length_quantiles=tuple(np.nanpercentile(lengths, [5, 50, 95]).tolist()),
        finished=float(np.nanmean(table.of(lambda r: r["finish_reason"] == "eos"))),
    )


def rows(records: Sequence[Record], *, pass_at: Sequence[int] | None = None) -> list[Result]:
    """Returns the lines of a table: one Result for each model and sampler among the records.

    They come in the order of their first records.

    The sampler's name is the one in a record's id. Records of one name whose settings differ
    (`identity.LAW` lists them) are rows of their own, named by what differs: `Power, N=30`, `Power,
    top_k 20`. A setting that a record does not state counts as different from every value, and from
    one stated as None. Records that differ in seed or sample only are passes of one row.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        settings = identity.stated(record)
        groups[str(record.get("model")), _sampler(record), tuple(settings.items())].append(record)
    names = {}
    for model_and_sampler in dict.fromkeys(key[:2] for key in groups):
        same = [key for key in groups if key[:2] == model_and_sampler]
        for key, label in zip(same, identity.labels([dict(key[2]) for key in same]), strict=True):
            names[key] = ", ".join(filter(None, [key[1], label]))
    return [
        Result(
            key[0],
            names[key],
            members,
            summarize(members, pass_at=pass_at),
            mixing=diagnostics.mixing(members),
        )
        for key, members in groups.items()
    ]


def vote_of(answer: str) -> str:
    """Returns the form in which an answer votes: its normal form by `answers`, without spaces."""
    if len(answer) > _MAX_VOTE_CHARS:
        return answer.strip()
    return answers.simplified(answers.literal(answer)).replace(" ", "")


def _sampler(record: Record) -> str:
    """Returns the name that a table has for the sampler or row in the record's id."""
    name = sampler_label(record)
    return NAMES.get(name, name.replace("_", " ").capitalize())


def _majority(table: Table) -> np.ndarray:
    """Returns how right the most frequent answer of each problem is, [problem, 1].

    NaN stands where answers do not vote: programs, and completions that are not graded.
    """
    verdicts = np.full((len(table.problems), 1), np.nan)
    votes: list[dict[str, list[float]]] = [defaultdict(list) for _ in table.problems]
    for (problem, _), record in table.cells.items():
        if "isolation" in (record.get("grade_detail") or {}):
            continue  # a program: two that do the same are seldom written the same
        if record.get("correct") is None:
            continue
        verdicts[problem] = 0.0  # stays so if no completion has an answer
        if record.get("extracted_answer") is not None:
            votes[problem][vote_of(record["extracted_answer"])].append(float(record["correct"]))
    for problem, cast in enumerate(votes):
        most = max(map(len, cast.values()), default=0)
        if most:
            tied = [np.mean(same) for same in cast.values() if len(same) == most]
            verdicts[problem] = np.mean(tied)
    return verdicts


def _powers_of_two(counts: np.ndarray) -> list[int]:
    """Returns the powers of two up to the fewest graded completions of a problem that has any."""
    fewest = int(counts[counts > 0].min(initial=counts.max()))
    return [1 << i for i in range(fewest.bit_length())] if fewest else []


def _pass_at(k: int, correct: np.ndarray) -> np.ndarray:
    """Returns pass@k of each problem, [problem, 1]; NaN where fewer than k are graded."""
    counts, num_right = (~np.isnan(correct)).sum(axis=1), np.nansum(correct, axis=1)
    each = [
        pass_at_k(int(n), int(c), k) if n >= k else math.nan
        for n, c in zip(counts, num_right, strict=True)
    ]
    return np.array(each)[:, None]
