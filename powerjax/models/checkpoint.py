"""Hugging Face checkpoints in and out, and random weights of the same shapes.

Every tensor goes straight from its file to its place on the mesh in its final dtype; the host
never holds a second copy of the model.
"""

import dataclasses
import functools
import json
import logging
import math
import re
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from powerjax.models import json_file, tensor_file, weight_files
from powerjax.models.config import ModelConfig
from powerjax.models.layout import EMBEDDINGS, HEAD, Tensor, tensors
from powerjax.models.sharding import param_sharding
from powerjax.models.tensor_file import StoredTensor

log = logging.getLogger(__name__)

_TINY = Path(__file__).parent / "assets" / "tiny"
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "tokenizer.model")
_WEIGHT_FILES = ("*.safetensors",)
# Constants that older versions of transformers saved beside the weights; they are computed here.
_CONSTANTS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|position_ids)")


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
    if folder.is_file():
        why = "a model is a folder: give the one it is in"
        raise FileNotFoundError(
            f"{folder} is a file, and {weight_files.NO_GGUF if folder.suffix == '.gguf' else why}"
        )
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
    if path.is_file():
        return json_file.read(path)
    if (folder / weight_files.ADAPTER_CONFIG).is_file():
        base = json_file.read(folder / weight_files.ADAPTER_CONFIG).get("base_model_name_or_path")
        raise FileNotFoundError(
            f"{folder} is an adapter's folder: give its base model{f' ({base})' if base else ''} as"
            " the model, and this folder as the adapter"
        )
    inside = [name for name in ("merged", "adapter") if (folder / name).is_dir()]
    if inside:
        raise FileNotFoundError(
            f"{folder} has no config.json, and is a run's folder: its student is"
            f" {' or '.join(str(folder / name) for name in inside)}"
        )
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        raise FileNotFoundError(
            f"{folder} has no config.json but {gguf[0].name}, and {weight_files.NO_GGUF}"
        )
    raise FileNotFoundError(f"{folder} has no config.json: is it a model folder?")


def model_config(folder: Path, hf: dict) -> ModelConfig:
    """`ModelConfig.from_hf` of the folder's config.json; its errors name the folder as well."""
    try:
        return ModelConfig.from_hf(hf)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def fit(config: ModelConfig, stored: dict[str, StoredTensor], dtype, folder: Path) -> ModelConfig:
    """The config of the model that the files hold, which have every tensor it needs.

    It is `config`, but for files with an output head of their own where `config` ties the head to
    the embeddings: as in transformers, the model is then an untied one. Where they hold the head
    alone, it is entered into `stored` as the embeddings too. Tensors that the model has no place
    for are named in the log.

    stored: the files' tensors, see `weight_files.read_headers`. dtype: what they will be loaded as.
    """
    if config.tie_word_embeddings and HEAD in stored:
        stored.setdefault(EMBEDDINGS, stored[HEAD])
        if not tensor_file.equal(stored[HEAD], stored[EMBEDDINGS], dtype):
            log.warning(
                "%s: config.json ties the output head to the embeddings, but the file holds a %s"
                " that differs from them: both are used, as in transformers, and the model counts"
                " as untied",
                *(folder, HEAD),
            )
            config = dataclasses.replace(config, tie_word_embeddings=False)
    _check(tensors(config), stored, folder)
    _name_unread(config, stored, folder)
    return config


def load_params(
    stored: dict[str, StoredTensor], config: ModelConfig, dtype, mesh=None, *, fsdp: bool = False
) -> dict:
    """The parameter tree of tensors that `fit` has checked, each on its devices and in `dtype`."""
    table = tensors(config)
    flat = {}
    # Largest first: the transient of a conversion then falls where little is resident yet.
    for path in sorted(table, key=lambda p: -int(np.prod(table[p].shape))):
        tensor = table[path]
        sharding = mesh and param_sharding(path, tensor.shape, config, mesh, fsdp=fsdp)
        read = functools.partial(_read, tensor, stored[tensor.name], dtype)
        flat[path] = _place(read, tensor.shape, sharding)
    return traverse_util.unflatten_dict(flat, sep="/")


def _name_unread(config: ModelConfig, stored: dict, folder: Path) -> None:
    """Logs which tensors of the files are no part of the model."""
    unread = stored.keys() - {tensor.name for tensor in tensors(config).values()}
    if config.tie_word_embeddings:
        unread -= {HEAD}  # equal to the embeddings
    unread = {name for name in unread if not _CONSTANTS.fullmatch(name)}
    if unread:
        log.warning(
            "%s: a %s of %d layers has no place for %d tensors of the file, which are left out (is"
            " it the checkpoint of another model?): %s",
            *(folder, config.architecture, config.num_layers),
            *(len(unread), weight_files.grouped(unread)),
        )


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
