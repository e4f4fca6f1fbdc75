"""The JSON files of model and adapter folders, and the values in them, checked.

A value of the wrong type is refused and never converted. A file with `"1e-06"` in place of `1e-06`
was written by a program with an error, and another value of it may be wrong without a sign.
"""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The range of float32's normal numbers, rounded inwards; devices compute in float32.
_SMALLEST, _LARGEST = 1e-37, 3e38


def read(path: Path) -> dict[str, Any]:
    """Returns a file's JSON object. Raises ValueError, naming the file, where it holds none."""
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
    """Returns the error that says what a file's value is and what it should be."""
    return ValueError(f"{key} is {reprlib.repr(value)}, not {expected}: {file} is damaged")


def whole_number(values: Mapping[str, Any], key: str, *, file: str, least: int = 1) -> int | None:
    """Returns the whole number under `key`, or None where the key is absent or null.

    Raises ValueError, naming `file`, for any other value and for one below `least`.
    """
    value = values.get(key)
    if value is not None and (type(value) is not int or value < least):
        raise damaged(file, key, value, f"a whole number, {least} or more")
    return value


def number(
    values: Mapping[str, Any], key: str, *, file: str, zero: bool = False, most: float = _LARGEST
) -> float | None:
    """Returns the number under `key`, or None where the key is absent or null.

    Raises ValueError, naming `file`, for any other value and for one that is not above 0 or exceeds
    `most`.

    zero: whether 0 is allowed as well.
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
    """Whether `value` is an int or float above 0 and at most `most`, neither a boolean nor NaN."""
    return type(value) in (int, float) and _SMALLEST <= value <= most


def switch(values: Mapping[str, Any], key: str, *, file: str) -> bool:
    """Returns the boolean under `key`, or False where the key is absent or null.

    Raises ValueError, naming `file`, for any other value.
    """
    value = values.get(key)
    if value is not None and type(value) is not bool:
        raise damaged(file, key, value, "true or false")
    return bool(value)
