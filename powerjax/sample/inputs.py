"""Checks of what a user gives a sampler: each mistake is one ValueError of one line.

Numbers of Python, NumPy and JAX are taken alike and come back as Python's, which JSON can hold.
Bounds are checked on a number as the device holds it: whole numbers in int32, others in float32.
"""

import math
from typing import Any

import numpy as np

from powerjax.models import prompts as prompts_lib
from powerjax.models.language_model import LM
from powerjax.records import fields, scalars
from powerjax.sample import draws

_MOST = 2**31 - 1  # int32
# A temperature of 1e-4 is greedy decoding in all but name. With alpha up to 1e30, the sum of
# alpha log p over a completion is finite.
_COLDEST, _LARGEST = 1e-4, 1e30


def power(alpha: Any, temperature: Any) -> tuple[float, float | None]:
    """(alpha, temperature) as floats. Alpha is from 1 to 1e30; the temperature may be None."""
    number = scalars.real(alpha)
    if number is None or not 1 <= scalars.in_float32(number) <= np.float32(_LARGEST):
        hint = " (power_inf is the limit)" if number is not None and number > 1 else ""
        raise ValueError(
            f"alpha is {scalars.shown(alpha)}: it must be a finite number from 1 to"
            f" {_LARGEST:g}{hint}"
        )
    return number, None if temperature is None else positive(temperature)


def positive(temperature: Any, name: str = "temperature") -> float:
    """A temperature that float32 can divide logits by, as a float. `name` is for the message."""
    number = scalars.real(temperature)
    on_device = math.nan if number is None else scalars.in_float32(number)
    if number is None or not np.float32(_COLDEST) <= on_device <= np.float32(_LARGEST):
        raise ValueError(
            f"{name} is {scalars.shown(temperature)}: it must be a finite number from"
            f" {_COLDEST:g} to {_LARGEST:g}"
        )
    return number


def share(name: str, value: Any) -> float:
    """A number from 0 to 1, as a float."""
    number = scalars.real(value)
    if number is None or not 0 <= number <= 1:
        raise ValueError(f"{name} is {scalars.shown(value)}: it must be a number from 0 to 1")
    return number


def shares(name: str, values: Any) -> tuple[float, float, float]:
    """Three numbers from 0 to 1 that sum to 1, as floats."""
    listed = prompts_lib.listed(values, name, "a list of three numbers")
    numbers = tuple(share(name, value) for value in listed)
    if len(numbers) != 3 or abs(sum(numbers) - 1) > 1e-6:
        raise ValueError(f"{name} is {values}: it must be three numbers that sum to 1")
    return numbers


def whole(name: str, value: Any, least: int, most: int = _MOST) -> int:
    """A whole number from `least` to `most`, as an int."""
    return scalars.whole_from(name, value, least, most)


def whole_or_none(name: str, value: Any, least: int) -> int | None:
    """A whole number, `least` or more, as an int; None passes."""
    return None if value is None else whole(name, value, least)


def seed(value: Any) -> int:
    """A seed from -2**63 to 2**64 - 1, as an int."""
    return whole("seed", value, -(2**63), 2**64 - 1)


def check_stop_ids(lm: LM) -> None:
    """Raises ValueError where the model names no token that ends a completion."""
    if not lm.stop_ids:
        raise ValueError(
            f"{lm.name or 'the model'} names no EOS token, so no completion would end: add"
            " eos_token_id to its generation_config.json (to draw fixed lengths on purpose, give"
            " the LM stop_ids=(-1,))"
        )


def prompt_tokens(lm: LM, prompts: Any, max_new_tokens: int) -> list[list[int]]:
    """The token ids of each prompt. `models.prompts` says what a prompt may be.

    Raises ValueError where there is no prompt, where one is empty, and where one leaves no room for
    max_new_tokens in the model's context.
    """
    tokens = prompts_lib.encode_all(lm, prompts)
    if not tokens:
        raise ValueError("prompts is empty: give at least one prompt")
    for i, row in enumerate(tokens):
        if not row:
            raise ValueError(f"prompt {i} is empty: its first token would have no context")
        try:
            lm.config.check_length(len(row) + max_new_tokens)
        except ValueError as error:
            raise ValueError(f"prompt {i} ({len(row)} tokens): {error}") from None
    return tokens


def names(ids: Any, count: int) -> list[str | int]:
    """The problems' names, as strings and ints; 0, 1, ... where ids is None.

    Raises ValueError where there are not `count`, where two look the same in records ("1" and 1),
    and where two would key the same draws.
    """
    if ids is None:
        return list(range(count))
    found = [_name(value) for value in prompts_lib.listed(ids, "ids", "a list of names")]
    if len(found) != count:
        raise ValueError(f"{len(found)} ids for {count} prompts: give one for each")
    for key, what in ((str, "are written alike"), (draws.chain_id, "name the same draws")):
        seen: dict[Any, str | int] = {}
        for name in found:
            other = seen.setdefault(key(name), name)
            if (type(other), other) != (type(name), name):
                raise ValueError(
                    f"the ids {scalars.shown(other)} and {scalars.shown(name)} {what}: give each"
                    " prompt a name of its own"
                )
    if len(set(found)) != count:
        twice = next(name for name in found if found.count(name) > 1)
        raise ValueError(
            f"id {scalars.shown(twice)} names two prompts: their chains would be the same"
        )
    return found


def _name(value: Any) -> str | int:
    if isinstance(value, str):
        return prompts_lib.check_text(str(value), f"id {scalars.shown(value)}")
    number = scalars.whole(value)
    if number is None:
        raise ValueError(f"id {scalars.shown(value)} is neither a string nor a whole number")
    if not fields.NAME.fits(number):  # whoever reads the record would refuse it
        raise ValueError(f"id {scalars.shown(value)} has more than 64 bits: give it as a string")
    return number
