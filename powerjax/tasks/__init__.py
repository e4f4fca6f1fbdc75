"""Tasks: problems to sample completions for, and the graders of those completions.

`registry.get(name)` gives a `Task`. CONTRIBUTING.md has the whole of one, with its tests and
checks. To add one:

1. Write `powerjax/tasks/NAME.py` with `load` and `grade`, as `base.Task` has them. For a quick
   `grade` the registry makes `grade_all` by `base.grade_each(grade)`; any other brings its own.
2. Published rows are read through `sources`. A field that `sources._KINDS` does not list is not
   type-checked.
3. Keep the rules of `base.Problem` (ids) and `base.Graded` (the key "isolation" marks a program).
   Let the set have an end: experiments.evaluate grades the problems that `load` returns without a
   limit, and makes more of them for arithmetic alone.
4. Write a function in `registry` that makes the `Task`, and enter it in `registry._MAKERS`.
5. Add `tests/tasks/test_NAME.py`. `tests/tasks/test_registry.py` takes every name from `registry`
   and loads it from the tests' data folder (`data_dir` in `tests/conftest.py`): put published files
   there. For a task of published rows, add its number of rows to `sizes` and its name to
   `FROM_FILES`.
6. Name it in `docs/guides/sampling.md`, and make `docs/reference/flags.md` anew.
7. For a table beside the paper's, add a setup to `runs/setups.py`.

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
