"""The device mesh and where each parameter lies on it.

Axes: "data" carries rows (chains, examples), "model" splits heads, feed-forward and vocabulary.
"""

import functools
import logging
import math
import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
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


def make_mesh(model: int = 1, data: int | None = None, devices=None) -> Mesh:
    """A ("data", "model") mesh; data=None takes all the devices that are left.

    Axes are Auto: JAX's default, Explicit, fails in embedding lookups and row scatters.
    """
    devices = jax.devices() if devices is None else list(devices)
    if data is None:
        data = len(devices) // model
    if data < 1 or model < 1 or data * model > len(devices):
        raise ValueError(
            f"a mesh of data {data} x model {model} does not fit {len(devices)} devices"
        )
    return jax.make_mesh(
        (data, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: data * model],
    )


def param_spec(path: str, shape: tuple[int, ...], config, mesh: Mesh) -> P:
    """The PartitionSpec of the parameter at `path` ("layers_0/mlp/up_proj/kernel").

    Attention is replicated when the heads (or kv heads) do not divide by the model axis, and any
    other tensor whose split dimension does not; each such decision is logged.
    """
    spec = next((spec for pattern, spec in PARAM_SPECS if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(f"no sharding rule for parameter {path!r}: add one to PARAM_SPECS")
    size = mesh.shape["model"]
    if size == 1 or "model" not in spec:
        return spec
    if "self_attn/" in path and (config.num_heads % size or config.num_kv_heads % size):
        reason = f"{config.num_heads} heads, {config.num_kv_heads} kv heads"
    elif shape[spec.index("model")] % size:
        reason = f"dimension {shape[spec.index('model')]}"
    else:
        return spec
    _say_replicated(re.sub(r"layers_\d+", "layers_*", path), reason, size)
    return P()


@functools.cache
def _say_replicated(paths: str, reason: str, size: int) -> None:
    """Once for all layers, and for all loads of a process."""
    log.info("%s is replicated: %s do not divide by model axis %d", paths, reason, size)


def param_sharding(path: str, shape: tuple[int, ...], config, mesh: Mesh) -> NamedSharding:
    """`param_spec` on the mesh."""
    return NamedSharding(mesh, param_spec(path, shape, config, mesh))


def num_bytes_per_device(shapes: dict[str, tuple[int, ...]], config, mesh: Mesh, itemsize: int):
    """Bytes of parameters that each device will hold, before anything is loaded."""
    return itemsize * sum(
        math.prod(param_sharding(path, shape, config, mesh).shard_shape(shape))
        for path, shape in shapes.items()
    )
