r"""GSM8K: grade-school word problems of Cobbe et al. (2021), asked with MATH's prompt.

The paper has no results on it. A completion's answer is the number in its last box. Without a box
it is the last number after `####`, and without that mark the last number of all. It is correct if
it has the reference's value. `answers.numbers` says which units and forms of numbers are read.
"""

from __future__ import annotations

import os

from powerjax.tasks import answers, sources
from powerjax.tasks.answers import numbers
from powerjax.tasks.base import Problem, grade_each
from powerjax.tasks.math import prompt

SPLITS = {"test": 1319, "train": 7473}

_MARK = r"####[ \t]*(?:\*\*)?"


def load(
    *, data_dir: str | os.PathLike | None = None, limit: int | None = None, split: str = "test"
) -> list[Problem]:
    """Returns the split's problems in their order. `meta` holds the published `solution`."""
    if split not in SPLITS:
        raise ValueError(f"gsm8k has no split {split!r}: choose one of {', '.join(SPLITS)}")
    source = sources.Source(
        name="gsm8k",
        files=(f"gsm8k/{split}.jsonl",),
        url="https://github.com/openai/grade-school-math/raw/master/grade_school_math/data/"
        f"{split}.jsonl",
        hub="openai/gsm8k",
        config="main",
        split=split,
        fields=("question", "answer"),
        num_rows=SPLITS[split],
    )
    rows = sources.rows(source, data_dir)[:limit]
    return [_problem(f"{split}-{index}", row) for index, row in enumerate(rows)]


def extract(completion: str) -> str | None:
    """Returns the completion's number as it is written; None if it holds none.

    A last box that holds no number gives its whole content.
    """
    boxed = answers.last_boxed(completion)
    if boxed is not None:
        return numbers.written(boxed) or boxed
    return numbers.last(completion, after=_MARK) or numbers.last(completion)


def grade(problem: Problem, completion: str) -> tuple[bool, str | None]:
    """Returns (correct, the extracted number).

    Some problems ask how many millions, and some for the whole number, so `4 million` is right
    for both 4 and 4,000,000.
    """
    extracted = extract(completion)
    if extracted is None:
        return False, None
    wanted = numbers.value(problem.reference)
    values = [numbers.value(extracted, scaled) for scaled in (True, False)]
    return wanted is not None and wanted in values, extracted


grade_all = grade_each(grade)


def _problem(name: str, row: sources.Row) -> Problem:
    answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
    if numbers.value(answer) is None:
        raise ValueError(f"gsm8k: problem {name} has no answer after ####: fetch the file again")
    return Problem(name, prompt(row["question"]), answer, {"solution": row["answer"]})
