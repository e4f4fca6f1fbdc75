"""Numbers of any library become Python's; what is no number is none."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from powerjax.records import scalars


@pytest.mark.parametrize(
    "value", [3, np.int8(3), np.uint64(3), np.array(3), jnp.int32(3), jnp.array(3)]
)
def test_whole_numbers_of_every_library_are_ints(value):
    assert scalars.whole(value) == 3 and type(scalars.whole(value)) is int
    assert type(scalars.real(value)) is float


@pytest.mark.parametrize(
    "value", [1.5, np.float16(1.5), np.array(1.5), jnp.float32(1.5), ml_dtypes.bfloat16(1.5)]
)
def test_real_numbers_of_every_library_are_floats(value):
    assert scalars.real(value) == 1.5 and type(scalars.real(value)) is float
    assert scalars.whole(value) is None


@pytest.mark.parametrize(
    "value", [True, np.True_, np.array(True), "3", None, [3], np.array([3]), b"3", 1j, object()]
)
def test_what_is_no_number_is_none(value):
    assert scalars.whole(value) is None and scalars.real(value) is None


@pytest.mark.parametrize("value", [jax.random.key(0), [jax.random.key(0)]])
def test_what_numpy_cannot_read_is_no_number(value):
    assert scalars.whole(value) is None and scalars.real(value) is None


def test_names_in_a_message_stay_on_its_line():
    assert scalars.listed({"prompt": 1, "answer": 2}) == "prompt, answer"
    assert scalars.listed(["a\nb", "\ud800", 3]) == r"'a\nb', '\ud800', 3"
    assert len(scalars.listed(["k" * 500])) == 60


def test_numbers_past_float64_are_infinite_and_shown_short():
    assert scalars.real(10**400) == math.inf and scalars.real(-(10**400)) == -math.inf
    assert scalars.in_float32(1e39) == math.inf and scalars.in_float32(1 + 1e-9) == 1.0
    assert scalars.shown(10**5000).endswith("bits") and len(scalars.shown("x" * 500)) == 60
    assert "\n" not in scalars.shown(np.ones((3, 3)))
