"""LoRA: low-rank adapters as a pytree of their own beside frozen weights.

An adapted layer computes x W + scale * drop(x) A B (Hu et al. 2021; peft's `lora.Linear`), with A
float32[in,r], B float32[r,out] and scale = alpha / rank. The pytree mirrors the parameters':
{"layers_0": {"self_attn": {"q_proj": {"lora_a": A, "lora_b": B}}}}. The decoder takes it as the
collection "lora" (`collection`), so that no weight is wrapped, masked or copied.
"""

import dataclasses
import functools
import math
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.models.sharding import param_spec

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LEVELS = 1 << 24  # a dropout rate is a number of 2^24ths


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Shape and scale of an adapter; the defaults are the paper's.

    target_modules: layers by the last part of their Hugging Face name, Phi-3's fused ones by the
        parts they are made of (q_proj, k_proj, v_proj; gate_proj, up_proj).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    target_modules: tuple[str, ...] = TARGETS
    rslora: bool = False

    @property
    def scale(self) -> float:
        """alpha / rank, with rslora alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter's settings and its pytree; `name` is where it came from."""

    config: LoraConfig
    params: dict
    name: str = ""


class Mask(NamedTuple):
    """Which inputs of one adapted layer are dropped, and what the others are multiplied by."""

    seed: jax.Array  # uint32 [B,2], a row's
    threshold: jax.Array  # uint32 [], the rate as a number of 2^32ths
    gain: jax.Array  # float32 [], 1 / (1 - rate)

    def kept(self, shape: tuple[int, int, int]) -> jax.Array:
        """bool [B,T,D]: a hash of the row's seed and the place in the row is above the threshold.

        The hash is twice the finaliser of MurmurHash3, a seed going in before each: a few integer
        operations a number, which fuse into what uses the mask, where threefry's rounds took an
        eighth of the whole step. Any part of it can be computed anywhere.
        """
        place = jax.lax.broadcasted_iota(jnp.uint32, shape[1:], 0) * jnp.uint32(shape[2])
        place = place + jax.lax.broadcasted_iota(jnp.uint32, shape[1:], 1)
        first, second = (self.seed[:, i, None, None] for i in (0, 1))
        return _mixed(_mixed(place ^ first) ^ second) >= self.threshold


def _mixed(bits: jax.Array) -> jax.Array:
    """fmix32 of MurmurHash3 (Appleby, public domain): each bit in changes each bit out evenly."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


class Dropout(NamedTuple):
    """What decides which inputs of the adapters are dropped: a key for each row, and the rate."""

    key: jax.Array  # typed keys [B]
    rate: float | jax.Array

    def mask(self, module: str) -> Mask:
        """The mask of one layer ("layers_0/mlp/up_proj").

        It depends on the row's key, the module and the place in the row, and so neither on the
        row's neighbours or padding nor on the mesh.
        """
        name = zlib.crc32(module.encode())
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.key, name)
        level = jnp.round(jnp.asarray(self.rate, jnp.float32) * _LEVELS)
        return Mask(
            jax.vmap(lambda key: jax.random.bits(key, 2, jnp.uint32))(keys),
            level.astype(jnp.uint32) * jnp.uint32(2**32 // _LEVELS),
            1 / (1 - level / _LEVELS),
        )


def check(config: ModelConfig, lora: LoraConfig) -> None:
    """Raises a ValueError of one line where the adapter cannot be one of this model."""
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


def _kernels(config: ModelConfig, targets) -> dict[str, tuple[int, int]]:
    """The adapted layers by path ("layers_0/mlp/up_proj"), with their (in, out)."""
    return {
        path.removesuffix("/kernel"): tensor.shape
        for path, tensor in tensors(config).items()
        if path.endswith("/kernel") and path.split("/")[-2] in targets
    }


def init(config: ModelConfig, lora: LoraConfig, *, seed: int = 0, mesh=None) -> dict:
    """A fresh adapter: A uniform on +-1/sqrt(in), B zero, as peft's kaiming_uniform(a=sqrt 5).

    A tensor's values depend on the seed and its path alone, not on the mesh.
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


def shapes(config: ModelConfig, lora: LoraConfig) -> dict:
    """The pytree's shapes and dtypes."""
    flat = {}
    for path, (in_size, out_size) in _kernels(config, lora.target_modules).items():
        flat[f"{path}/lora_a"] = jax.ShapeDtypeStruct((in_size, lora.rank), jnp.float32)
        flat[f"{path}/lora_b"] = jax.ShapeDtypeStruct((lora.rank, out_size), jnp.float32)
    return traverse_util.unflatten_dict(flat, sep="/")


def shardings(config: ModelConfig, lora: LoraConfig, mesh) -> dict:
    """Where each tensor of the pytree lies; None without a mesh."""
    flat = {}
    for path, shape in _kernels(config, lora.target_modules).items():
        a, b = layer_shardings(path, shape, config, mesh)
        flat |= {f"{path}/lora_a": a, f"{path}/lora_b": b}
    return traverse_util.unflatten_dict(flat, sep="/")


def layer_shardings(path: str, shape: tuple[int, int], config: ModelConfig, mesh):
    """Where one layer's (A, B) lie: A split as its kernel's rows, B as its columns.

    So a column-parallel layer's A and a row-parallel layer's B are on every device, and adapters
    add one all-reduce of r numbers a token to a row-parallel layer.
    """
    if mesh is None:
        return None, None
    rows, columns = (*param_spec(f"{path}/kernel", shape, config, mesh), None, None)[:2]
    return NamedSharding(mesh, P(rows, None)), NamedSharding(mesh, P(None, columns))


def collection(params: dict, scale) -> dict:
    """The adapter as `CausalLM.apply` takes it, under "lora": the scale multiplied into B."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * scale if path[-1].key == "lora_b" else x, params
    )


def low_rank(
    x: jax.Array, a: jax.Array, b: jax.Array, precision, mask: Mask | None = None
) -> jax.Array:
    """drop(x[B,T,in]) A[in,r] B[r,out], in float32 (or wider) whatever the dtype of x.

    drop: each number of x is dropped where `mask` says so, the rest scaled up to keep the mean.
    """
    return _low_rank(precision, x, a, b, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_rank(precision, x, a, b, mask):
    return _apply(precision, x, a, b, mask)[0]


def _apply(precision, x, a, b, mask):
    """(drop(x) A B, drop(x) A)."""
    if mask is not None:  # the gain on A: in bfloat16, as x may be, 1 / 0.95 is wrong by 0.2 %
        x, a = jnp.where(mask.kept(x.shape), x, 0), a * mask.gain
    wide = x.astype(jnp.promote_types(x.dtype, a.dtype))
    inner = jnp.matmul(wide, a, precision=precision)
    return jnp.matmul(inner, b, precision=precision), inner


def _save(precision, x, a, b, mask):
    y, inner = _apply(precision, x, a, b, mask)
    return y, (x, a, b, mask, inner)


def _backward(precision, saved, d_y):
    """What autodiff would give, with two differences in how.

    The mask is made again, so that one x serves all modules that read it and no dropped copy is
    kept; and the gradients' products take the side of r columns as the transposed one, where
    autodiff transposes the activations.
    """
    x, a, b, mask, inner = saved
    dot = functools.partial(jnp.einsum, precision=precision)
    d_inner = dot("bto,ro->btr", d_y, b)
    d_b = dot("btr,bto->ro", inner, d_y)
    wide = x.astype(a.dtype)
    if mask is None:
        d_x, d_a = dot("btr,ir->bti", d_inner, a), dot("btr,bti->ri", d_inner, wide)
    else:
        kept, d_inner = mask.kept(x.shape), d_inner * mask.gain
        d_a = dot("btr,bti->ri", d_inner, jnp.where(kept, wide, 0))
        d_x = jnp.where(kept, dot("btr,ir->bti", d_inner, a), 0)
    d_a = jax.lax.optimization_barrier(d_a).T  # or XLA would turn the product, for the transpose
    return d_x.astype(x.dtype), d_a, d_b, None


_low_rank.defvjp(_save, _backward)


def merge(params: dict, adapter: Adapter, *, donate: bool = False) -> dict:
    """`params` with scale * A B added to each adapted kernel, each product in float32.

    donate: reuse the old kernels' memory; `params` must then not be used afterwards.
    """
    return _add(params, adapter, adapter.config.scale, donate)


def unmerge(params: dict, adapter: Adapter, *, donate: bool = False) -> dict:
    """The inverse of `merge`, up to rounding in the dtype of the weights."""
    return _add(params, adapter, -adapter.config.scale, donate)


def _add(params: dict, adapter: Adapter, scale: float, donate: bool) -> dict:
    flat = traverse_util.flatten_dict(params, sep="/")
    deltas = traverse_util.flatten_dict(adapter.params, sep="/")
    for path in [p.removesuffix("/lora_a") for p in deltas if p.endswith("/lora_a")]:
        kernel = flat[f"{path}/kernel"]
        add = _adder(kernel.sharding, donate)
        flat[f"{path}/kernel"] = add(
            kernel, deltas[f"{path}/lora_a"], deltas[f"{path}/lora_b"], scale
        )
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def _adder(sharding, donate):
    def add(w, a, b, scale):
        delta = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return (w.astype(jnp.promote_types(w.dtype, a.dtype)) + scale * delta).astype(w.dtype)

    return jax.jit(add, out_shardings=sharding, donate_argnums=0 if donate else ())
