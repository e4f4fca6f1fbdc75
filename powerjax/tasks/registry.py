"""Tasks by name. `_MAKERS` is the one list of them; `powerjax.tasks` says how to add a task.

A task's module is imported when `get` is called for it, so that a name costs no import.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from powerjax.tasks.base import Problem, Task, grade_each


def get(name: str) -> Task:
    """Returns the task of this name, or, for the path of a JSONL file, the task of its problems.

    Raises a ValueError whose message is one line if the name is neither.
    """
    if name in _MAKERS:
        return _MAKERS[name](name)
    if Path(name).is_file():
        return _of_file(name)
    if name.endswith((".jsonl", ".json")) or "/" in name:
        raise ValueError(f"--task={name}: there is no such file")
    raise ValueError(f"--task={name}: choose {', '.join(NAMES)}, or a JSONL file that is there")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"powerjax.tasks.{name}")


def _math(name: str) -> Task:
    math = _module("math")
    return Task(name, getattr(math, f"load_{name}"), math.grade, math.grade_all)


def _gsm8k(name: str) -> Task:
    gsm8k = _module("gsm8k")
    return Task(name, gsm8k.load, gsm8k.grade, gsm8k.grade_all, splits=tuple(gsm8k.SPLITS))


def _gpqa(name: str) -> Task:
    gpqa = _module("gpqa")
    load = {"gpqa_diamond": gpqa.load_diamond, "gpqa_rest": gpqa.load_rest}[name]
    return Task(name, load, gpqa.grade, gpqa.grade_all, chat=False, secret=True)


def _code(name: str) -> Task:
    code = _module("code")
    load = getattr(code, f"load_{name}")
    return Task(
        name, load, code.grade, code.grade_all, chat=False, wording=code.wording, quick=False
    )


def _arithmetic(name: str) -> Task:
    arithmetic = _module("arithmetic")
    return Task(
        name,
        arithmetic.load,
        arithmetic.grade,
        grade_each(arithmetic.grade),
        max_new_tokens=64,
        block_size=64,
        splits=("test", "train"),
    )


def _of_file(path: str) -> Task:
    jsonl = _module("jsonl")

    def load(
        *, data_dir: str | os.PathLike | None = None, limit: int | None = None
    ) -> list[Problem]:
        del data_dir  # `path` already says where the problems are
        return jsonl.load(path, limit)

    return Task(Path(path).stem, load, jsonl.grade, grade_each(jsonl.grade))


# Every task's name, and the function that makes the task of this name.
_MAKERS: dict[str, Callable[[str], Task]] = {
    "math500": _math,
    "math_train": _math,
    "gsm8k": _gsm8k,
    "humaneval": _code,
    "mbpp": _code,
    "gpqa_diamond": _gpqa,
    "gpqa_rest": _gpqa,
    "arithmetic": _arithmetic,
}
NAMES = tuple(_MAKERS)
