"""The header of a GGUF file: its metadata, and where its tensors are.

Source: docs/gguf.md of ggml. The header is read here and not by the package `gguf`, whose reader
makes two NumPy arrays for each token and merge (docs/decisions/gguf.md has what that costs).
"""

import dataclasses
import mmap
import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from powerjax.models import tensor_file

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # they differ in big-endian files alone
# Number of the type in the file -> its code for `struct`; 8 is a string and 9 an array.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_PART = re.compile(r".*-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_ADVICE = "download it again"


class TensorInfo(NamedTuple):
    """One tensor of the file, as its header states it."""

    type_number: int  # of ggml's tensor types
    shape: tuple[int, ...]  # rows first, the reverse of the file's order
    offset: int  # of the tensor's first byte, from the beginning of the file


@dataclasses.dataclass(frozen=True)
class Header:
    """What stands before the tensors' bytes.

    metadata: value by key: numbers, booleans, strings, and lists of them.
    tensors: every tensor by its GGUF name.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """The name that the keys of the model's sizes begin with, such as "qwen2"."""
        return str(self.metadata.get("general.architecture"))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by its GGUF name."""
        return {name: info.shape for name, info in self.tensors.items()}


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that is called .gguf, or that begins as a GGUF file does."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> Header:
    """Returns the header of a GGUF file.

    Raises ValueError, in one line, for a file that is not one, is truncated, is big-endian, is one
    part of several, or has a version that is not read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        beginning = file.read(len(tensor_file.LFS_POINTER))
        if beginning == tensor_file.LFS_POINTER:
            raise tensor_file.lfs_pointer(path)
        if not beginning.startswith(MAGIC):
            raise ValueError(f"{path} is not a GGUF file (it does not begin with GGUF): {_ADVICE}")
        _refuse_part(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _parse(path, _Cursor(data))
            except (struct.error, EOFError) as error:
                raise ValueError(
                    f"{path} is truncated: its {size} bytes end within the header; {_ADVICE}"
                ) from error
            except (UnicodeDecodeError, KeyError) as error:
                raise ValueError(f"{path} is damaged within the header: {_ADVICE}") from error
    if header.metadata.get("split.count", 1) > 1:
        raise ValueError(f"{path} is one of {header.metadata['split.count']} parts: {_join(path)}")
    return header


def _refuse_part(path: Path) -> None:
    """Raises ValueError for a name such as model-00001-of-00002.gguf."""
    part = _PART.fullmatch(path.name)
    if part and int(part[2]) > 1:
        raise ValueError(f"{path} is part {int(part[1])} of {int(part[2])}: {_join(path)}")


def _join(path: Path) -> str:
    first = re.sub(r"-\d{5}-of-", "-00001-of-", path.name)
    return f"join them with llama.cpp's llama-gguf-split --merge {first} NEW.gguf"


class _Cursor:
    """A position in the header's bytes, from which values are read one after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, len(MAGIC)

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def raw(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise EOFError
        self.at += count
        return self.data[self.at - count : self.at]

    def string(self) -> str:
        return self.raw(self.scalar("Q")).decode()

    def value(self, kind: int) -> Any:
        """Reads a value of the type `kind`. Raises KeyError for a type that does not exist."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind in (_STRING, _ARRAY):
            return [self.value(kind) for _ in range(count)]
        dtype = np.dtype(f"<{_SCALARS[kind]}")
        return np.frombuffer(self.raw(count * dtype.itemsize), dtype).tolist()


def _parse(path: Path, cursor: _Cursor) -> Header:
    version = cursor.scalar("I")
    if version and version % 65536 == 0:
        raise ValueError(
            f"{path} is big-endian, and little-endian files are read: {_ADVICE} as one"
        )
    if version not in _VERSIONS:
        raise ValueError(
            f"{path} is GGUF of version {version}, and versions"
            f" {' and '.join(map(str, _VERSIONS))} are read: convert it again"
        )
    num_tensors, num_values = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {}
    for _ in range(num_values):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    found = {}
    for _ in range(num_tensors):
        name = cursor.string()
        shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))[::-1]
        found[name] = TensorInfo(cursor.scalar("I"), shape, cursor.scalar("Q"))
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise KeyError("general.alignment")
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: info._replace(offset=start + info.offset) for name, info in found.items()}
    return Header(path, metadata, tensors)
