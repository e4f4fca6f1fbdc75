"""Reading safetensors files by slices, straight into the wanted dtype and orientation.

Files are read in chunks and not memory-mapped: pages of a map count as resident memory until they
are dropped, and loading promises to hold no second copy of the weights.
"""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
_CHUNK_BYTES = 8 << 20  # read at once
LFS_POINTER = b"version https://git-lfs."  # what a clone without Git LFS has in place of a file


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file: where its bytes begin, and what they are."""

    path: Path
    name: str
    dtype: str  # as the file spells it, "BF16"
    shape: tuple[int, ...]
    offset: int  # of the tensor's first byte, from the beginning of the file

    def item_dtype(self) -> np.dtype:
        """Returns the dtype in which `rows` gives numbers. Raises ValueError where none is read."""
        if self.dtype not in _DTYPES:
            raise ValueError(
                f"{self.name} in {self.path} has dtype {self.dtype}, "
                f"only {', '.join(_DTYPES)} are read (no quantised checkpoints)"
            )
        return np.dtype(_DTYPES[self.dtype])

    def rows(self, file: BinaryIO, start: int, count: int) -> np.ndarray:
        """Returns `count` rows of the tensor, from `start` on: [count, columns], or [count].

        file: the file at `path`, opened.
        """
        dtype = self.item_dtype()
        columns = self.shape[1:]
        num_columns = math.prod(columns)
        file.seek(self.offset + start * num_columns * dtype.itemsize)
        return np.fromfile(file, dtype, count * num_columns).reshape(count, *columns)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of one safetensors file by name.

    Raises ValueError for a truncated file and for one that is not a safetensors file.
    """
    size = os.path.getsize(path)
    advice = "download it again"
    with open(path, "rb") as file:
        beginning = file.read(len(LFS_POINTER))
        if beginning == LFS_POINTER:
            raise lfs_pointer(path)
        file.seek(8)
        header_size = int.from_bytes(beginning[:8], "little")
        if size < 8 or header_size > size - 8:
            raise ValueError(f"{path} is truncated or not a safetensors file: {advice}")
        try:
            header = json.loads(file.read(header_size))
            header.pop("__metadata__", None)
            entries = {
                name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
                for name, entry in header.items()
            }
            start = 8 + header_size
            end = start + max((end for *_, end in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file: {advice}") from error
    if size < end:
        raise ValueError(f"{path} is truncated: {size} bytes of {end}; {advice}")
    stored = {}
    for name, (dtype, shape, first, last) in entries.items():
        known = np.dtype(_DTYPES[dtype]).itemsize if dtype in _DTYPES else None
        if known is not None and last - first != known * math.prod(shape):
            raise ValueError(
                f"{name} in {path} has {last - first} bytes, which do not fit its shape {shape} in"
                f" {dtype}: {advice}"
            )
        stored[name] = StoredTensor(path, name, dtype, shape, start + first)
    return stored


def lfs_pointer(path: Path) -> ValueError:
    """Returns the error about a pointer of Git LFS in the place of a file."""
    return ValueError(
        f"{path} is a Git LFS pointer, not the file itself: run git lfs pull in its folder, or"
        " download it again"
    )


def read_tensor(
    tensor: StoredTensor,
    dtype,
    index: tuple[slice, ...] | None = None,
    transpose: bool = False,
) -> np.ndarray:
    """Returns a 1-D or 2-D tensor, or a part of it, as `dtype`.

    At most a few MiB are held beside the result, whatever the conversion.

    Args:
      dtype: the dtype of the result.
      index: slices over the stored shape; None reads the whole tensor.
      transpose: whether to return the part transposed.

    Raises ValueError for a stored dtype that is not read.
    """
    index = index or tuple(slice(None) for _ in tensor.shape)
    bounds = [s.indices(n)[:2] for s, n in zip(index, tensor.shape, strict=True)]
    row_start, row_stop = bounds[0]
    columns = tuple(slice(*bound) for bound in bounds[1:])
    shape = tuple(stop - start for start, stop in bounds)
    out = _aligned_empty(shape[::-1] if transpose else shape, np.dtype(dtype))
    view = out.T if transpose else out
    row_bytes = math.prod(tensor.shape[1:]) * stored_dtype(tensor).itemsize
    step = max(1, _CHUNK_BYTES // row_bytes)
    with open(tensor.path, "rb") as file:
        for start in range(row_start, row_stop, step):
            count = min(step, row_stop - start)
            chunk = tensor.rows(file, start, count)[:, *columns]
            view[start - row_start : start - row_start + count] = chunk
    return out


def stored_dtype(tensor: StoredTensor) -> np.dtype:
    """Returns the dtype of the tensor's numbers in its file.

    Raises ValueError for a dtype that is not read.
    """
    return tensor.item_dtype()


def equal(first: StoredTensor, second: StoredTensor, dtype) -> bool:
    """Whether two tensors hold the same numbers (NaN equal to NaN) once both are read as `dtype`.

    At most a few MiB of either tensor are held, and reading ends at the first chunk that differs.
    """
    if first.shape != second.shape:
        return False
    step = max(1, _CHUNK_BYTES // (np.dtype(dtype).itemsize * math.prod(first.shape[1:])))
    for start in range(0, first.shape[0], step):
        index = (slice(start, start + step), *(slice(None) for _ in first.shape[1:]))
        a, b = (read_tensor(tensor, dtype, index) for tensor in (first, second))
        if not ((a == b) | ((a != a) & (b != b))).all():
            return False
    return True


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialised array, aligned to 64 bytes so that JAX on CPUs need not copy it."""
    num_bytes = dtype.itemsize * int(np.prod(shape))
    buffer = np.empty(num_bytes + 64, np.uint8)
    offset = -buffer.ctypes.data % 64
    return buffer[offset : offset + num_bytes].view(dtype).reshape(shape)
