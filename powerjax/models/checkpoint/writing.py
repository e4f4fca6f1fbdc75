"""Checkpoints out: the folder that transformers reads."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from powerjax.models import weight_files
from powerjax.models.config import ModelConfig
from powerjax.models.layout import Tensor, tensors

# A tensor of the file: the parameters that are stacked in it, by path.
_Parts = list[tuple[str, Tensor]]


def save(
    folder: str | Path,
    config: ModelConfig,
    params: dict[str, Any],
    *,
    dtype=None,
    stop_ids: tuple[int, ...] = (),
    shard_bytes: int = 4 << 30,
) -> None:
    """Writes config.json, generation_config.json and the weights as transformers reads them.

    Args:
      folder: where the files go; it is made if need be.
      dtype: the dtype of the file's tensors; None keeps that of the parameters.
      stop_ids: token ids that end a completion, written as `eos_token_id`.
      shard_bytes: the size from which a next file is begun; at most one is held in memory.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = traverse_util.flatten_dict(params, sep="/")
    dtype = jnp.dtype(dtype or flat["norm/scale"].dtype)
    by_name: dict[str, _Parts] = {}
    for path, tensor in tensors(config).items():
        by_name.setdefault(tensor.name, []).append((path, tensor))

    sizes = {
        name: dtype.itemsize * sum(math.prod(tensor.shape) for _, tensor in parts)
        for name, parts in by_name.items()
    }
    shards = _shards(sizes, shard_bytes)
    files = [weight_files.SINGLE]
    if len(shards) > 1:
        files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {t: file for file, shard in zip(files, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        _write_json(folder / weight_files.INDEX, index)
    for file, shard in zip(files, shards, strict=True):
        arrays = {name: _stored_array(by_name[name], flat, dtype) for name in shard}
        save_file(arrays, folder / file, metadata={"format": "pt"})
    eos = {"eos_token_id": list(stop_ids)} if stop_ids else {}
    _write_json(folder / "config.json", config.to_hf() | {"torch_dtype": dtype.name} | eos)
    _write_json(folder / "generation_config.json", eos)


def _shards(sizes: dict[str, int], shard_bytes: int) -> list[list[str]]:
    """Divides tensors, given by name with their bytes, into files of about `shard_bytes`."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _stored_array(parts: _Parts, flat: dict[str, Any], dtype: np.dtype) -> np.ndarray:
    """Returns one tensor of the file: the parameters it is made of, stacked along its rows."""
    arrays = [np.asarray(flat[path]).astype(dtype) for path, _ in parts]
    arrays = [x.T if tensor.transpose else x for x, (_, tensor) in zip(arrays, parts, strict=True)]
    return np.ascontiguousarray(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
