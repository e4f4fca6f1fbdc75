"""Weights from safetensors and GGUF files onto the devices.

Every tensor goes straight from its file to its place on the mesh in its final dtype. The host never
holds a second copy of the model.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding

from powerjax.models import families, tensor_file, weight_files
from powerjax.models.config import ModelConfig
from powerjax.models.layout import EMBEDDINGS, HEAD, Tensor, tensors
from powerjax.models.sharding import param_sharding
from powerjax.models.tensor_file import StoredTensor

log = logging.getLogger(__name__)

# Constants that older versions of transformers saved beside the weights; they are computed here.
_CONSTANTS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|position_ids)")
# What tensors of the text model are called in a checkpoint that reads images too, by transformers
# (conversion_mapping.py, "llava") and in memory -> in the text model's own checkpoint.
_OF_TEXT = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)


def read_headers(folder: Path, hf: dict[str, Any]) -> dict[str, StoredTensor]:
    """Returns every tensor of the folder's model by name, see `weight_files.read_headers`.

    Of a model that reads images too, these are the text model's, by the names that they have in a
    checkpoint of their own. The log says that the others are left out.

    hf: config.json as a dict.
    """
    stored = weight_files.read_headers(folder, hf.get("transformers_weights"))
    if not families.reads_images(hf):
        return stored
    text = {}
    for name, tensor in stored.items():
        for prefix, own in _OF_TEXT:
            if name.startswith(prefix):
                text[own + name.removeprefix(prefix)] = tensor
                break
    log.warning(
        "%s reads text and images: its text model is loaded as a %s, and the %d tensors of its"
        " image part are left out; no prompt may have an image",
        *(folder, families.of_config(hf).architecture, len(stored) - len(text)),
    )
    return text


def fit(config: ModelConfig, stored: dict[str, StoredTensor], dtype, folder: Path) -> ModelConfig:
    """Returns the config of the model that the files hold, and checks that they hold all of it.

    That is `config`, with one exception. Where `config` ties the output head to the embeddings and
    the files hold a head that differs from them, the model is untied, as in transformers. Where
    they hold the head and no embeddings, it is entered into `stored` as the embeddings too.
    Tensors that the model has no place for are named in the log.

    Args:
      stored: the files' tensors by name, from `read_headers`; may get an entry.
      dtype: the dtype that the tensors will be loaded as.
      folder: the folder that messages name.

    Raises ValueError where a tensor is missing or has another shape.
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
    stored: dict[str, StoredTensor],
    config: ModelConfig,
    dtype,
    mesh: Mesh | None = None,
    *,
    fsdp: bool = False,
) -> dict[str, Any]:
    """Returns the parameter tree of tensors that `fit` has checked, each in `dtype`.

    mesh: the devices; None puts every parameter whole on the default device.
    fsdp: whether matrices are split over the mesh's "data" axis as well.
    """
    table = tensors(config)
    flat = {}
    # Convert the largest tensors first, while little else is in memory: a conversion briefly needs
    # a second copy.
    for path in sorted(table, key=lambda p: -int(np.prod(table[p].shape))):
        tensor = table[path]
        sharding = None
        if mesh is not None:
            sharding = param_sharding(path, tensor.shape, config, mesh, fsdp=fsdp)
        read = functools.partial(_read, tensor, stored[tensor.name], dtype)
        flat[path] = _place(read, tensor.shape, sharding)
    return traverse_util.unflatten_dict(flat, sep="/")


def _check(table: dict[str, Tensor], stored: dict[str, StoredTensor], folder: Path) -> None:
    """Raises ValueError if a tensor of the table is missing or stored in another shape."""
    missing = sorted({tensor.name for tensor in table.values()} - stored.keys())
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{folder} holds no tensor {missing[0]}{others}: its weights do not fit"
            f" {_config_of(folder)}"
        )
    for tensor in table.values():
        expected = (tensor.file_rows, *tensor.shape[:-1]) if tensor.transpose else tensor.shape
        if stored[tensor.name].shape != expected:
            raise ValueError(
                f"tensor {tensor.name} in {folder} has shape {stored[tensor.name].shape}, "
                f"{_config_of(folder)} asks for {expected}"
            )


def _config_of(folder: Path) -> str:
    """Returns what messages call the source of the config."""
    return "its metadata" if folder.is_file() else "config.json"


def _name_unread(config: ModelConfig, stored: dict[str, StoredTensor], folder: Path) -> None:
    """Logs which tensors of the files are not part of the model."""
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


def _read(tensor: Tensor, stored: StoredTensor, dtype, index: tuple[slice, ...]) -> np.ndarray:
    """Reads the part `index` of one parameter; the slices are over the parameter's shape here."""
    index = index[::-1] if tensor.transpose else index
    start, stop, _ = index[0].indices(tensor.stop - tensor.start)
    rows = slice(tensor.start + start, tensor.start + stop)
    return tensor_file.read_tensor(stored, dtype, (rows, *index[1:]), tensor.transpose)


def _place(
    read: Callable[[tuple[slice, ...]], np.ndarray],
    shape: tuple[int, ...],
    sharding: NamedSharding | None,
) -> jax.Array:
    """Reads a parameter onto its devices, each part once however many devices hold it."""
    if sharding is None:
        return jax.device_put(read(tuple(slice(0, n) for n in shape))).block_until_ready()
    parts: dict[tuple, np.ndarray] = {}

    def part(index):
        key = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        if key not in parts:
            parts[key] = read(tuple(slice(*bounds) for bounds in key))
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, part).block_until_ready()
