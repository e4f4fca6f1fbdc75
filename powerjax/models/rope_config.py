"""RopeConfig: the settings of the rotary embedding, read from a config.json and written to one.

A new kind needs a branch in `read`, in `as_hf` and in `rope.inverse_frequencies`, and an entry in
the `rope_kinds` of its families (families.py).
"""

import dataclasses
import math
from typing import Any, TypeVar

from powerjax.models.families import Family
from powerjax.models.json_file import damaged, is_positive, number, whole_number
from powerjax.models.window_config import FULL, SLIDING

_FILE = "config.json"
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Settings of the rotary embedding.

    kind: "default"; "linear", which divides the frequencies by `factor`; "llama3", which divides
        the low ones; or "longrope", which divides them by a list of factors.
    low_freq_factor, high_freq_factor: llama3's. A frequency that turns fewer times than the first
        in `original_max_position_embeddings` tokens is divided by `factor`, one that turns more
        often than the second is left, and those between are interpolated.
    short_factor, long_factor: longrope's factors, one per frequency, for runs within
        `original_max_position_embeddings` tokens and for longer ones.
    attention_factor: multiplies cos and sin; 1 for all kinds but longrope.
    rotary_fraction: the share of each head's numbers, from the first on, that is rotated.
    """

    theta: float = 10_000.0
    kind: str = "default"
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0
    rotary_fraction: float = 1.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0


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
    parameters = _of_full_layers(hf) if family.local_rope else _parameters(hf)
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
    if kind == "linear":
        factor = _needed(parameters, "factor")
        return RopeConfig(theta=theta, kind=kind, factor=factor, rotary_fraction=fraction)
    if kind == "llama3":
        factors = _llama3_factors(parameters)
        return RopeConfig(theta, kind, (), (), original, 1.0, fraction, *factors)
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


def read_local(hf: dict[str, Any]) -> RopeConfig:
    """Reads the rotary embedding of layers with a sliding window, where it is one of their own.

    Raises ValueError for a damaged value, and for any kind but the default.
    """
    parameters = _of_layers(hf, SLIDING)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind != "default":
        raise ValueError(f"rope_type {kind!r} of {SLIDING} layers is not supported")
    theta = number(parameters, "rope_theta", file=_FILE)
    return RopeConfig(
        theta=first_given(theta, number(hf, "rope_local_base_freq", file=_FILE), 10_000.0)
    )


def as_hf(rope: RopeConfig, local: RopeConfig | None = None) -> dict[str, Any]:
    """Returns the entries of a config.json, with key names that transformers 4 and 5 both read.

    local: the rotary embedding of layers with a sliding window, where it is one of their own.
    """
    hf: dict[str, Any] = {"rope_theta": rope.theta}
    if rope.rotary_fraction != 1.0:
        hf["partial_rotary_factor"] = rope.rotary_fraction
    if local is not None:
        hf["rope_local_base_freq"] = local.theta
    if rope.kind in ("linear", "llama3"):
        hf["rope_scaling"] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "llama3":
        hf["rope_scaling"] |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_position_embeddings,
        }
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
    _check_objects(hf)
    parameters = dict(hf.get("rope_scaling") or hf.get("rope_parameters") or {})
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    nested = [value for value in nested if value.keys() & {"rope_theta", "rope_type", "type"}]
    if not nested:
        return parameters
    if len(nested) < len(parameters) or any(value != nested[0] for value in nested):
        types = ", ".join(parameters)
        raise ValueError(f"rope_parameters that differ between layers ({types}) are not supported")
    return dict(nested[0])


def _check_objects(hf: dict[str, Any]) -> None:
    """Raises ValueError where `rope_parameters` or `rope_scaling` is neither an object nor null."""
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(hf.get(key), dict | None):
            raise damaged(_FILE, key, hf[key], "an object")


def _of_full_layers(hf: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of layers that see everything: `rope_scaling`'s come first."""
    return _of_layers(hf, FULL) | (hf.get("rope_scaling") or {})


def _of_layers(hf: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns the settings that `rope_parameters` has for one kind of layer, {} for none.

    Raises ValueError where it has settings that are of no kind of layer.
    """
    _check_objects(hf)
    parameters = hf.get("rope_parameters") or {}
    if parameters and not parameters.keys() <= {FULL, SLIDING}:
        raise damaged(_FILE, "rope_parameters", parameters, f"an object of {FULL} and {SLIDING}")
    values = first_given(parameters.get(kind), {})
    if not isinstance(values, dict):
        raise damaged(_FILE, f"rope_parameters of {kind}", values, "an object")
    return values


def _llama3_factors(parameters: dict[str, Any]) -> tuple[float, float, float]:
    """Returns llama3's (factor, low_freq_factor, high_freq_factor)."""
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factor, low, high = (_needed(parameters, name) for name in names)
    if high <= low:
        raise damaged(_FILE, "high_freq_factor", high, f"above low_freq_factor, {low:g}")
    return factor, low, high


def _needed(parameters: dict[str, Any], key: str) -> float:
    """Returns the number under `key`. Raises ValueError where there is none."""
    value = number(parameters, key, file=_FILE)
    if value is None:
        raise ValueError(f"rope_scaling has no {key}: {_FILE} is damaged")
    return value


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
    kinds = " and ".join(map(repr, family.rope_kinds))
    raise ValueError(f"{refused} is not supported for {family.architecture}, only plain {kinds}")


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
