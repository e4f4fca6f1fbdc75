"""Which layers of a model have a sliding window, read from a config.json and written to one."""

from typing import Any

from powerjax.models.families import Family
from powerjax.models.json_file import damaged, switch, whole_number

FULL, SLIDING = "full_attention", "sliding_attention"
_FILE = "config.json"


def read(hf: dict[str, Any], family: Family) -> tuple[int | None, tuple[int, ...]]:
    """Returns the window in tokens, and the numbers of the layers that see everything all the same.

    The window is None, and no layer is listed, where it is in force on no layer. A Qwen config.json
    names a window that usually is not in force.

    Raises ValueError for a damaged value, and for a kind of layer that is not computed.
    """
    in_use = family.windows in ("always", "pattern") or (
        family.windows == "switch" and switch(hf, "use_sliding_window", file=_FILE)
    )
    window = whole_number(hf, "sliding_window", file=_FILE, least=1 if in_use else 0)
    types = _layer_types(hf, family)
    if not in_use:
        return None, ()
    if family.windows == "always":
        return window, ()
    if window is None and SLIDING in types and family.windows == "pattern":
        raise ValueError(f"config.json has {SLIDING} layers and no sliding_window: it is damaged")
    full = tuple(i for i, kind in enumerate(types) if kind == FULL)
    if window is None or len(full) == len(types):
        return None, ()
    return window, full


def _layer_types(hf: dict[str, Any], family: Family) -> list[str]:
    """Returns the kind of each layer: `layer_types`, or what transformers makes of other keys."""
    num_layers = hf["num_hidden_layers"]
    # Layers from `max_window_layers` on have the window; transformers' default is 28.
    first = whole_number(hf, "max_window_layers", file=_FILE, least=0)
    every = whole_number(hf, "sliding_window_pattern", file=_FILE)
    types = hf.get("layer_types")
    if not isinstance(types, list | None):
        raise damaged(_FILE, "layer_types", types, "a list")
    unread = [kind for kind in types or () if kind not in (FULL, SLIDING)]
    if unread:
        raise ValueError(f"layer_types has {unread[0]!r}, only {FULL} and {SLIDING} are read")
    if types is not None:
        if len(types) != num_layers:
            raise ValueError(
                f"layer_types has {len(types)} entries for {num_layers} layers: {_FILE} is damaged"
            )
        return types
    if family.windows == "pattern":
        every = 6 if every is None else every
        return [SLIDING if (i + 1) % every else FULL for i in range(num_layers)]
    first = 28 if first is None else first
    return [FULL if i < first else SLIDING for i in range(num_layers)]


def as_hf(
    window: int | None, full_layers: tuple[int, ...], num_layers: int, family: Family
) -> dict[str, Any]:
    """Returns the entries of a config.json, with key names that transformers 4 and 5 both read."""
    if family.windows == "never":
        return {}
    hf: dict[str, Any] = {"sliding_window": window}
    if family.windows == "always":
        return hf
    full = range(num_layers) if window is None else full_layers
    if family.windows == "switch":
        hf["use_sliding_window"] = window is not None
        first = next((i for i in range(num_layers) if i not in full), num_layers)
        hf["max_window_layers"] = first
        if list(full) == list(range(first)):
            return hf
    return hf | {"layer_types": [FULL if i in full else SLIDING for i in range(num_layers)]}
