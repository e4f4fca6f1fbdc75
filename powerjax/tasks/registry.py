"""Tasks by name. A task's module is imported when the task is asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path

from powerjax.tasks.base import Task, grade_each

NAMES = (
    *("math500", "math_train", "gsm8k", "humaneval", "mbpp"),
    *("gpqa_diamond", "gpqa_rest", "arithmetic"),
)


def get(name: str) -> Task:
    """The task of this name, or that of the problems in the JSONL file of this name.

    Raises a ValueError of one line where there is neither.
    """
    if name in _MADE:
        return _MADE[name]()
    if Path(name).is_file():
        return _of_file(name)
    if name.endswith((".jsonl", ".json")) or "/" in name:
        raise ValueError(f"--task={name}: there is no such file")
    raise ValueError(f"--task={name}: choose {', '.join(NAMES)}, or a JSONL file that is there")


def _module(name: str):
    return importlib.import_module(f"powerjax.tasks.{name}")


def _math(name: str) -> Task:
    math = _module("math")
    return Task(name, getattr(math, f"load_{name}"), math.grade, math.grade_all)


def _gsm8k() -> Task:
    gsm8k = _module("gsm8k")
    return Task("gsm8k", gsm8k.load, gsm8k.grade, gsm8k.grade_all, splits=tuple(gsm8k.SPLITS))


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


def _arithmetic() -> Task:
    arithmetic = _module("arithmetic")
    return Task(
        "arithmetic",
        arithmetic.load,
        arithmetic.grade,
        grade_each(arithmetic.grade),
        max_new_tokens=64,
        block_size=64,
        splits=("test", "train"),
    )


def _of_file(path: str) -> Task:
    jsonl = _module("jsonl")
    load = functools.partial(_load_file, jsonl, path)
    return Task(Path(path).stem, load, jsonl.grade, grade_each(jsonl.grade))


def _load_file(jsonl, path: str, *, data_dir=None, limit: int | None = None):
    del data_dir  # the file says where it is
    return jsonl.load(path, limit)


_MADE: dict[str, Callable[[], Task]] = {
    "math500": functools.partial(_math, "math500"),
    "math_train": functools.partial(_math, "math_train"),
    "gsm8k": _gsm8k,
    "humaneval": functools.partial(_code, "humaneval"),
    "mbpp": functools.partial(_code, "mbpp"),
    "gpqa_diamond": functools.partial(_gpqa, "gpqa_diamond"),
    "gpqa_rest": functools.partial(_gpqa, "gpqa_rest"),
    "arithmetic": _arithmetic,
}
