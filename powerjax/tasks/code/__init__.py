"""HumanEval and MBPP: functions to write, graded by running them against their tests.

`problems` loads and words them. `extraction` finds the code in a completion, by the text that
`fences` and `statements` take apart and with what `needs` adds. `assembly` makes a program of it,
and `grading` has the sandbox run that.
"""

from powerjax.tasks.code.grading import extract, grade, grade_all, program
from powerjax.tasks.code.problems import (
    HUMANEVAL,
    MBPP,
    MBPP_PROMPT_TASKS,
    REQUEST,
    STUB,
    humaneval_problem,
    load_humaneval,
    load_mbpp,
    mbpp_problem,
    wording,
)

__all__ = [
    "HUMANEVAL",
    "MBPP",
    "MBPP_PROMPT_TASKS",
    "REQUEST",
    "STUB",
    "extract",
    "grade",
    "grade_all",
    "humaneval_problem",
    "load_humaneval",
    "load_mbpp",
    "mbpp_problem",
    "program",
    "wording",
]
