"""Hugging Face checkpoints in and out, and random weights of the same shapes.

Every tensor goes straight from its file to its place on the mesh in its final dtype; the host
never holds a second copy of the model.
"""

import functools
import json
import math
import re
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from powerjax.mesh import param_sharding
from powerjax.models import tensor_file
from powerjax.models.config import ModelConfig
from powerjax.models.layout import Tensor, tensors
from powerjax.text import read_json

_TINY = Path(__file__).parent / "assets" / "tiny"
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "tokenizer.model")
_WEIGHT_FILES = ("*.safetensors",)


def find_folder(name_or_folder: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of "tiny", of a local path, or of a Hugging Face id (downloaded if need be)."""
    if name_or_folder == "tiny":
        if not (_TINY / "config.json").is_file():
            raise FileNotFoundError(
                "the embedded model is missing from this installation: make it with "
                "python -m experiments.pretrain_tiny"
            )
        return _TINY
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name_or_folder):
        raise FileNotFoundError(
            f"{name_or_folder}: no such folder, and not a Hugging Face id (owner/name)"
        )
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name_or_folder,
                revision=revision,
                allow_patterns=[*_SMALL_FILES, *(_WEIGHT_FILES if weights else ())],
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:
        raise FileNotFoundError(_download_failure(name_or_folder, revision, error)) from error


def _download_failure(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        why = "it is gated: accept its terms on its page and set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"it has no revision {revision!r}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = "there is no such folder or Hugging Face id (or it is private: set HF_TOKEN)"
    elif isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        why = (
            "it is neither a folder nor in the local cache, and the hub cannot be reached: "
            "check the network, HF_HUB_OFFLINE and HF_HOME, or give a folder"
        )
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = f"the download failed: {reason}"
    return f"cannot load {name!r}: {why}"


def read_config(folder: Path) -> dict:
    """config.json as a dict."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: is it a model folder?")
    return read_json(path)


def load_params(folder: Path, config: ModelConfig, dtype, mesh=None, *, fsdp: bool = False) -> dict:
    """The parameter tree, each tensor on its devices and in `dtype`."""
    stored = _stored_tensors(folder)
    table = tensors(config)
    _check(table, stored, folder)
    flat = {}
    # Largest first: the transient of a conversion then falls where little is resident yet.
    for path in sorted(table, key=lambda p: -int(np.prod(table[p].shape))):
        tensor = table[path]
        sharding = mesh and param_sharding(path, tensor.shape, config, mesh, fsdp=fsdp)
        read = functools.partial(_read, tensor, stored[tensor.name], dtype)
        flat[path] = _place(read, tensor.shape, sharding)
    return traverse_util.unflatten_dict(flat, sep="/")


def _read(tensor: Tensor, stored, dtype, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` (over our shape) of one parameter."""
    index = index[::-1] if tensor.transpose else index
    start, stop, _ = index[0].indices(tensor.stop - tensor.start)
    rows = slice(tensor.start + start, tensor.start + stop)
    return tensor_file.read_tensor(stored, dtype, (rows, *index[1:]), tensor.transpose)


def _place(read, shape: tuple[int, ...], sharding) -> jax.Array:
    if sharding is None:
        return jax.device_put(read(tuple(slice(0, n) for n in shape))).block_until_ready()
    parts = {}

    def part(index):
        key = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        if key not in parts:
            parts[key] = read(tuple(slice(*bounds) for bounds in key))
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, part).block_until_ready()


def _stored_tensors(folder: Path) -> dict[str, tensor_file.StoredTensor]:
    index_path = folder / "model.safetensors.index.json"
    if index_path.is_file():
        names = set(read_json(index_path)["weight_map"].values())
    else:
        names = {
            p.name for p in folder.glob("*.safetensors") if p.name != "adapter_model.safetensors"
        }
        counts = {m[1] for n in names if (m := re.search(r"-\d+-of-(\d+)\.", n))}
        for count in counts:
            names |= {f"model-{i + 1:05d}-of-{count}.safetensors" for i in range(int(count))}
    if not names:
        raise FileNotFoundError(
            f"{folder} has no *.safetensors file: convert the checkpoint, or give "
            "random_weights=True for its shapes alone"
        )
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)} ({len(missing)} of {len(names)} shards): "
            "download it again"
        )
    stored = {}
    for name in sorted(names):
        stored |= tensor_file.read_header(folder / name)
    return stored


def _check(table: dict[str, Tensor], stored: dict, folder: Path) -> None:
    missing = sorted({t.name for t in table.values()} - stored.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{folder} holds no tensor {missing[0]}{more}: its weights do not fit config.json"
        )
    for tensor in table.values():
        expected = (tensor.file_rows, *tensor.shape[:-1]) if tensor.transpose else tensor.shape
        if stored[tensor.name].shape != expected:
            raise ValueError(
                f"tensor {tensor.name} in {folder} has shape {stored[tensor.name].shape}, "
                f"config.json asks for {expected}"
            )


def save(
    folder: str | Path,
    config: ModelConfig,
    params: dict,
    *,
    dtype=None,
    stop_ids: tuple[int, ...] = (),
    shard_bytes: int = 4 << 30,
) -> None:
    """Writes config.json, generation_config.json and the weights as transformers reads them.

    dtype: of the file; None keeps that of the parameters. At most one shard is held in memory.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = traverse_util.flatten_dict(params, sep="/")
    dtype = jnp.dtype(dtype or flat["norm/scale"].dtype)
    by_name = {}
    for path, tensor in tensors(config).items():
        by_name.setdefault(tensor.name, []).append((path, tensor))

    shards, size, total = [[]], 0, 0
    for name, parts in by_name.items():
        num_bytes = dtype.itemsize * sum(math.prod(tensor.shape) for _, tensor in parts)
        if shards[-1] and size + num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
        total += num_bytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {t: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    for name, shard in zip(names, shards, strict=True):
        arrays = {t: _stored_array(by_name[t], flat, dtype) for t in shard}
        save_file(arrays, folder / name, metadata={"format": "pt"})
    eos = {"eos_token_id": list(stop_ids)} if stop_ids else {}
    _write_json(folder / "config.json", config.to_hf() | {"torch_dtype": dtype.name} | eos)
    _write_json(folder / "generation_config.json", eos)


def _stored_array(parts, flat: dict, dtype) -> np.ndarray:
    """One tensor of the file: the parameters it is made of, stacked along its rows."""
    arrays = [np.asarray(flat[path]).astype(dtype) for path, _ in parts]
    arrays = [x.T if tensor.transpose else x for x, (_, tensor) in zip(arrays, parts, strict=True)]
    return np.ascontiguousarray(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def random_params(
    config: ModelConfig, dtype, mesh=None, seed: int = 0, *, fsdp: bool = False
) -> dict:
    """N(0, initializer_range) matrices, unit norms, zero biases: the paper's RandW.

    Made tensor by tensor, on the devices and in the dtype where they stay; a tensor's values
    depend on the seed and its path alone.
    """
    flat = {}
    for path, tensor in tensors(config).items():
        sharding = mesh and param_sharding(path, tensor.shape, config, mesh, fsdp=fsdp)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
        scale = {"scale": None, "bias": 0.0}.get(path.split("/")[-1], config.initializer_range)
        flat[path] = _random_tensor(tensor.shape, jnp.dtype(dtype), scale, sharding)(key)
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def _random_tensor(shape, dtype, scale, sharding):
    def make(key):
        if scale is None:
            return jnp.ones(shape, dtype)
        if not scale:
            return jnp.zeros(shape, dtype)
        return (scale * jax.random.normal(key, shape, jnp.float32)).astype(dtype)

    return jax.jit(make, out_shardings=sharding)
