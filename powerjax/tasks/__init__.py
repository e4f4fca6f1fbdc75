"""Tasks: problems to sample completions for, and the graders of those completions.

`registry.get(name)` gives a `Task`. To add one:

1. Write `powerjax/tasks/NAME.py` with `load(*, data_dir=None, limit=None) -> list[Problem]` and
   `grade(problem, completion) -> (correct, extracted)`. `sources` reads published files.
2. Give it `grade_all`: `grade_all = base.grade_each(grade)` is enough where `grade` is quick.
3. Write a function in `registry` that makes the `Task`, and enter it in `registry._MAKERS`.
4. Keep to the rules in `Problem`, `Graded` and `Task` (`base`), which the rest of the package
   relies on: what an id looks like, and how a grader says that it ran a program.
5. Add `tests/tasks/test_NAME.py`. `test_registry.py` tests every name by itself.

A set of problems in a JSONL file needs none of this: its path is a task's name (see `jsonl`).
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
