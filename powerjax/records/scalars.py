"""Numbers that a caller gives as Python's, NumPy's or JAX's, turned into Python's own."""

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

_Number = TypeVar("_Number", int, float)
_MAX_SHOWN = 60  # the most characters of a value that a message quotes


def whole(value: Any) -> int | None:
    """Returns the value as an int, or None where its type is not that of a whole number.

    A boolean and a float such as 3.0 give None. An array without axes counts as the number it
    holds.
    """
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def real(value: Any) -> float | None:
    """Returns the value as a float, or None where its type is not that of a real number.

    A number that is too large for float64 becomes infinite. A boolean gives None. An array without
    axes counts as the number it holds.
    """
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return -math.inf if value < 0 else math.inf


def whole_from(name: str, value: Any, least: int, most: int) -> int:
    """Returns `value` as an int, checked to be a whole number from `least` to `most`.

    Raises ValueError, naming the argument `name`, for any other value.
    """
    return _bounded(name, value, whole, least, most, f"a whole number from {least} to {most}")


def real_from(name: str, value: Any, least: float, most: float) -> float:
    """Returns `value` as a float, checked to be a real number from `least` to `most`.

    Raises ValueError, naming the argument `name`, for any other value.
    """
    return _bounded(name, value, real, least, most, f"a number from {least:g} to {most:g}")


def key_seed(value: Any) -> int:
    """Returns a seed for `jax.random.key` as an int. Raises ValueError outside 0 to 2**32 - 1.

    The key has 32 bits: without the check, 2**32 would draw what 0 draws.
    """
    return whole_from("seed", value, 0, 2**32 - 1)


def in_float32(value: float) -> float:
    """Returns the number rounded to float32; infinite where float32 overflows."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def shown(value: Any) -> str:
    """Returns any value as a message quotes it: its repr in one line, cut after 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"a number of {value.bit_length()} bits"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def listed(names: Iterable[Any]) -> str:
    """Returns names as a message lists them: `prompt, answer`.

    A name that is long or holds characters such as newlines is quoted by `shown`.
    """
    texts = map(str, names)
    return ", ".join(
        text if text.isprintable() and len(text) <= _MAX_SHOWN else shown(text) for text in texts
    )


def _bounded(
    name: str,
    value: Any,
    read: Callable[[Any], _Number | None],
    least: float,
    most: float,
    wanted: str,
) -> _Number:
    number = read(value)
    if number is None or not least <= number <= most:
        raise ValueError(f"{name} is {shown(value)}: it must be {wanted}")
    return number


def _unwrapped(value: Any) -> Any:
    """Returns an array or scalar of NumPy or JAX as Python's number, anything else as it is."""
    if isinstance(value, numbers.Number) and not isinstance(value, np.generic):
        return value
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "__array__"):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # a random key, or a tensor that only its library reads
        return value
    if array.dtype.name.startswith(("float", "bfloat")):  # by name: ml_dtypes' have no kind "f"
        return float(array)
    return array.item()
