"""Tasks: problems to sample completions for, and the graders of those completions.

`registry.get(name)` gives a `Task`. Each task's module has `load(...) -> list[Problem]` and
`grade(problem, completion) -> (correct, extracted_answer)`.
"""

from powerjax.tasks import arithmetic, registry
from powerjax.tasks.base import Graded, Problem, Task

__all__ = ["Graded", "Problem", "Task", "arithmetic", "registry"]
