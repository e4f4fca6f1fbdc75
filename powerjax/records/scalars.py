"""Numbers that a caller gives, of Python, NumPy or JAX, as Python's own."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

_MAX_SHOWN = 60  # characters of a value that a message quotes


def whole(value: Any) -> int | None:
    """The value as an int; None where it is not a whole number's type. A boolean is none.

    Arrays without axes count as the number they hold.
    """
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def real(value: Any) -> float | None:
    """The value as a float, infinite where it is too large; None where it is not a real number."""
    value = _unwrapped(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole_from(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from `least` to `most`, as an int; else a ValueError that names it."""
    number = whole(value)
    if number is None or not least <= number <= most:
        bounds = f"from {least} to {most}"
        raise ValueError(f"{name} is {shown(value)}: it must be a whole number {bounds}")
    return number


def real_from(name: str, value: Any, least: float, most: float) -> float:
    """A real number from `least` to `most`, as a float; else a ValueError that names it."""
    number = real(value)
    if number is None or not least <= number <= most:
        bounds = f"from {least:g} to {most:g}"
        raise ValueError(f"{name} is {shown(value)}: it must be a number {bounds}")
    return number


def key_seed(value: Any) -> int:
    """A seed of `jax.random.key`, which takes 32 bits: it draws for 2**32 what it draws for 0."""
    return whole_from("seed", value, 0, 2**32 - 1)


def in_float32(value: float) -> float:
    """The number that a device with float32 computes with, infinite where float32 overflows."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def shown(value: Any) -> str:
    """How a message quotes a value: its repr, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"a number of {value.bit_length()} bits"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def listed(names: Iterable[Any]) -> str:
    """`prompt, answer`: how a message lists names; one that would break its line is quoted."""
    texts = map(str, names)
    return ", ".join(
        text if text.isprintable() and len(text) <= _MAX_SHOWN else shown(text) for text in texts
    )


def _unwrapped(value: Any) -> Any:
    """An array or scalar of NumPy or JAX as Python's number; anything else as it is."""
    if isinstance(value, numbers.Number) and not isinstance(value, np.generic):
        return value
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "__array__"):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # a random key, or a tensor that only its library reads
        return value
    if array.dtype.name.startswith(("float", "bfloat")):  # ml_dtypes' too, which have no kind
        return float(array)
    return array.item()
