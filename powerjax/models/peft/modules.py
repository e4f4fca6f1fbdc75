"""How the linear layers of a checkpoint, which peft adapts, are made of the layers here.

Phi-3's checkpoint fuses q, k, v and gate, up into one matrix each; the model here does not. An
adapter of k parts of a fused matrix is written as one adapter of rank k * r: the parts' A stacked,
their B on the diagonal, which is the same function. When such an adapter is read, it is divided
into its parts again.
"""

import collections
from collections.abc import Iterator

import numpy as np

from powerjax.models.config import ModelConfig
from powerjax.models.layout import Tensor, tensors

# The parts of one module: the path here ("layers_0/mlp/up_proj") and the place in the module.
Parts = list[tuple[str, Tensor]]

PREFIX = "base_model.model."  # before every tensor's name in the file


def by_name(config: ModelConfig) -> dict[str, Parts]:
    """Returns the linear layers of the checkpoint by module name, each with its parts here."""
    modules = collections.defaultdict(list)
    for path, tensor in tensors(config).items():
        if path.startswith("layers_") and path.endswith("/kernel"):
            name = tensor.name.removesuffix(".weight")
            modules[name].append((path.removesuffix("/kernel"), tensor))
    return dict(modules)


def divided(
    parts: Parts, a: np.ndarray, b: np.ndarray, rank: int
) -> Iterator[tuple[str, Tensor, np.ndarray, np.ndarray]]:
    """Yields (path, tensor, A[r,in], B[out,r]) for each part that a module's A and B adapt.

    rank: the rank that the adapter's settings name, which a block of the diagonal has.
    """
    if len(parts) == 1:
        ((path, tensor),) = parts
        yield path, tensor, a, b
        return
    for (path, tensor), ranks in zip(parts, _ranks_of_parts(parts, b, rank), strict=True):
        if ranks is not None:
            yield path, tensor, a[ranks], b[tensor.start : tensor.stop, ranks]


def _ranks_of_parts(parts: Parts, b: np.ndarray, rank: int) -> list[slice | None]:
    """Returns, for a fused module (q, k and v in one matrix), the LoRA ranks that each part uses.

    If B[out,r] is block-diagonal, each part has a slice of its own; otherwise every part uses all
    ranks. None stands for a part that was not adapted.
    """
    count = len(parts)
    everything: list[slice | None] = [slice(None)] * count
    if b.shape[1] % rank:
        return everything
    blocks: list[slice | None] = [slice(i, i + rank) for i in range(0, b.shape[1], rank)]
    used = np.array([[b[t.start : t.stop, block].any() for block in blocks] for _, t in parts])
    if len(blocks) == count and not used[~np.eye(count, dtype=bool)].any():
        return blocks  # also those of a fresh adapter, whose B is all zeros
    if (used.sum(0) == 1).all() and (used.sum(1) <= 1).all():
        return [blocks[row.argmax()] if row.any() else None for row in used]
    return everything


def fused(parts: Parts, flat: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns a module's A[r,in] and B[out,r]: its parts' A stacked, their B on the diagonal.

    flat: the adapter's tensors by path. Returns None where no part is adapted.
    """
    adapted = [(path, tensor) for path, tensor in parts if f"{path}/lora_a" in flat]
    if not adapted:
        return None
    a = np.concatenate([flat[f"{path}/lora_a"].T for path, _ in adapted])
    b = np.zeros((parts[0][1].file_rows, a.shape[0]), np.float32)
    column = 0
    for path, tensor in adapted:
        block = flat[f"{path}/lora_b"].T
        b[tensor.start : tensor.stop, column : column + block.shape[1]] = block
        column += block.shape[1]
    return np.ascontiguousarray(a), b
