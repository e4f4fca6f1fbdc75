"""Tasks: problems to sample completions for, and the graders of those completions.

`registry.get(name)` gives a `Task`. Each task's module has `load(...) -> list[Problem]` and
`grade(problem, completion) -> (correct, extracted_answer)`.
"""

from powerjax.tasks import arithmetic, registry
from powerjax.tasks.base import CHAT, RAW, Graded, Problem, Task, without_text

__all__ = [
    "CHAT",
    "RAW",
    "Graded",
    "Problem",
    "Task",
    "arithmetic",
    "registry",
    "without_text",
]
