"""Tasks: problems to sample completions for, and the graders of those completions.

Each task is a module with `load(split, limit) -> list[Problem]` and
`grade(problem, completion) -> (correct, extracted_answer)`.
"""

from powerjax.tasks import arithmetic
from powerjax.tasks.base import Problem

__all__ = ["Problem", "arithmetic"]
