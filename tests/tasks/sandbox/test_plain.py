"""Plain data between two interpreters: what arrives, as what, and what is refused."""

import collections
import decimal
import fractions
import os

import numpy as np
import pytest

from powerjax.tasks.sandbox.confined import plain

VALUES = [
    *(None, True, False, 0, -1, 127, 128, -128, -129, 255, 256, 1 << 100, -(1 << 100)),
    *(0.0, -0.0, 1.5, float("inf"), 1j, "", "ä\0\ud800", b"\0\xff", bytearray(b"x")),
    *([], [1, [2, (3,)]], (), {1, 2}, frozenset([(1, 2)]), {"a": [1], 2: {3: 4}}),
    *(range(3), range(5, 0, -2)),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_data_arrives_as_it_was(value):
    got = plain.decode(plain.encode(value))
    assert type(got) is type(value) and repr(got) == repr(value)


def test_other_types_arrive_as_what_they_derive_from():
    def sent(value):
        return plain.decode(plain.encode(value))

    Point = collections.namedtuple("Point", "x y")
    pairs = [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
    ]
    for value, expected in pairs:
        assert type(sent(value)) is type(expected) and sent(value) == expected
    same = [collections.deque([1]), decimal.Decimal("1.5"), fractions.Fraction(1, 3)]
    for value in [*same, {1: 2}.keys(), {1: 2}.items()]:
        assert type(sent(value)) is type(value) and sent(value) == value
    assert list(sent({1: 2}.values())) == [2] and list(sent(x * x for x in range(3))) == [0, 1, 4]
    for value in (object(), len, os, int, ValueError("x"), [print]):
        got = sent(value)
        got = got[0] if isinstance(got, list) else got
        assert type(got) is plain.Opaque and got != value


def test_bytes_that_are_no_value_are_refused():
    whole = plain.encode({"a": [1, 2.0, "x", (None,)], (1,): {2}})
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            plain.decode(whole[:end])
    for wrong in (b"", b"?", b"NN", b"l\xff\xff\xff\xffN", b"e\0\0\0\1l\0\0\0\0"):
        with pytest.raises((ValueError, TypeError)):
            plain.decode(wrong)
    with pytest.raises(ValueError, match="too large"):
        plain.encode([b"x" * 1000] * 10, limit=5000)
