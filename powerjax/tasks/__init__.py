"""Tasks: problems to sample completions for, and the graders of those completions.

`registry.get(name)` gives a `Task`. To add one:

1. Write `powerjax/tasks/NAME.py` with `load`, `grade` and `grade_all`, as `base.Task` has them.
2. `sources` reads published files. A field of theirs that `sources._KINDS` does not list is not
   type-checked. `grade_all = base.grade_each(grade)` suits a quick `grade`.
3. Keep the rules of `base.Problem` (ids) and `base.Graded` (the key "isolation" marks a program).
4. Write a function in `registry` that makes the `Task`, and enter it in `registry._MAKERS`.
5. Add `tests/tasks/test_NAME.py`. `tests/tasks/test_registry.py` takes every name from `registry`
   and loads it from the tests' data folder (`data_dir` in `tests/conftest.py`): put the published
   file there. Add the name to that test's `sizes`, and to `FROM_FILES` if its rows are published.
6. For a table beside the paper's, add a setup to `runs/setups.py`.

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
