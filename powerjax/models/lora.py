"""LoRA adapters in PEFT's format: merging one into loaded weights, W + scale * B A."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import traverse_util

from powerjax.models import tensor_file
from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.text import read_json

# Settings that change what an adapter computes and are not implemented: None, False or empty here.
_UNSUPPORTED = (
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "lora_bias",
)
_PREFIX = "base_model.model."


def merge(params: dict, folder: Path, config: ModelConfig) -> dict:
    """`params` with the adapter in `folder` added, each product in float32, tensor by tensor.

    Each touched tensor's old buffer is donated: `params` must not be used afterwards.
    """
    settings = _read_settings(folder)
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    stored = tensor_file.read_header(folder / "adapter_model.safetensors")
    by_name = {}
    for path, tensor in tensors(config).items():
        if tensor.transpose:
            by_name.setdefault(tensor.name, []).append((path, tensor))

    flat = traverse_util.flatten_dict(params, sep="/")
    for key in sorted(stored):
        module, _, part = key.removeprefix(_PREFIX).rpartition(".lora_")
        if part == "B.weight":
            continue
        targets = by_name.get(f"{module}.weight")
        if part != "A.weight" or targets is None:
            raise ValueError(f"{folder} adapts {key}, which {config.architecture} does not have")
        a, b = stored[key], stored.get(key.replace(".lora_A.", ".lora_B."))
        in_size, out_size = targets[0][1].shape[0], targets[0][1].file_rows
        if b is None or a.shape != (rank, in_size) or b.shape != (out_size, rank):
            raise ValueError(
                f"{folder}: {module} has A {a.shape} and B {b and b.shape}, "
                f"but rank {rank} and the model ask for {(rank, in_size)} and {(out_size, rank)}"
            )
        a = tensor_file.read_tensor(a, jnp.float32)
        for path, tensor in targets:
            rows = (slice(tensor.start, tensor.stop), slice(None))
            part_b = tensor_file.read_tensor(b, jnp.float32, rows)
            flat[path] = _adder(flat[path].sharding)(flat[path], a, part_b, scale)
    return traverse_util.unflatten_dict(flat, sep="/")


def _read_settings(folder: Path) -> dict:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: is it a PEFT adapter's folder?")
    settings = read_json(folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder} is a {settings.get('peft_type')} adapter, only LORA is read")
    used = [key for key in _UNSUPPORTED if settings.get(key)]
    if settings.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise ValueError(f"{folder} uses {', '.join(used)}, which merging does not support")
    return settings


@functools.cache
def _adder(sharding):
    def add(w, a, b, scale):
        delta = jnp.matmul(a.T, b.T, precision=jax.lax.Precision.HIGHEST)
        return (w.astype(jnp.float32) + scale * delta).astype(w.dtype)

    return jax.jit(add, out_shardings=sharding, donate_argnums=0)
