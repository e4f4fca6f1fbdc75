"""An adapter's settings and pytree: its shapes, its start, its place, and merging it."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.models.sharding import param_spec

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Shape and scale of an adapter; the defaults are the paper's.

    rank: r, the columns of A and rows of B.
    alpha: the scale before it is divided by the rank.
    dropout: the share of the inputs that is dropped in training, in [0, 1).
    target_modules: the adapted layers, by the last part of their Hugging Face names. Phi-3's fused
        layers go by their parts: q_proj, k_proj, v_proj and gate_proj, up_proj.
    rslora: whether the scale is alpha / sqrt(rank).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    target_modules: tuple[str, ...] = TARGETS
    rslora: bool = False

    @property
    def scale(self) -> float:
        """What A B is multiplied by: alpha / rank, or with rslora alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter's settings and its pytree."""

    config: LoraConfig
    params: dict[str, Any]
    name: str = ""  # the folder or run that it came from


def check(config: ModelConfig, lora: LoraConfig) -> None:
    """Raises ValueError, with a one-line message, where the settings do not fit the model."""
    if lora.rank < 1:
        raise ValueError(f"the rank is {lora.rank}: it must be at least 1")
    if not 0 < lora.alpha < math.inf:
        raise ValueError(f"alpha is {lora.alpha}: the adapter's scale must be above 0")
    if not 0 <= lora.dropout < 1:
        raise ValueError(f"the dropout is {lora.dropout}: it must be in [0, 1)")
    if not lora.target_modules:
        raise ValueError(f"no target modules: choose among {', '.join(TARGETS)}")
    for target in lora.target_modules:
        if target not in TARGETS:
            raise ValueError(f"no layer is called {target!r}: choose among {', '.join(TARGETS)}")
    for path, (in_size, out_size) in _kernels(config, lora.target_modules).items():
        if lora.rank > min(in_size, out_size):
            raise ValueError(
                f"rank {lora.rank} is larger than {path.split('/', 1)[1]}, a matrix of "
                f"{in_size} x {out_size}: choose at most {min(in_size, out_size)}, or leave "
                f"{path.split('/')[-1]} out of the target modules"
            )


def _kernels(config: ModelConfig, targets: Collection[str]) -> dict[str, tuple[int, int]]:
    """Returns the (in, out) of the adapted layers, by path ("layers_0/mlp/up_proj")."""
    return {
        path.removesuffix("/kernel"): (tensor.shape[0], tensor.shape[1])
        for path, tensor in tensors(config).items()
        if path.endswith("/kernel") and path.split("/")[-2] in targets
    }


def init(
    config: ModelConfig, lora: LoraConfig, *, seed: int = 0, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Returns a fresh adapter's pytree, each tensor in its place on the mesh.

    A is uniform on +-1/sqrt(in), as peft's kaiming_uniform(a=sqrt 5), and B is zero. A tensor's
    values depend on the seed and its path alone, not on the mesh. Raises ValueError as `check`.
    """
    check(config, lora)
    key = jax.random.key(seed)

    def make(path, shape, sharding):
        if path.endswith("lora_b"):
            return jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=sharding)(
                shape, jnp.float32
            )
        draw = jax.jit(_uniform, static_argnums=1, out_shardings=sharding)
        return draw(jax.random.fold_in(key, zlib.crc32(path.encode())), shape)

    flat = traverse_util.flatten_dict(shapes(config, lora), sep="/")
    places = traverse_util.flatten_dict(shardings(config, lora, mesh), sep="/")
    flat = {path: make(path, x.shape, places[path]) for path, x in flat.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def _uniform(key, shape):
    return jax.random.uniform(key, shape, jnp.float32, -1, 1) / math.sqrt(shape[0])


def shapes(config: ModelConfig, lora: LoraConfig) -> dict[str, Any]:
    """Returns the pytree with a `jax.ShapeDtypeStruct` for each tensor."""
    flat = {}
    for path, (in_size, out_size) in _kernels(config, lora.target_modules).items():
        flat[f"{path}/lora_a"] = jax.ShapeDtypeStruct((in_size, lora.rank), jnp.float32)
        flat[f"{path}/lora_b"] = jax.ShapeDtypeStruct((lora.rank, out_size), jnp.float32)
    return traverse_util.unflatten_dict(flat, sep="/")


def shardings(config: ModelConfig, lora: LoraConfig, mesh: Mesh | None) -> dict[str, Any]:
    """Returns the pytree with the sharding of each tensor, which is None without a mesh."""
    flat: dict[str, NamedSharding | None] = {}
    for path, shape in _kernels(config, lora.target_modules).items():
        a, b = layer_shardings(path, shape, config, mesh)
        flat |= {f"{path}/lora_a": a, f"{path}/lora_b": b}
    return traverse_util.unflatten_dict(flat, sep="/")


def layer_shardings(
    path: str, shape: tuple[int, ...], config: ModelConfig, mesh: Mesh | None
) -> tuple[NamedSharding | None, NamedSharding | None]:
    """Returns the shardings of one layer's (A, B).

    A is split as the rows of the layer's kernel are, and B as its columns. So the A of a
    column-parallel layer and the B of a row-parallel layer are whole on every device. An adapter
    adds one all-reduce, of r numbers per token, to a row-parallel layer.

    path: the layer's path, such as "layers_0/mlp/up_proj".
    shape: its kernel's shape, (in, out).
    """
    if mesh is None:
        return None, None
    rows, columns = (*param_spec(f"{path}/kernel", shape, config, mesh), None, None)[:2]
    return NamedSharding(mesh, P(rows, None)), NamedSharding(mesh, P(None, columns))


def collection(params: dict[str, Any], scale) -> dict[str, Any]:
    """Returns the adapter as `CausalLM.apply` takes it under "lora": B multiplied by the scale."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * scale if path[-1].key == "lora_b" else x, params
    )


def gated(adapter: dict[str, Any], gate: jax.Array) -> dict[str, Any]:
    """Returns a `collection` whose products are taken in some rows only.

    gate: bool[B], whether the adapter acts in a row of the batch.
    """
    layers = traverse_util.flatten_dict(adapter, sep="/")
    gates = {path.replace("lora_a", "gate"): gate for path in layers if path.endswith("lora_a")}
    return traverse_util.unflatten_dict(layers | gates, sep="/")


def merge(params: dict[str, Any], adapter: Adapter, *, donate: bool = False) -> dict[str, Any]:
    """Returns `params` with scale * A B, computed in float32, added to each adapted kernel.

    donate: whether to reuse the old kernels' memory; `params` must not be used afterwards then.
    """
    return _add(params, adapter, adapter.config.scale, donate)


def unmerge(params: dict[str, Any], adapter: Adapter, *, donate: bool = False) -> dict[str, Any]:
    """Returns what `merge` was given, up to rounding in the dtype of the weights."""
    return _add(params, adapter, -adapter.config.scale, donate)


def _add(params: dict[str, Any], adapter: Adapter, scale: float, donate: bool) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(params, sep="/")
    deltas = traverse_util.flatten_dict(adapter.params, sep="/")
    for path in [p.removesuffix("/lora_a") for p in deltas if p.endswith("/lora_a")]:
        kernel = flat[f"{path}/kernel"]
        # A kernel that no device was chosen for stays so: compiled programs tell the two apart.
        add = _adder(kernel.sharding if kernel.committed else None, donate)
        flat[f"{path}/kernel"] = add(
            kernel, deltas[f"{path}/lora_a"], deltas[f"{path}/lora_b"], scale
        )
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def _adder(sharding, donate):
    """Returns the compiled sum of one kernel and scale * A B."""

    def add(w, a, b, scale):
        delta = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return (w.astype(jnp.promote_types(w.dtype, a.dtype)) + scale * delta).astype(w.dtype)

    return jax.jit(add, out_shardings=sharding, donate_argnums=0 if donate else ())
