"""The paper's pattern: its claims, each held against the rows of a reproduction.

r* is accuracy, as a share; r_self the mean log-likelihood per token (nats, EOS counted).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from powerjax import evaluation
from powerjax.evaluation import Result
from powerjax.report import tables

_WORD = {True: "yes", False: "NO", None: "not known"}


class Claim(NamedTuple):
    """One claim of the paper, held against this run.

    Attributes:
      holds: None where the run lacks the rows to tell.
      numbers: what was found, in words.
    """

    claim: str
    holds: bool | None
    numbers: str


def pattern(results: Sequence[Result], teacher: str = "Power") -> list[Claim]:
    """Returns what the paper claims of these rows, and whether it is so here.

    "Rises" compares means; the intervals of paired differences stand beside it.

    Args:
      teacher: the sampler of the base whose records taught the student.
    """
    rows = {(result.model, result.sampler): result for result in results}
    base = [rows.get(("Base", name)) for name in ("Standard", "Temperature", "Power")]
    three = [result for result in base if result is not None]
    claims = [
        _rises(f"{symbol} rises from Standard to Temperature to Power", three, 3, value)
        for symbol, value in (("r_self", "self_reward"), ("r*", "correct"))
    ]
    by_alpha = _by_alpha(results)
    if len(by_alpha) > 1:
        name = f"r* rises with alpha ({', '.join(f'{alpha:g}' for alpha in by_alpha)})"
        claims.append(_rises(name, list(by_alpha.values()), len(by_alpha), "correct"))
    claims.append(_random_weights([r for r in results if r.model == "RandW"]))
    student = rows.get(("Distilled", "Standard"))
    claims.append(_student(student, rows.get(("Base", teacher)), rows.get(("Base", "Standard"))))
    return claims


def _by_alpha(results: Sequence[Result]) -> dict[float, Result]:
    """Returns alpha -> the first row of the base at that exponent, alpha rising.

    Standard sampling is alpha = 1; power_inf, whose alpha is "inf", is left out.
    """
    first: dict[float, Result] = {}
    for result in results:
        if result.model == "Base" and result.sampler.startswith(("Standard", "Power")):
            alpha = result.records[0]["alpha"]
            if alpha != "inf":
                first.setdefault(alpha, result)
    return dict(sorted(first.items()))


def describe(claims: Sequence[Claim]) -> str:
    """Returns the claims as a Markdown list."""
    return "\n".join(f"- {_WORD[c.holds]}: {c.claim}. {c.numbers}" for c in claims)


def claim_cells(claims: Sequence[Claim]) -> tables.Cells:
    """Returns the claims as a table."""
    return [["holds", "claim", "numbers"], *([_WORD[c.holds], c.claim, c.numbers] for c in claims)]


def _rises(claim: str, results: Sequence[Result], needed: int, value: str) -> Claim:
    """Returns whether the mean of a value rises from each row to the next.

    Args:
      needed: how many rows the claim is about; with fewer it is not known.
      value: "correct" or "self_reward", a field of the records.
    """
    if len(results) < needed:
        return Claim(claim, None, "Rows are missing.")
    field = {"correct": "accuracy", "self_reward": "self_reward"}[value]
    estimates = [getattr(result.summary, field) for result in results]
    if None in estimates:
        return Claim(claim, None, "No answers are known.")
    means = [estimate.mean for estimate in estimates]
    steps = []
    for before, after in itertools.pairwise(results):
        gap = evaluation.paired_difference(after.records, before.records, value)
        steps.append(f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]")
    holds = all(a < b for a, b in itertools.pairwise(means))
    shown = ", ".join(f"{mean:.3f}" for mean in means)
    return Claim(claim, holds, f"Means {shown}; steps {', '.join(steps)}.")


def _random_weights(results: Sequence[Result]) -> Claim:
    """Returns whether every row of the model with random weights has an accuracy of 0."""
    claim = "r* of random weights stays 0"
    accuracies = [r.summary.accuracy for r in results if r.summary.accuracy is not None]
    if not results or len(accuracies) < len(results):
        return Claim(claim, None, "Rows are missing.")
    worst = max(estimate.mean for estimate in accuracies)
    rewards = ", ".join(f"{r.sampler} {r.summary.self_reward.mean:.3f}" for r in results)
    return Claim(claim, worst == 0, f"The largest r* is {worst:.3f}; r_self: {rewards}.")


def _student(student: Result | None, teacher: Result | None, base: Result | None) -> Claim:
    """Returns whether the student is above the base, near its teacher, and as cheap as the base.

    As cheap means one forward token per token of the completion.
    """
    claim = (
        "the student, sampled plainly, rises above the base and comes within 5 points of its"
        " teacher at plain cost"
    )
    if student is None or teacher is None or base is None or student.summary.accuracy is None:
        return Claim(claim, None, "Rows are missing.")
    gap, gain = (
        evaluation.paired_difference(student.records, other.records) for other in (teacher, base)
    )
    ours, theirs = student.summary.forward_tokens, teacher.summary.forward_tokens
    if ours is None or theirs is None:
        return Claim(claim, None, "Forward tokens are not known.")
    plain = abs(ours / student.summary.num_tokens - 1) < 1e-6
    gaps = [
        f"minus {other.model} {other.sampler} {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        for other, d in ((base, gain), (teacher, gap))
    ]
    numbers = (
        f"r* {student.summary.accuracy.mean:.3f}, {', '.join(gaps)}; {ours:,.0f} forward tokens a"
        f" completion against {theirs:,.0f}."
    )
    return Claim(claim, gain.mean > 0 and gap.mean > -0.05 and plain, numbers)
