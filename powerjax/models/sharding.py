"""Where each parameter lies on the device mesh.

The mesh has two axes: "model" splits heads, feed-forward and vocabulary, "data" splits rows of a
batch and, with fsdp, the parameters a second time. Parameters that cannot be split are logged.
"""

import functools
import logging
import math
import re

from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models.config import ModelConfig

log = logging.getLogger(__name__)

# The first pattern that matches a path wins. Projections into a block are split by columns, those
# out of it by rows, which makes two all-reduces per layer.
PARAM_SPECS = (
    (r"embed_tokens/embedding$", P("model", None)),
    (r"lm_head/kernel$", P(None, "model")),
    (r"self_attn/[qkv]_proj/kernel$", P(None, "model")),
    (r"self_attn/[qkv]_proj/bias$", P("model")),
    (r"self_attn/o_proj/kernel$", P("model", None)),
    (r"self_attn/[qk]_norm/scale$", P()),
    (r"mlp/(gate|up)_proj/kernel$", P(None, "model")),
    (r"mlp/(gate|up)_proj/bias$", P("model")),
    (r"mlp/down_proj/kernel$", P("model", None)),
    (r"(o|down)_proj/bias$", P()),
    (r"norm/scale$", P()),
    (r"_layernorm/scale$", P()),
)


def param_spec(
    path: str, shape: tuple[int, ...], config: ModelConfig, mesh: Mesh, *, fsdp: bool = False
) -> P:
    """Returns the PartitionSpec of the parameter at `path` ("layers_0/mlp/up_proj/kernel").

    All of attention is replicated if the "model" axis does not divide the heads and the kv heads.
    Any other tensor is replicated if the axis does not divide the dimension that it would split.
    Each such decision is logged once, but not for an AbstractMesh.

    Args:
      shape: the parameter's whole shape.
      config: the model; its `num_heads` and `num_kv_heads` are used.
      fsdp: whether a matrix is split over "data" as well. The dimension is the largest that "model"
        does not split and "data" divides. Each device then holds 1 / (data * model) of the matrix,
        or 1 / data of one that "model" does not split. Norms and biases are not split over "data";
        they are too small to matter.

    Raises ValueError for a path that no rule matches.
    """
    spec = next((spec for pattern, spec in PARAM_SPECS if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(f"no sharding rule for parameter {path!r}: add one to PARAM_SPECS")
    spec = _split_by_model(spec, path, shape, config, mesh)
    if fsdp and len(shape) > 1 and mesh.shape["data"] > 1:
        spec = _split_by_data(spec, path, shape, mesh)
    return spec


def _split_by_model(
    spec: P, path: str, shape: tuple[int, ...], config: ModelConfig, mesh: Mesh
) -> P:
    """Returns `spec`, or P() where the "model" axis does not divide what it would split."""
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
    _log_replicated(mesh, path, f"{reason} do not divide by model axis {size}")
    return P()


def _split_by_data(spec: P, path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Returns `spec` with "data" added, or `spec` itself where "data" divides no free dimension."""
    size = mesh.shape["data"]
    axes = [*spec, *(None,) * (len(shape) - len(spec))]
    for dim in sorted(range(len(shape)), key=lambda dim: -shape[dim]):
        if (axes[dim] is None or mesh.shape[axes[dim]] == 1) and shape[dim] % size == 0:
            axes[dim] = "data"
            return P(*axes)
    _log_replicated(mesh, path, f"dimensions {shape} do not divide by data axis {size}")
    return spec


def _log_replicated(mesh: Mesh, path: str, reason: str) -> None:
    """Logs that the parameters at `path`, in every layer, are replicated."""
    if not isinstance(mesh, AbstractMesh):  # planning tries many meshes
        paths = re.sub(r"layers_\d+", "layers_*", path)
        _warn_once(f"{paths} is replicated: {reason}")


@functools.cache
def _warn_once(message: str) -> None:
    """Logs a message once per process, however many layers and loads it is about."""
    log.warning(message)


def param_sharding(
    path: str, shape: tuple[int, ...], config: ModelConfig, mesh: Mesh, *, fsdp: bool = False
) -> NamedSharding:
    """Returns the NamedSharding of `param_spec` on the mesh."""
    return NamedSharding(mesh, param_spec(path, shape, config, mesh, fsdp=fsdp))


def num_bytes_per_device(
    shapes: dict[str, tuple[int, ...]],
    config: ModelConfig,
    mesh: Mesh,
    itemsize: int,
    *,
    fsdp: bool = False,
) -> int:
    """Returns the bytes of parameters that each device holds, computed from the shapes alone.

    shapes: the parameters' whole shapes by path. itemsize: bytes per number.
    """
    return itemsize * sum(
        math.prod(param_sharding(path, shape, config, mesh, fsdp=fsdp).shard_shape(shape))
        for path, shape in shapes.items()
    )
