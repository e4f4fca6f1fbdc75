"""Adapters as PEFT folders that peft's PeftModel.from_pretrained loads."""

import collections
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from powerjax.models import lora
from powerjax.models.config import ModelConfig
from powerjax.models.peft import modules as modules_lib
from powerjax.models.peft.modules import PREFIX
from powerjax.models.peft.settings import CONFIG, WEIGHTS


def save(
    folder: str | os.PathLike[str],
    adapter: lora.Adapter,
    config: ModelConfig,
    *,
    base_model: str = "",
) -> None:
    """Writes the adapter as a PEFT folder, which is made if need be.

    base_model: the id or folder of the model it adapts, noted in adapter_config.json.
    """
    flat = {
        path: np.asarray(jax.device_get(x), np.float32)
        for path, x in traverse_util.flatten_dict(adapter.params, sep="/").items()
    }
    modules = modules_lib.by_name(config)
    arrays, ranks = {}, {}
    for module, parts in modules.items():
        pair = modules_lib.fused(parts, flat)
        if pair is None:
            continue
        ranks[module] = pair[0].shape[0]
        arrays[f"{PREFIX}{module}.lora_A.weight"] = pair[0]
        arrays[f"{PREFIX}{module}.lora_B.weight"] = pair[1]
    settings = _settings(adapter.config, ranks, _short_names(ranks, modules), base_model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def _settings(
    config: lora.LoraConfig, ranks: dict[str, int], names: dict[str, str], base_model: str
) -> dict[str, Any]:
    """Returns the contents of adapter_config.json.

    A fused module has a rank of its own, and the alpha that leaves it the adapter's scale.
    """
    other_ranks = {names[module]: r for module, r in ranks.items() if r != config.rank}
    alphas = {
        name: config.scale * (r**0.5 if config.rslora else r) for name, r in other_ranks.items()
    }
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": _whole_if_it_is(config.alpha),
        "lora_dropout": config.dropout,
        "target_modules": sorted(set(names.values())),
        "rank_pattern": other_ranks,
        "alpha_pattern": {name: _whole_if_it_is(alpha) for name, alpha in alphas.items()},
        "use_rslora": config.rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _short_names(ranks: dict[str, int], modules: Iterable[str]) -> dict[str, str]:
    """Returns how adapter_config.json names each adapted module.

    The short name (`q_proj`) serves where all layers' modules of that name have one rank;
    otherwise a module is named in full.
    """
    groups = collections.defaultdict(list)
    for module in modules:
        groups[module.rpartition(".")[2]].append(module)
    names: dict[str, str] = {}
    for short, members in groups.items():
        agree = len({ranks.get(module) for module in members}) == 1
        names |= {module: short if agree else module for module in members if module in ranks}
    return names


def _whole_if_it_is(number: float) -> float | int:
    """Returns 32 for 32.0, so that the file reads as PEFT's own does."""
    return int(number) if float(number).is_integer() else float(number)
