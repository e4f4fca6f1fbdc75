"""Adapters from PEFT folders onto the devices."""

import collections
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding

from powerjax.models import lora, tensor_file
from powerjax.models.config import ModelConfig
from powerjax.models.peft import modules as modules_lib
from powerjax.models.peft import settings as settings_lib
from powerjax.models.peft import whole_tensors
from powerjax.models.peft.modules import PREFIX, Parts
from powerjax.models.peft.settings import CONFIG, WEIGHTS
from powerjax.models.tensor_file import StoredTensor


def load(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    mesh: Mesh | None = None,
    *,
    base: Mapping[str, StoredTensor] | None = None,
    dtype=np.float32,
) -> lora.Adapter:
    """Returns the adapter in `folder`, each tensor in float32 in its place on the mesh.

    Where rank_pattern or alpha_pattern gives a module a scale of its own, its B is multiplied by
    that scale over the adapter's. Whole tensors of the model that PEFT saved beside the adapter,
    such as embeddings, pass if they equal the model's own up to rounding.

    Args:
      base: the tensors of the model's files by name, which whole tensors are compared with; None
        for a model of random weights.
      dtype: the dtype that the model's tensors were loaded as.

    Raises FileNotFoundError or ValueError, naming folder and module, where the adapter is
    incomplete, belongs to another model, or is of a kind that is not LoRA.
    """
    name, folder = str(folder), Path(folder)
    settings = settings_lib.read(folder)
    stored = tensor_file.read_header(folder / WEIGHTS)
    modules = modules_lib.by_name(config)

    # --- one module at a time: read, divide into its parts, place ---
    flat: dict[str, jax.Array] = {}
    for module, stored_a, stored_b in _pairs(folder, stored, modules, config, base, dtype):
        parts = modules[module]
        a, b = _read_module(folder, settings, module, parts, stored_a, stored_b)
        for path, tensor, a_part, b_part in modules_lib.divided(parts, a, b, settings["r"]):
            places = lora.layer_shardings(path, tensor.shape, config, mesh)
            for letter, x, place in zip("ab", (a_part, b_part), places, strict=True):
                flat[f"{path}/lora_{letter}"] = _place(np.ascontiguousarray(x.T), place)
    if not flat:
        raise ValueError(f"{folder} holds no adapter weights: was it saved before training?")
    _check_layers(folder, settings, modules, stored)

    # --- the adapter's settings, as this package has them ---
    adapted = {path.split("/")[-2] for path in flat}
    adapter_config = lora.LoraConfig(
        rank=settings["r"],
        alpha=float(settings["lora_alpha"]),
        dropout=float(settings.get("lora_dropout") or 0.0),
        target_modules=tuple(target for target in lora.TARGETS if target in adapted),
        rslora=bool(settings.get("use_rslora")),
    )
    return lora.Adapter(adapter_config, traverse_util.unflatten_dict(flat, sep="/"), name)


def _pairs(
    folder: Path,
    stored: Mapping[str, StoredTensor],
    modules: Mapping[str, Parts],
    config: ModelConfig,
    base: Mapping[str, StoredTensor] | None,
    dtype,
) -> Iterator[tuple[str, StoredTensor, StoredTensor | None]]:
    """Yields (module, A, B) for each A in the file; B is None where it is missing.

    Raises ValueError for any other tensor that is not the model's own.
    """
    for key in sorted(stored):
        module, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
        if part == "B.weight" and key.replace(".lora_B.", ".lora_A.") in stored:
            continue
        if part != "A.weight" or module not in modules:
            whole_tensors.check(folder, stored[key], config, base, dtype)
            continue
        yield module, stored[key], stored.get(key.replace(".lora_A.", ".lora_B."))


def _read_module(
    folder: Path,
    settings: dict[str, Any],
    module: str,
    parts: Parts,
    stored_a: StoredTensor,
    stored_b: StoredTensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a module's A[r,in] and B[out,r] as float32, B times its own scale over the adapter's.

    Raises ValueError where B is missing or a shape fits neither the rank nor the model.
    """
    rank = settings_lib.by_pattern(folder, settings, "rank_pattern", module, settings["r"])
    in_size, out_size = parts[0][1].shape[0], parts[0][1].file_rows
    expected = (rank, in_size), (out_size, rank)
    if stored_b is None or (stored_a.shape, stored_b.shape) != expected:
        raise ValueError(
            f"{folder}: {module} has A {stored_a.shape} and B {stored_b and stored_b.shape}, "
            f"but rank {rank} and the model ask for {expected[0]} and {expected[1]}"
        )
    alpha = settings_lib.by_pattern(
        folder, settings, "alpha_pattern", module, settings["lora_alpha"]
    )
    a = tensor_file.read_tensor(stored_a, np.float32)
    b = tensor_file.read_tensor(stored_b, np.float32)
    scale = _scale(settings, settings["r"], settings["lora_alpha"])
    return a, b * np.float32(_scale(settings, rank, alpha) / scale)


def _check_layers(
    folder: Path,
    settings: dict[str, Any],
    modules: Mapping[str, Parts],
    stored: Mapping[str, StoredTensor],
) -> None:
    """Raises ValueError unless the file adapts exactly the layers that its settings name.

    An adapter that lacks one of them belongs to a model with fewer layers, whose shapes may all be
    the same. A layer that the settings do not name would not be adapted by PEFT.
    """
    adapted = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in stored}
    named = collections.defaultdict(list)
    for module in modules:
        if settings_lib.is_target(folder, settings, module):
            named[module.rpartition(".")[2]].append(module)
    for target, members in named.items():
        count = len(adapted.intersection(members))
        if count != len(members):
            raise ValueError(
                f"{folder} adapts {target} in {count} layers, and the model has"
                f" {len(members)}: is it the adapter of another model?"
            )
    unnamed = sorted(adapted.intersection(modules).difference(*named.values()))
    if unnamed and settings.get("target_modules"):
        raise ValueError(
            f"{folder} adapts {unnamed[0]}, which target_modules, exclude_modules or"
            f" layers_to_transform of its {CONFIG} leave out: was the file changed by hand?"
        )


def _scale(settings: dict[str, Any], rank: int, alpha: float) -> float:
    """Returns alpha / rank, or with use_rslora alpha / sqrt(rank)."""
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _place(x: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    """Puts a tensor on its devices; None takes the default device."""
    if sharding is None:
        return jax.device_put(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
