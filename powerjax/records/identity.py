"""Which law a completion is drawn from: the settings that decide it, a hash and a name for them.

A setting belongs to the law if another value of it changes the distribution of a completion. The
dtype belongs to it, and so does a merged adapter where the weights are narrower than float32: both
round the weights themselves to those of another model. What only changes the order in which numbers
are added does not: slots, devices, the attention's implementation, early rejection. The seed and
the sample index do not either: they name one draw from the law.

The law is used three times. The uses differ in how they treat None and an absent field:

    a = {"alpha": 4.0, "top_k": None}     states that all tokens could be drawn
    b = {"alpha": 4.0}                    does not state top_k: it is older than that field

- The hash in an id leaves out what is None, so a and b have one hash. A field that is added to
  `LAW` later therefore changes no older id.
- The rows of a table (`evaluation.rows`) compare what is stated, so a and b stand in two rows:
  nobody knows which top_k b was drawn with.
- `differences`, which compares the records of a run with its settings, skips a field that one of
  the two does not state, so a and b do not contradict each other. None is a value there: a and
  {"alpha": 4.0, "top_k": 20} differ. A law that states no proposal model has none.
"""

import hashlib
import json
import numbers
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from powerjax.records import scalars

# The fields of a record that decide its law. Each setting of a sampler that changes how its
# completions are distributed has to be named here, or two settings would share one id.
# `fields.FIELDS` says which values each field may have.
#   adapter_hash: a hash of the adapter's tensors, which tells apart two adapters of one name.
#   weights: a hash of the model's weights; "random-SEED" for random weights.
#   proposal, proposal_hash: the proposal model's name, and a hash of its weights and adapter.
#   vocab_size: the token ids that both models are restricted to.
#   prompt_style: "raw", "chat" (through the chat template), or the task's wording.
# Records that do not state these were drawn without a proposal model.
_OF_PROPOSALS = (
    *("proposal", "proposal_hash", "move", "proposal_temperature", "mixture", "vocab_size"),
)
LAW = (
    *("sampler", "alpha", "temperature", "num_mcmc_steps", "block_size", "stop", "kernel"),
    *("top_k", "max_new_tokens", "prompt_style", "dtype"),
    *("adapter", "adapter_merged", "adapter_hash", "weights"),
    *_OF_PROPOSALS,
)
# Hashes say little to a reader, so a label has them only where nothing else differs.
_HASHES = ("adapter_hash", "weights", "proposal_hash")
_EQUALS = {
    "alpha": "alpha",
    "temperature": "tau",
    "num_mcmc_steps": "N",
    "block_size": "B",
    "stop": "stop",
    "kernel": "kernel",
    "proposal_temperature": "tau_q",
    "mixture": "shares",
}
_STYLES = {"raw": "raw prompt", "chat": "chat template"}
_NUM_HEX = 8


def stated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of `settings` whose names are in `LAW`, in one form for each value.

    Two results may be compared by ==. An entry that is None is returned too. Numbers are rounded to
    float32, in which the sampler computes, so that 4, 4.0 and np.float32(4) agree. Where the hash
    of an adapter is known, the adapter goes by the name of its folder instead of its path, so that
    a run folder may be moved.

    settings: field name -> value: a record, or the settings of a sampler.
    """
    law = {name: _normal(settings[name]) for name in LAW if name in settings}
    if law:  # a record that names no proposal model has none, however old it is
        law |= {name: None for name in _OF_PROPOSALS if name not in law}
    if law.get("adapter_hash") is not None and isinstance(law.get("adapter"), str):
        law["adapter"] = adapter_label(law["adapter"])
    return law


def law_hash(settings: Mapping[str, Any]) -> str:
    """Returns eight hexadecimal digits that name the law, the same on every machine.

    Settings that are None are left out, so that a field added later leaves older hashes as they
    are.
    """
    law = {name: value for name, value in stated(settings).items() if value is not None}
    text = json.dumps(law, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_NUM_HEX]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns (name, value before, value now) for each setting that both state and that differs.

    [] therefore says that the two do not contradict each other. Where only one of the two has the
    hash of an adapter, nothing about adapters is compared: one names it by its folder, the other by
    its path.
    """
    before, now = stated(before), stated(now)
    if before.get("proposal") != now.get("proposal"):
        before, now = ({"proposal": None} | law for law in (before, now))
    names = [name for name in LAW if name in before and name in now]
    if (before.get("adapter_hash") is None) != (now.get("adapter_hash") is None):
        names = [name for name in names if not name.startswith("adapter")]
    return [(name, before[name], now[name]) for name in names if before[name] != now[name]]


def shown(value: Any) -> str:
    """Returns the text of one value of `stated`, for messages and labels: 0.3, not 0.30000001192.

    A float gets the fewest digits that float32 reads as the same number, so no two values look
    alike.
    """
    return str(np.float32(value)) if isinstance(value, float) else str(value)


def adapter_label(path: str) -> str:
    """Returns the short name of an adapter's folder.

    That is the folder's own name, or its parent's where the folder is called just "adapter".
    """
    folder = PurePosixPath(path)
    name = folder.parent.name if folder.name == "adapter" else folder.name
    return name or folder.name


def labels(laws: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a label for each of several different laws, such as `top_k 20, 512 tokens`.

    Only settings that differ are named, so the label of a single law is empty. A law that does not
    state what others do is labelled `settings not recorded`.

    laws: results of `stated`.
    """
    differing = [n for n in LAW if len({law[n] for law in laws if n in law}) > 1]
    plain = [name for name in differing if name not in _HASHES]
    known = {name for law in laws for name in law}

    def label(law: Mapping[str, Any], names: Sequence[str], lacking: str) -> str:
        parts = [_phrase(name, law[name]) for name in names if name in law]
        parts = [part for part in parts if part]
        return ", ".join([*parts, lacking] if known - law.keys() else parts)

    short = [label(law, plain, "settings not recorded") for law in laws]
    if len(set(short)) == len(short):
        return short
    unstated = [" and ".join(n for n in LAW if n in known - law.keys()) for law in laws]
    return [
        label(law, differing, f"{names} not recorded")
        for law, names in zip(laws, unstated, strict=True)
    ]


def _phrase(name: str, value: Any) -> str:
    """Returns one setting as a label has it: `alpha=4`, `512 tokens`, `no adapter`."""
    text = shown(value)
    if value is None and name in _OF_PROPOSALS:  # "no proposal" says it all
        return "no proposal" if name == "proposal" else ""
    if name in _EQUALS:
        return f"{_EQUALS[name]}={text}"
    if name == "max_new_tokens":
        return f"{text} tokens"
    if name == "move":
        return f"{text} moves"
    if name == "prompt_style":
        return _STYLES.get(value, f"{text} prompt")
    if name == "dtype":
        return text
    if name == "adapter_merged":
        return "adapter merged" if value else "adapter not merged"
    return f"no {name}" if value is None else f"{name} {text}"


def _normal(value: Any) -> Any:
    """Returns a setting as a plain value: whole numbers as int, others rounded to float32."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if not isinstance(value, numbers.Real):
        return json.dumps(value, sort_keys=True, default=str)
    if isinstance(value, numbers.Integral):
        return int(value)
    rounded = scalars.in_float32(float(value))
    return int(rounded) if rounded.is_integer() else rounded
