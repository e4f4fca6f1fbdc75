"""RopeConfig: the settings of the rotary embedding, read from a config.json and written to one.

A new kind needs a branch in `read`, in `as_hf` and in `rope.inverse_frequencies`, and an entry in
the `rope_kinds` of its families (families.py).
"""

import dataclasses
import math
from typing import Any, TypeVar

from powerjax.models.families import Family
from powerjax.models.json_file import damaged, is_positive, number, whole_number

_FILE = "config.json"
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Settings of the rotary embedding.

    kind: "default", or "longrope", which divides the frequencies by a list of factors.
    short_factor, long_factor: longrope's factors, one per frequency, for runs within
        `original_max_position_embeddings` tokens and for longer ones.
    attention_factor: multiplies cos and sin; 1 for the default kind.
    rotary_fraction: the share of each head's numbers, from the first on, that is rotated.
    """

    theta: float = 10_000.0
    kind: str = "default"
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0
    rotary_fraction: float = 1.0


def first_given(*values: _T | None) -> _T:
    """Returns the first value that is not None; the last one has to be given."""
    return next(value for value in values if value is not None)


def read(hf: dict[str, Any], family: Family, head_dim: int, max_length: int) -> RopeConfig:
    """Reads the rotary embedding of a config.json.

    Args:
      hf: config.json as a dict.
      family: the model's row of the table in families.py.
      head_dim: H, numbers per head.
      max_length: `max_position_embeddings`, tokens.

    Raises ValueError for a damaged value, for a kind that the family's row does not list, and for
    one that is listed there but has no branch here.
    """
    parameters = _parameters(hf)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    kind = family.rope_aliases.get(kind, kind) if isinstance(kind, str) else kind
    both = (parameters, hf)
    theta = first_given(*(number(values, "rope_theta", file=_FILE) for values in both), 10_000.0)
    fraction = _rotary_fraction(both, family, head_dim)
    factor = number(parameters, "factor", file=_FILE)
    attention_factor = number(parameters, "attention_factor", file=_FILE)
    key = "original_max_position_embeddings"
    original = first_given(
        *(whole_number(values, key, file=_FILE, least=2) for values in reversed(both)),
        family.original_context,
        max_length,
    )
    if kind == "default":
        return RopeConfig(theta=theta, rotary_fraction=fraction)
    _check_kind(kind, parameters, family)
    if kind != "longrope":
        raise ValueError(
            f"rope_type {kind!r} is in the row of {family.architecture} in families.py, but"
            " rope_config.read does not build it: add it there"
        )
    scale = first_given(factor, max_length / original)
    if attention_factor is None:
        attention_factor = (
            math.sqrt(1.0 + math.log(scale) / math.log(original)) if scale > 1.0 else 1.0
        )
    num_frequencies = int(head_dim * fraction) // 2
    return RopeConfig(
        theta=theta,
        kind="longrope",
        short_factor=_factors(parameters, "short_factor", num_frequencies),
        long_factor=_factors(parameters, "long_factor", num_frequencies),
        original_max_position_embeddings=original,
        attention_factor=attention_factor,
        rotary_fraction=fraction,
    )


def as_hf(rope: RopeConfig) -> dict[str, Any]:
    """Returns the entries of a config.json, with key names that transformers 4 and 5 both read."""
    hf: dict[str, Any] = {"rope_theta": rope.theta}
    if rope.rotary_fraction != 1.0:
        hf["partial_rotary_factor"] = rope.rotary_fraction
    if rope.kind == "longrope":
        hf["original_max_position_embeddings"] = rope.original_max_position_embeddings
        hf["rope_scaling"] = {
            "type": "longrope",
            "short_factor": list(rope.short_factor),
            "long_factor": list(rope.long_factor),
            "attention_factor": rope.attention_factor,
        }
    return hf


def _parameters(hf: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings under `rope_scaling`, else those under `rope_parameters`.

    That is the order of transformers. transformers 5 may nest the settings by the type of layer;
    they are then returned once, and ValueError is raised if they differ between types.
    """
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(hf.get(key), dict | None):
            raise damaged(_FILE, key, hf[key], "an object")
    parameters = dict(hf.get("rope_scaling") or hf.get("rope_parameters") or {})
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    nested = [value for value in nested if value.keys() & {"rope_theta", "rope_type", "type"}]
    if not nested:
        return parameters
    if len(nested) < len(parameters) or any(value != nested[0] for value in nested):
        types = ", ".join(parameters)
        raise ValueError(f"rope_parameters that differ between layers ({types}) are not supported")
    return dict(nested[0])


def _rotary_fraction(both: tuple[dict, dict], family: Family, head_dim: int) -> float:
    """Returns `partial_rotary_factor`, 1 where there is none, checked against family and head."""
    key = "partial_rotary_factor"
    fraction = first_given(*(number(values, key, file=_FILE, most=1.0) for values in both), 1.0)
    if fraction != 1.0 and not family.partial_rotary:
        raise ValueError(
            f"partial_rotary_factor {fraction:g} is not supported for {family.architecture}, whose"
            " heads transformers rotates as a whole"
        )
    rotated = int(head_dim * fraction)
    if rotated < 2 or rotated % 2:
        raise ValueError(
            f"{rotated} of the {head_dim} numbers of a head would be rotated, and they are rotated"
            f" in pairs: head_dim or partial_rotary_factor is wrong, and {_FILE} damaged"
        )
    return fraction


def _check_kind(kind: Any, parameters: dict[str, Any], family: Family) -> None:
    """Raises ValueError for a kind the family does not have, and for scales not computed here."""
    unread = {"short_mscale", "long_mscale"} & parameters.keys()
    if kind not in family.rope_kinds:
        refused = f"rope_type {kind!r}"
    elif unread:
        refused = f"longrope with {sorted(unread)}"
    else:
        return
    raise ValueError(f"{refused} is not supported, only 'default' and plain 'longrope'")


def _factors(parameters: dict[str, Any], key: str, count: int) -> tuple[float, ...]:
    """Reads a list of longrope's factors: `count` numbers above 0, one per frequency."""
    values = first_given(parameters.get(key), [])
    if not isinstance(values, list) or not all(map(is_positive, values)):
        raise damaged(_FILE, f"longrope {key}", values, "a list of numbers above 0")
    if len(values) != count:
        raise ValueError(
            f"longrope {key} has {len(values)} entries, {count} are needed: {_FILE} is damaged"
        )
    return tuple(float(x) for x in values)
