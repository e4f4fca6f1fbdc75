"""Plain data as bytes: how a program's arguments and results travel between two interpreters.

Whatever the bytes are, reading them makes objects of Python's own types and nothing else: no class
of the sender's, no code (as pickle would run), no more elements than bytes. A value that has no
plain form (an instance of a class, a function, a module) arrives as an `Opaque`, which equals
nothing but itself. Subclasses arrive as what they derive from: a Counter as a dict, a named tuple
as a tuple. Iterators and generators are run to their end, and arrive as iterators over the result.

This file also runs inside the sandbox, so it needs nothing but Python itself.
"""

import struct

MAX_BYTES = 4 << 20  # of one message

_LENGTH = struct.Struct(">I")
_REAL = struct.Struct(">d")
_PAIR = struct.Struct(">dd")
_VIEWS = {type({}.keys()): b"K", type({}.values()): b"V", type({}.items()): b"M"}


class Opaque:
    """Stands for a value that has no plain form."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<{self.name}>"


def encode(value, limit=MAX_BYTES):
    """Returns the bytes of `value`. Raises ValueError if there are more than `limit`."""
    out = bytearray()
    _write(value, out, limit)
    if len(out) > limit:
        raise ValueError("too large")
    return bytes(out)


def decode(data):
    """Returns the value of `data`.

    Raises ValueError if the bytes are no value, and TypeError for an element that is unhashable.
    """
    value, end = _read(data, 0)
    if end != len(data):
        raise ValueError("bytes are left over")
    return value


def _write(value, out, limit):
    if len(out) > limit:
        raise ValueError("too large")
    if value is None or value is True or value is False:
        out += {None: b"N", True: b"T", False: b"F"}[value]
    elif isinstance(value, int):
        _write_bytes(b"i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), out)
    elif isinstance(value, float):
        out += b"f" + _REAL.pack(value)
    elif isinstance(value, complex):
        out += b"c" + _PAIR.pack(value.real, value.imag)
    elif isinstance(value, str):
        if len(value) > limit:
            raise ValueError("too large")
        _write_bytes(b"s", value.encode("utf-8", "surrogatepass"), out)
    elif isinstance(value, bytes | bytearray):
        _write_bytes(b"b" if isinstance(value, bytes) else b"B", value, out)
    elif isinstance(value, range):
        out += b"r"
        for part in (value.start, value.stop, value.step):
            _write(part, out, limit)
    elif isinstance(value, list | tuple | set | frozenset):
        kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
        _write_all({list: b"l", tuple: b"t", set: b"e", frozenset: b"z"}[kind], value, out, limit)
    elif isinstance(value, dict):
        flat = [part for item in value.items() for part in item]
        _write_all(b"d", flat, out, limit)
    elif type(value) in _VIEWS:
        _write_all(_VIEWS[type(value)], value, out, limit)
    else:
        _write_other(value, out, limit)


def _write_other(value, out, limit):
    kind, module = type(value).__name__, type(value).__module__
    if hasattr(value, "__next__"):
        elements = []
        for element in value:
            elements.append(element)
            if len(elements) > limit:
                raise ValueError("too large")
        _write_all(b"I", elements, out, limit)
    elif module == "collections" and kind == "deque":
        _write_all(b"q", value, out, limit)
    elif (module, kind) in (("fractions", "Fraction"), ("decimal", "Decimal")):
        _write_bytes(b"R" if kind == "Fraction" else b"D", str(value).encode(), out)
    elif module == "numpy" and getattr(value, "shape", None) == ():
        _write(value.item(), out, limit)
    else:
        _write_bytes(b"o", kind[:80].encode("utf-8", "replace"), out)


def _write_bytes(tag, payload, out):
    out += tag + _LENGTH.pack(len(payload))
    out += payload


def _write_all(tag, values, out, limit):
    values = list(values)
    out += tag + _LENGTH.pack(len(values))
    for value in values:
        _write(value, out, limit)


def _take(data, start, size):
    """Returns (`size` bytes from `start` on, where they end)."""
    if start + size > len(data):
        raise ValueError("bytes are missing")
    return data[start : start + size], start + size


def _read(data, start):
    """Returns (the value that begins at `start`, where it ends)."""
    tag, start = _take(data, start, 1)
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], start
    if tag == b"f":
        payload, start = _take(data, start, 8)
        return _REAL.unpack(payload)[0], start
    if tag == b"c":
        payload, start = _take(data, start, 16)
        return complex(*_PAIR.unpack(payload)), start
    if tag == b"r":
        parts = []
        for _ in range(3):
            part, start = _read(data, start)
            parts.append(part)
        return range(*parts), start
    size, start = _take(data, start, 4)
    size = _LENGTH.unpack(size)[0]
    if tag in _FROM_BYTES:
        payload, start = _take(data, start, size)
        return _FROM_BYTES[tag](payload), start
    if tag not in _FROM_LIST:
        raise ValueError("unknown tag")
    elements = []
    for _ in range(size):
        element, start = _read(data, start)
        elements.append(element)
    return _FROM_LIST[tag](elements), start


def _fraction(payload):
    from fractions import Fraction

    return Fraction(payload.decode())


def _decimal(payload):
    from decimal import Decimal

    return Decimal(payload.decode())


def _deque(elements):
    from collections import deque

    return deque(elements)


def _dict(flat):
    return dict(zip(flat[::2], flat[1::2], strict=True))


_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_FROM_BYTES = {
    b"i": lambda payload: int.from_bytes(payload, "big", signed=True),
    b"s": lambda payload: payload.decode("utf-8", "surrogatepass"),
    b"b": bytes,
    b"B": bytearray,
    b"R": _fraction,
    b"D": _decimal,
    b"o": lambda payload: Opaque(payload.decode("utf-8", "replace")),
}
_FROM_LIST = {
    b"l": list,
    b"t": tuple,
    b"e": set,
    b"z": frozenset,
    b"d": _dict,
    b"q": _deque,
    b"I": iter,
    b"K": lambda keys: dict.fromkeys(keys).keys(),
    b"V": lambda values: dict(enumerate(values)).values(),
    b"M": lambda items: dict(items).items(),
}
