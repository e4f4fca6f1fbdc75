"""What the fields of a record may hold: one table, by which every reader of records checks them.

    {"id": "a", "alpha": 4.0}             fits
    {"id": "a", "alpha": "four"}          is refused: alpha must be a finite number or "inf"
    {"id": "a", "alpha": None}            fits: None says that the value is not known
    {"id": "a", "color": "blue"}          fits: the table has no such field

A field that `FIELDS` does not name is not checked. It stays in the record wherever that is copied,
and it takes part neither in the record's id nor in the rows of tables. So a new field of records
should be named here, and in `identity.LAW` too if it decides how a completion is distributed.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from powerjax.records import scalars

_MOST = 2**31 - 1  # int32


class Kind(NamedTuple):
    """What a field may hold.

    Attributes:
      fits: whether the field may have this value, which is never None.
      words: what it may have, as a message says it after "must be".
    """

    fits: Callable[[Any], bool]
    words: str


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_whole(value: Any, least: int = 0, most: int = _MOST) -> bool:
    # The first test is for speed: almost all numbers of a file are token ids.
    is_int = type(value) is int or (
        isinstance(value, numbers.Integral) and not isinstance(value, bool)
    )
    return is_int and least <= value <= most


def _is_number(value: Any) -> bool:
    if type(value) is not float and (
        not isinstance(value, numbers.Real) or isinstance(value, bool)
    ):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond float64
        return False


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_whole(token) for token in value)


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(m, dict) and _is_text(m.get("content")) for m in value)
    )


_MOVES = ("restart", "suffix", "base")


def _is_trace(value: Any) -> bool:
    fits = {
        "log_p": _is_number,
        "length": _is_whole,
        "accepted": lambda v: v in (0, 1),
        "kind": lambda v: v in _MOVES,
    }
    if not isinstance(value, dict) or value.keys() != fits.keys():
        return False
    lists = [value[name] for name in fits]
    return (
        all(isinstance(entries, list) for entries in lists)
        and len({len(entries) for entries in lists}) == 1
        and all(fits[name](entry) for name in fits for entry in value[name])
    )


TEXT = Kind(_is_text, "text")
WHOLE = Kind(_is_whole, "a whole number, 0 or more")
# A float such as 20.0 counts: tools that hold records as columns make floats of a column of whole
# numbers where one record lacks the field.
_COUNT = Kind(
    lambda v: _is_whole(int(v) if isinstance(v, float) and v.is_integer() else v), WHOLE.words
)
NUMBER = Kind(_is_number, "a finite number")
IDS = Kind(_is_ids, "a list of token ids, 0 or more")
NAME = Kind(lambda v: _is_text(v) or _is_whole(v, -(2**63), 2**64), "text or a whole number")
_SEED = Kind(lambda v: _is_whole(v, -(2**63), 2**64 - 1), "a whole number of 64 bits")
_ALPHA = Kind(lambda v: v == "inf" or _is_number(v), 'a finite number or "inf"')
_PROMPT = Kind(
    lambda v: _is_text(v) or _is_ids(v) or _is_chat(v), "text, token ids or chat messages"
)
_MESSAGES = Kind(
    lambda v: _is_chat(v) and all(_is_text(m.get("role")) for m in v),
    "a list of messages, each with a role and a content that are text",
)
_NUMBERS = Kind(
    lambda v: isinstance(v, list) and all(map(_is_number, v)), "a list of finite numbers"
)
_VERDICT = Kind(lambda v: type(v) in (bool, int) and v in (0, 1), "true or false")
_FLAG = Kind(lambda v: type(v) is bool, "true or false")
_TRACE = Kind(_is_trace, "an object of four lists of one length: log_p, length, accepted and kind")
_OBJECT = Kind(lambda v: isinstance(v, dict), "an object")

FIELDS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            *("id", "task", "model", "adapter", "adapter_hash", "weights", "dtype"),
            *("prompt_style", "prompt_sha256", "sampler", "stop", "kernel", "completion"),
            *("proposal", "proposal_hash", "move"),
            *("finish_reason", "extracted_answer", "evaluated_model", "evaluated_as", "of"),
        ),
        TEXT,
    ),
    **dict.fromkeys(("sample_index", "step", "epoch"), WHOLE),
    **dict.fromkeys(
        (
            *("num_tokens", "block_size", "num_mcmc_steps", "max_new_tokens", "top_k"),
            *("num_forward_tokens", "num_proposal_forward_tokens", "num_early_rejections"),
            "vocab_size",
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *(
                "temperature",
                "proposal_temperature",
                "log_prob",
                "self_reward",
                "acceptance_rate",
                "loss",
            ),
            *("evaluated_log_prob", "evaluated_self_reward"),
        ),
        NUMBER,
    ),
    "problem_id": NAME,
    "alpha": _ALPHA,
    "seed": _SEED,
    "prompt": _PROMPT,
    "messages": _MESSAGES,
    "tokens": IDS,
    **dict.fromkeys(("log_probs", "mixture"), _NUMBERS),
    "correct": _VERDICT,
    **dict.fromkeys(("chosen", "adapter_merged"), _FLAG),
    "trace": _TRACE,
    "grade_detail": _OBJECT,
}


def check(
    row: Mapping[str, Any],
    where: str,
    *,
    needs: Iterable[str] = (),
    kinds: Mapping[str, Kind] = FIELDS,
) -> None:
    """Checks the fields of one record.

    Args:
      row: the record.
      where: what the message calls the record, such as "records.jsonl, line 3".
      needs: names of fields that must be there and must not be None.
      kinds: field name -> what it may hold. Fields that are absent or None are passed over, and so
        are those that `kinds` does not name.

    Raises ValueError for the first field that is not what it must be.
    """
    for name in needs:
        if row.get(name) is None:
            raise ValueError(f"{where}: the record has no {name}; mend or delete that line")
    for name, kind in kinds.items():
        value = row.get(name)
        if value is not None and not kind.fits(value):
            raise ValueError(
                f"{where}: {name} must be {kind.words}, and is {_described(value)}; mend that line"
            )


def _described(value: Any) -> str:
    """How a message describes a bad value: a number is quoted, of others only the type is named.

    A text may be that of a secret problem, so no part of it is quoted.
    """
    if isinstance(value, str) and not _is_text(value):
        return "text with half a surrogate pair"
    if isinstance(value, bool | int | float):
        return scalars.shown(value)
    words: dict[type, str] = {str: "text", list: "a list of something else", dict: "an object"}
    return words.get(type(value), f"of type {type(value).__name__}")
