r"""MATH: competition problems of Hendrycks et al. (2021), answered in \boxed{}.

`math500` is the set the paper evaluates on. `math_train` stands for the 500 problems it distils on:
here these are the first 500 of the other 12,000 in the order of a hash of (seed, problem), so that
each seed gives another draw. A completion is correct if `equivalence.equivalent` holds for its last
box and the reference. `grade_all` also gives the verdict of math-verify.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from powerjax.tasks import answers, sources
from powerjax.tasks.answers import boxes, checkers, equivalence
from powerjax.tasks.base import Graded, Problem

# The doubled braces are no mistake: the paper's results were made with them.
PROMPT_HEAD = "Can you solve the following math problem? "
PROMPT_TAIL = r" Please reason step by step, and put your final answer within \boxed{{}}."
NUM_TRAIN = 500

MATH500 = sources.Source(
    name="math500",
    files=("math500/test_prm800k.jsonl", "math500/test.jsonl"),
    url="https://huggingface.co/datasets/HuggingFaceH4/MATH-500/resolve/main/test.jsonl",
    hub="HuggingFaceH4/MATH-500",
    split="test",
    fields=("problem", "solution", "answer", "subject", "level", "unique_id"),
    num_rows=500,
)
MATH_12000 = sources.Source(
    name="math_train",
    files=("math/math_full_minus_math500.json",),
    url="https://huggingface.co/datasets/rasbt/math_full_minus_math500/resolve/main/"
    "math_full_minus_math500.json",
    hub="rasbt/math_full_minus_math500",
    split="train",
    fields=("problem", "solution", "answer", "type", "level", "unique_id"),
    num_rows=12_000,
)


def load_math500(
    *, data_dir: str | os.PathLike | None = None, limit: int | None = None
) -> list[Problem]:
    """Returns the 500 problems of MATH-500, in its order."""
    rows = sources.rows(MATH500, data_dir)
    return [_problem(row, _name(str(row["unique_id"]))) for row in rows[:limit]]


def load_math_train(
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
    num: int = NUM_TRAIN,
) -> list[Problem]:
    """Returns `num` of the 12,000 problems outside MATH-500, drawn by `seed`.

    The four rows whose published answer is empty are left out. Draws are nested: with the same
    seed, the problems of a smaller `num` or `limit` are the first of a larger one.
    """
    rows = [row for row in sources.rows(MATH_12000, data_dir) if str(row["answer"]).strip()]

    def rank(row: sources.Row) -> str:
        return hashlib.sha256(f"math_train/{seed}/{row['unique_id']}".encode()).hexdigest()

    drawn = sorted(rows, key=rank)[:num]
    return [_problem(row, str(row["unique_id"])) for row in drawn[:limit]]


def grade(problem: Problem, completion: str) -> tuple[bool, str | None]:
    """Returns (correct, the last box's content).

    An answer that takes longer to compare than `checkers.LIMIT_S` counts as wrong.
    """
    extracted = answers.last_boxed(completion)
    if extracted is None:
        return False, None
    if equivalence.same_text(extracted, problem.reference):
        return True, extracted
    return bool(checkers.pool(1).check("rules", extracted, problem.reference)), extracted


def grade_all(
    problems: Sequence[Problem],
    completions: Sequence[str],
    *,
    num_workers: int | None = None,
    progress: bool = False,
    limit_s: float = checkers.LIMIT_S,
) -> list[Graded]:
    """Returns the verdicts of `grade` on many completions, each with a second opinion.

    Each `detail` holds two verdicts on the same extracted answer: `rules` (which is `correct`) and
    `math_verify` (None if it ran out of time). `timed_out` names those that ran out of time.
    `boxes` is there if the last sentence has several boxes of different content, and says how
    many; only the last one is compared. Equal pairs of answers are compared once.
    """
    boxed = [answers.last_boxed(completion) for completion in completions]
    pairs = [
        (extracted, problem.reference)
        for problem, extracted in zip(problems, boxed, strict=True)
        if extracted is not None
    ]
    jobs = [(rule, *pair) for pair in dict.fromkeys(pairs) for rule in checkers.RULES]
    pool = checkers.pool(num_workers, limit_s)
    verdicts = dict(zip(jobs, pool.check_all(jobs, progress=progress), strict=True))

    def graded(problem: Problem, completion: str, extracted: str | None) -> Graded:
        if extracted is None:
            return Graded(False, None, {**dict.fromkeys(checkers.RULES, False), "timed_out": []})
        by_rule = {rule: verdicts[rule, extracted, problem.reference] for rule in checkers.RULES}
        correct = bool(by_rule["rules"])
        timed_out = [rule for rule, verdict in by_rule.items() if verdict is None]
        detail: dict[str, Any] = {**by_rule, "rules": correct, "timed_out": timed_out}
        if (count := len(boxes.of_last_sentence(completion))) > 1:
            detail["boxes"] = count
        return Graded(correct, extracted, detail)

    return [graded(*each) for each in zip(problems, completions, boxed, strict=True)]


def prompt(question: str) -> str:
    """Returns the paper's prompt for a question."""
    return f"{PROMPT_HEAD}{question}{PROMPT_TAIL}"


def _problem(row: sources.Row, name: str) -> Problem:
    meta = {
        "subject": row.get("subject", row.get("type")),
        "level": int(re.sub(r"\D", "", str(row["level"])) or 0),
        "solution": row["solution"],
    }
    return Problem(name, prompt(row["problem"]), str(row["answer"]), meta)


def _name(unique_id: str) -> str:
    """Turns `test/algebra/12.json` into `algebra-12`: the id of a problem has no slash."""
    return re.sub(r"^test/|\.json$", "", unique_id).replace("/", "-")
