"""The weights of a GGUF file under their Hugging Face names, dequantised as they are read."""

import dataclasses
import functools
import importlib
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from powerjax.models.gguf import config, file_format, names
from powerjax.models.gguf.file_format import Header, TensorInfo
from powerjax.models.tensor_file import StoredTensor

log = logging.getLogger(__name__)

_NOT_QUANTISED = ("F32", "F16", "BF16")
_LEFT_OUT = (config.ROPE_FREQS,)  # the config has it


@dataclasses.dataclass(frozen=True)
class PackedTensor(StoredTensor):
    """A tensor of a GGUF file. Its numbers are read as float32.

    name: the tensor's name in the GGUF file.
    dtype: the name of ggml's type, such as "Q4_K".
    block: (numbers, bytes) of the pieces in which each row is stored.
    interleaved_heads: H, where the rows of each head are in llama.cpp's order, see names.py; else
        None.
    added: what the file's numbers exceed the checkpoint's by.
    """

    block: tuple[int, int]
    interleaved_heads: int | None = None
    added: float = 0.0

    def item_dtype(self) -> np.dtype:
        """Returns float32, whatever the file's type."""
        return np.dtype(np.float32)

    def rows(self, file: BinaryIO, start: int, count: int) -> np.ndarray:
        """Returns rows [start, start + count) as float32[count, columns], or float32[count].

        A head whose rows are in another order is read as a whole, and a vector too.
        """
        columns = self.shape[-1] if len(self.shape) == 2 else math.prod(self.shape)
        row_bytes = columns // self.block[0] * self.block[1]
        vector = len(self.shape) == 1
        unit = self.interleaved_heads or 1
        first = 0 if vector else start // unit * unit
        last = 1 if vector else -(-(start + count) // unit) * unit
        file.seek(self.offset + first * row_bytes)
        raw = np.fromfile(file, np.uint8, (last - first) * row_bytes).reshape(-1, row_bytes)
        if vector:
            return self._numbers(separated(self._dequantised(raw)[0], unit))[start : start + count]
        raw = separated(raw, unit)[start - first : start - first + count]
        return self._numbers(self._dequantised(raw))

    def _dequantised(self, raw: np.ndarray) -> np.ndarray:
        package = _package()
        return package.quants.dequantize(raw, package.GGMLQuantizationType[self.dtype])

    def _numbers(self, x: np.ndarray) -> np.ndarray:
        return x - np.float32(self.added) if self.added else x


def separated(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Returns the rows of whole heads in the order of Hugging Face.

    rows: [heads * H, ...], in which rows 2 i and 2 i + 1 of a head are rotated together; rows i and
        i + H/2 of the result are. With H of 1 they are returned as they are.
    """
    if head_dim == 1:
        return rows
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def read_headers(path: Path) -> dict[str, StoredTensor]:
    """Returns every tensor of a GGUF file that belongs to the model, by its Hugging Face name.

    Tensors of other names are named in the log.

    Raises ValueError, in one line, where the file is damaged or truncated, where tensors are
    missing or of a type that is not read, and where the package `gguf` is missing.
    """
    header = file_format.read(path)
    hf = config.read_config(path)
    architecture, head_dim = header.architecture, hf["head_dim"]
    expected = names.needed(architecture, hf["num_hidden_layers"])
    missing = [name for name in expected if name not in header.tensors]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{path} holds no tensor {missing[0]}{others}: download it again")
    stored: dict[str, StoredTensor] = {}
    unread = []
    for name, info in header.tensors.items():
        hf_name = names.hf_name(architecture, name)
        if hf_name is None:
            unread += [] if name in _LEFT_OUT else [name]
            continue
        type_name, block = _type(header, name, info)
        stored[hf_name] = PackedTensor(
            path=path,
            name=name,
            dtype=type_name,
            shape=info.shape,
            offset=info.offset,
            block=block,
            interleaved_heads=head_dim if names.pairs_interleaved(architecture, name) else None,
            added=names.added(architecture, name),
        )
    if unread:
        log.warning("%s: tensors that are left out: %s", path, ", ".join(sorted(unread)))
    return stored


def dequantised_from(stored: Mapping[str, StoredTensor]) -> str | None:
    """Returns the quantised types among tensors, most numbers first: "Q4_K and Q6_K".

    None where no tensor is quantised, as in every safetensors file.
    """
    counts: Counter[str] = Counter()
    for tensor in stored.values():
        if isinstance(tensor, PackedTensor) and tensor.dtype not in _NOT_QUANTISED:
            counts[tensor.dtype] += math.prod(tensor.shape)
    types = [name for name, _ in counts.most_common()]
    return " and ".join(filter(None, [", ".join(types[:-1]), types[-1]])) if types else None


def _type(header: Header, name: str, info: TensorInfo) -> tuple[str, tuple[int, int]]:
    """Returns the name of a tensor's type and its block, once the file is seen to hold all of it.

    Raises ValueError for a type that is not read, and where the file ends too early.
    """
    kind, block = _readable(info.type_number)
    if block is None:
        raise ValueError(
            f"{name} in {header.path} has the tensor type {kind}, which the package gguf does not"
            " dequantise: take a file of another quantisation"
        )
    columns = info.shape[-1] if info.shape else 0
    if len(info.shape) not in (1, 2) or columns % block[0]:
        raise ValueError(
            f"{name} in {header.path} has the shape {info.shape}, which does not fit its type"
            f" {kind}: download it again"
        )
    end = info.offset + math.prod(info.shape) // block[0] * block[1]
    if (size := os.path.getsize(header.path)) < end:
        raise ValueError(f"{header.path} is truncated: {size} bytes of {end}; download it again")
    return kind, block


@functools.cache
def _readable(type_number: int) -> tuple[str, tuple[int, int] | None]:
    """Returns the name of a tensor type and its block; None for a type that is not dequantised."""
    package = _package()
    try:
        kind = package.GGMLQuantizationType(type_number)
        block = package.GGML_QUANT_SIZES[kind]
        package.quants.dequantize(np.zeros((1, block[1]), np.uint8), kind)
    except NotImplementedError:
        return kind.name, None
    except (ValueError, KeyError):
        return f"number {type_number}", None
    return kind.name, block


@functools.cache
def _package() -> Any:
    """Returns the package `gguf`, which knows ggml's types. Raises ValueError without it."""
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ValueError("to read a GGUF file needs the package gguf: pip install gguf") from error
