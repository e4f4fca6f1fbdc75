"""Hugging Face checkpoints in and out, and random weights of the same shapes.

Every tensor goes straight from its file to its place on the mesh in its final dtype; the host
never holds a second copy of the model.
"""

import functools
import json
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from powerjax.mesh import param_sharding
from powerjax.models import tensor_file
from powerjax.models.config import ModelConfig

_TINY = Path(__file__).parent / "assets" / "tiny"
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "tokenizer.model")
_WEIGHT_FILES = ("*.safetensors",)


class Tensor(NamedTuple):
    """One parameter: its shape here, and the rows [start, stop) of the file's tensor it is.

    Matrices are [in, out] here and [out, in] in the file, embeddings [V,D] in both.
    """

    shape: tuple[int, ...]
    name: str
    start: int
    stop: int
    file_rows: int
    transpose: bool


def tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Every parameter by path, with the place its values have in a Hugging Face checkpoint."""
    c = config
    fused = c.architecture == "Phi3ForCausalLM"
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    table = {"embed_tokens/embedding": _embedding(c, "model.embed_tokens.weight")}
    for i in range(c.num_layers):
        ours, theirs = f"layers_{i}", f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            table[f"{ours}/{norm}/scale"] = _vector(c.hidden_size, f"{theirs}.{norm}.weight")
        for block, names, sizes, in_size, fused_name in (
            ("self_attn", "qkv", (q_size, kv_size, kv_size), c.hidden_size, "qkv_proj"),
            ("self_attn", "o", (c.hidden_size,), q_size, None),
            ("mlp", ("gate", "up"), (c.intermediate_size,) * 2, c.hidden_size, "gate_up_proj"),
            ("mlp", ("down",), (c.hidden_size,), c.intermediate_size, None),
        ):
            start = 0
            for name, size in zip(names, sizes, strict=True):
                path = f"{ours}/{block}/{name}_proj"
                if fused and fused_name:
                    place = (f"{theirs}.{block}.{fused_name}.weight", start, start + size)
                    rows = sum(sizes)
                else:
                    place, rows = (f"{theirs}.{block}.{name}_proj.weight", 0, size), size
                table[f"{path}/kernel"] = Tensor((in_size, size), *place, rows, True)
                if c.qkv_bias and fused_name == "qkv_proj":
                    table[f"{path}/bias"] = _vector(size, f"{theirs}.{block}.{name}_proj.bias")
                start += size
    table["norm/scale"] = _vector(c.hidden_size, "model.norm.weight")
    if not c.tie_word_embeddings:
        table["lm_head/kernel"] = Tensor(
            (c.hidden_size, c.vocab_size), "lm_head.weight", 0, c.vocab_size, c.vocab_size, True
        )
    return table


def _embedding(c: ModelConfig, name: str) -> Tensor:
    return Tensor((c.vocab_size, c.hidden_size), name, 0, c.vocab_size, c.vocab_size, False)


def _vector(size: int, name: str) -> Tensor:
    return Tensor((size,), name, 0, size, size, False)


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
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name_or_folder)) or folder.is_absolute():
        raise FileNotFoundError(
            f"{name_or_folder}: no such folder, and not a Hugging Face id (owner/name)"
        )
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(name_or_folder),
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
        why = f"the download failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    return f"cannot load {name!r}: {why}"


def read_config(folder: Path) -> dict:
    """config.json as a dict."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: is it a model folder?")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def load_params(folder: Path, config: ModelConfig, dtype, mesh=None) -> dict:
    """The parameter tree, each tensor on its devices and in `dtype`."""
    stored = _stored_tensors(folder)
    table = tensors(config)
    _check(table, stored, folder)
    flat = {}
    # Largest first: the transient of a conversion then falls where little is resident yet.
    for path in sorted(table, key=lambda p: -int(np.prod(table[p].shape))):
        tensor = table[path]
        flat[path] = _place(
            functools.partial(_read, tensor, stored[tensor.name], dtype), path, tensor, config, mesh
        )
    return traverse_util.unflatten_dict(flat, sep="/")


def _read(tensor: Tensor, stored, dtype, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` (over our shape) of one parameter."""
    index = index[::-1] if tensor.transpose else index
    start, stop, _ = index[0].indices(tensor.stop - tensor.start)
    rows = slice(tensor.start + start, tensor.start + stop)
    return tensor_file.read_tensor(stored, dtype, (rows, *index[1:]), tensor.transpose)


def _place(read, path: str, tensor: Tensor, config: ModelConfig, mesh) -> jax.Array:
    whole = tuple(slice(0, n) for n in tensor.shape)
    if mesh is None:
        return jax.device_put(read(whole)).block_until_ready()
    sharding = param_sharding(path, tensor.shape, config, mesh)
    parts = {}

    def part(index):
        key = tuple(s.indices(n)[:2] for s, n in zip(index, tensor.shape, strict=True))
        if key not in parts:
            parts[key] = read(tuple(slice(*bounds) for bounds in key))
        return parts[key]

    return jax.make_array_from_callback(tensor.shape, sharding, part).block_until_ready()


def _stored_tensors(folder: Path) -> dict[str, tensor_file.StoredTensor]:
    index_path = folder / "model.safetensors.index.json"
    if index_path.is_file():
        names = set(json.loads(index_path.read_text())["weight_map"].values())
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


def random_params(config: ModelConfig, dtype, mesh=None, seed: int = 0) -> dict:
    """N(0, initializer_range) matrices, unit norms, zero biases: the paper's RandW.

    Made tensor by tensor, on the devices and in the dtype where they stay; a tensor's values
    depend on the seed and its path alone.
    """
    flat = {}
    for path, tensor in tensors(config).items():
        sharding = None if mesh is None else param_sharding(path, tensor.shape, config, mesh)
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
