"""Where each parameter lies on the device mesh.

Logs each parameter that a mesh cannot split.
"""

import functools
import logging
import math
import re

from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

log = logging.getLogger(__name__)

# First match wins. Column-parallel into a block, row-parallel out of it: two all-reduces a layer.
PARAM_SPECS = (
    (r"embed_tokens/embedding$", P("model", None)),
    (r"lm_head/kernel$", P(None, "model")),
    (r"self_attn/[qkv]_proj/kernel$", P(None, "model")),
    (r"self_attn/[qkv]_proj/bias$", P("model")),
    (r"self_attn/o_proj/kernel$", P("model", None)),
    (r"mlp/(gate|up)_proj/kernel$", P(None, "model")),
    (r"mlp/down_proj/kernel$", P("model", None)),
    (r"norm/scale$", P()),
    (r"_layernorm/scale$", P()),
)


def param_spec(path: str, shape: tuple[int, ...], config, mesh: Mesh, *, fsdp: bool = False) -> P:
    """The PartitionSpec of the parameter at `path` ("layers_0/mlp/up_proj/kernel").

    Attention is replicated when the heads (or kv heads) do not divide by the model axis, and any
    other tensor whose split dimension does not; each such decision is logged.

    With fsdp a matrix is split over "data" as well, along its largest dimension that "model" does
    not split and "data" divides, so that a device holds 1 / (data * model) of it; norms and biases
    are too small to matter.
    """
    spec = next((spec for pattern, spec in PARAM_SPECS if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(f"no sharding rule for parameter {path!r}: add one to PARAM_SPECS")
    spec = _split_by_model(spec, path, shape, config, mesh)
    if fsdp and len(shape) > 1 and mesh.shape["data"] > 1:
        spec = _split_by_data(spec, path, shape, mesh)
    return spec


def _split_by_model(spec: P, path: str, shape: tuple[int, ...], config, mesh: Mesh) -> P:
    size = mesh.shape["model"]
    if size == 1 or "model" not in spec:
        return spec
    if "self_attn/" in path and (config.num_heads % size or config.num_kv_heads % size):
        reason = f"{config.num_heads} heads, {config.num_kv_heads} kv heads"
        path = path[: path.index("self_attn/") + len("self_attn")]
    elif shape[spec.index("model")] % size:
        reason = f"dimension {shape[spec.index('model')]}"
    else:
        return spec
    _say_replicated(mesh, _any_layer(path), f"{reason} do not divide by model axis {size}")
    return P()


def _split_by_data(spec: P, path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    size = mesh.shape["data"]
    axes = [*spec, *(None,) * (len(shape) - len(spec))]
    for dim in sorted(range(len(shape)), key=lambda dim: -shape[dim]):
        if (axes[dim] is None or mesh.shape[axes[dim]] == 1) and shape[dim] % size == 0:
            axes[dim] = "data"
            return P(*axes)
    reason = f"dimensions {shape} do not divide by data axis {size}"
    _say_replicated(mesh, _any_layer(path), reason)
    return spec


def _any_layer(path: str) -> str:
    return re.sub(r"layers_\d+", "layers_*", path)


def _say_replicated(mesh: Mesh, paths: str, reason: str) -> None:
    if not isinstance(mesh, AbstractMesh):  # a plan tries many
        _warn(f"{paths} is replicated: {reason}")


@functools.cache
def _warn(message: str) -> None:
    """Once for all layers, and for all loads of a process."""
    log.warning(message)


def param_sharding(
    path: str, shape: tuple[int, ...], config, mesh: Mesh, *, fsdp: bool = False
) -> NamedSharding:
    """`param_spec` on the mesh."""
    return NamedSharding(mesh, param_spec(path, shape, config, mesh, fsdp=fsdp))


def num_bytes_per_device(
    shapes: dict[str, tuple[int, ...]], config, mesh: Mesh, itemsize: int, *, fsdp: bool = False
) -> int:
    """Bytes of parameters that each device will hold, before anything is loaded."""
    return itemsize * sum(
        math.prod(param_sharding(path, shape, config, mesh, fsdp=fsdp).shard_shape(shape))
        for path, shape in shapes.items()
    )
