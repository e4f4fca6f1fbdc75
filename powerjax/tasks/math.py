r"""MATH: competition problems of Hendrycks et al. (2021), answered in \boxed{}.

`math500` is the set the paper evaluates on, `math_train` the 500 problems it distils on, here the
first 500 of the other 12,000 in the order of a hash of (seed, problem): another seed, another draw.
A completion is correct if its last box holds the reference by `equivalence.equivalent`; results of
`grade_all` carry math-verify's verdict beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence

from powerjax.tasks import answers, sources
from powerjax.tasks.answers import boxes, checkers, equivalence
from powerjax.tasks.base import Graded, Problem

# The braces are doubled in the prompt that the paper's numbers were made with.
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
    """The 500 problems of MATH-500, in its order."""
    rows = sources.rows(MATH500, data_dir)
    return [_problem(row, _name(str(row["unique_id"]))) for row in rows[:limit]]


def load_math_train(
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
    num: int = NUM_TRAIN,
) -> list[Problem]:
    """`num` of the 12,000 problems outside MATH-500, drawn by `seed`.

    The four rows whose published answer is empty are left out. Draws are nested: of one seed, a
    smaller `num` or `limit` is the beginning of a larger.
    """
    rows = [row for row in sources.rows(MATH_12000, data_dir) if str(row["answer"]).strip()]

    def rank(row: sources.Row) -> str:
        return hashlib.sha256(f"math_train/{seed}/{row['unique_id']}".encode()).hexdigest()

    drawn = sorted(rows, key=rank)[:num]
    return [_problem(row, str(row["unique_id"])) for row in drawn[:limit]]


def grade(problem: Problem, completion: str) -> tuple[bool, str | None]:
    """(correct, the last box's content). Slow answers are cut off and wrong."""
    extracted = answers.last_boxed(completion)
    if extracted is None:
        return False, None
    if equivalence.same_text(extracted, problem.answer):
        return True, extracted
    return bool(checkers.pool(1).check("rules", extracted, problem.answer)), extracted


def grade_all(
    problems: Sequence[Problem],
    completions: Sequence[str],
    *,
    num_workers: int | None = None,
    progress: bool = False,
    limit_s: float = checkers.LIMIT_S,
) -> list[Graded]:
    """`grade` for many, with a second opinion.

    Each `detail` holds the verdicts `rules` (which is `correct`) and `math_verify` on the same
    extracted answer (None if it ran out of time), and in `timed_out` the names of those that did.
    Where the last sentence has several boxes of different content, `boxes` is how many; the last
    one alone was compared. Equal pairs of answers are compared once.
    """
    found = [answers.last_boxed(completion) for completion in completions]
    pairs = [
        (extracted, problem.answer)
        for problem, extracted in zip(problems, found, strict=True)
        if extracted is not None
    ]
    jobs = [(rule, *pair) for pair in dict.fromkeys(pairs) for rule in checkers.RULES]
    pool = checkers.pool(num_workers, limit_s)
    verdicts = dict(zip(jobs, pool.check_all(jobs, progress=progress), strict=True))

    def graded(problem: Problem, completion: str, extracted: str | None) -> Graded:
        if extracted is None:
            return Graded(False, None, {**dict.fromkeys(checkers.RULES, False), "timed_out": []})
        detail = {rule: verdicts[rule, extracted, problem.answer] for rule in checkers.RULES}
        timed_out = [rule for rule, verdict in detail.items() if verdict is None]
        detail["rules"] = bool(detail["rules"])
        detail["timed_out"] = timed_out
        if (count := len(boxes.of_last_sentence(completion))) > 1:
            detail["boxes"] = count
        return Graded(detail["rules"], extracted, detail)

    return [graded(*one) for one in zip(problems, completions, found, strict=True)]


def prompt(question: str) -> str:
    """The paper's prompt."""
    return f"{PROMPT_HEAD}{question}{PROMPT_TAIL}"


def _problem(row: sources.Row, name: str) -> Problem:
    meta = {
        "subject": row.get("subject", row.get("type")),
        "level": int(re.sub(r"\D", "", str(row["level"])) or 0),
        "solution": row["solution"],
    }
    return Problem(name, prompt(row["problem"]), str(row["answer"]), meta)


def _name(unique_id: str) -> str:
    """`test/algebra/12.json` as `algebra-12`: a slash separates the parts of a record's id."""
    return re.sub(r"^test/|\.json$", "", unique_id).replace("/", "-")
