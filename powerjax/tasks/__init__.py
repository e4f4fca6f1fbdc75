"""Tasks: problems to sample completions for, and the graders of those completions.

`registry.get(name)` gives a `Task`. To add one:

1. Write `powerjax/tasks/NAME.py` with `load`, `grade` and `grade_all`, as `base.Task` has them.
2. `sources` reads published files; `grade_all = base.grade_each(grade)` suits a quick `grade`.
3. Keep the rules of `base.Problem` (ids) and `base.Graded` (the key "isolation" marks a program).
4. Write a function in `registry` that makes the `Task`, and enter it in `registry._MAKERS`.
5. Add `tests/tasks/test_NAME.py`. `tests/tasks/test_registry.py` tests every name by itself.

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
