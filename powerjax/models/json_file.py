"""The JSON files of model and adapter folders, and the values in them, checked.

A value of the wrong type is refused and never converted: `"1e-06"` in place of `1e-06` says that
whatever wrote the file was wrong about it, and the next value may be wrong without a sign.
"""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What float32 holds as a normal number, and devices compute in it.
_SMALLEST, _LARGEST = 1e-37, 3e38


def read(path: Path) -> dict[str, Any]:
    """The JSON object of a file; ValueError names the file where it is damaged or another thing."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} is no JSON object but a {type(value).__name__}: download it again"
        )
    return value


def damaged(file: str, key: str, value: Any, expected: str) -> ValueError:
    """The error that says what a file's value is and what it should be."""
    return ValueError(f"{key} is {reprlib.repr(value)}, not {expected}: {file} is damaged")


def whole_number(values: Mapping, key: str, *, file: str, least: int = 1) -> int | None:
    """The whole number under `key`, `least` or more; None where there is none or null."""
    value = values.get(key)
    if value is not None and (type(value) is not int or value < least):
        raise damaged(file, key, value, f"a whole number, {least} or more")
    return value


def number(
    values: Mapping, key: str, *, file: str, zero: bool = False, most: float = _LARGEST
) -> float | None:
    """The number under `key`, above 0 and at most `most`; None where there is none or null.

    zero: 0 is allowed as well.
    """
    value = values.get(key)
    if value is None:
        return None
    if not is_positive(value, most) and not (zero and type(value) in (int, float) and value == 0):
        limit = "" if most == _LARGEST else f", at most {most:g}"
        if type(value) in (int, float) and (0 < value < _SMALLEST or most == _LARGEST < value):
            limit = f" that float32 holds, {_SMALLEST:g} to {_LARGEST:g}"
        raise damaged(file, key, value, f"a number {'from' if zero else 'above'} 0{limit}")
    return float(value)


def is_positive(value: Any, most: float = _LARGEST) -> bool:
    """Whether it is an int or float above 0, and at most `most`; booleans and NaN are not."""
    return type(value) in (int, float) and _SMALLEST <= value <= most


def switch(values: Mapping, key: str, *, file: str) -> bool:
    """The boolean under `key`; False where there is none or null."""
    value = values.get(key)
    if value is not None and type(value) is not bool:
        raise damaged(file, key, value, "true or false")
    return bool(value)
