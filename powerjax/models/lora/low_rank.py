"""The product drop(x) A B of an adapted layer, its dropout, and a backward pass of its own."""

import functools
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp

_LEVELS = 1 << 24  # dropout rates are rounded to multiples of 1 / 2^24


class Mask(NamedTuple):
    """Which inputs of one adapted layer are dropped, and what the others are multiplied by."""

    seed: jax.Array  # uint32[B,2], two seeds for each row
    threshold: jax.Array  # uint32[], the dropout rate in units of 1 / 2^32
    gain: jax.Array  # float32[], 1 / (1 - rate)

    def kept(self, shape: tuple[int, int, int]) -> jax.Array:
        """Returns bool[B,T,D], true where an input is kept: where its hash reaches the threshold.

        The hash of an input depends on its row's seeds and its place in the row, so any part of the
        mask can be computed on any device. It applies the finaliser of MurmurHash3 twice, and mixes
        in one seed before each. That takes a few integer operations per number, which XLA fuses
        into the use of the mask; drawing with threefry took an eighth of the whole training step.
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
    """What decides which inputs of the adapters are dropped."""

    key: jax.Array  # typed keys [B], one for each row
    rate: float | jax.Array  # the share that is dropped, in [0, 1)

    def mask(self, module: str) -> Mask:
        """Returns the mask of one layer, named as in "layers_0/mlp/up_proj".

        It depends on the row's key, the module and the place in the row alone. Other rows, padding
        and the mesh do not change it.
        """
        name = zlib.crc32(module.encode())
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.key, name)
        level = jnp.round(jnp.asarray(self.rate, jnp.float32) * _LEVELS)
        return Mask(
            jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys),
            level.astype(jnp.uint32) * jnp.uint32(2**32 // _LEVELS),
            1 / (1 - level / _LEVELS),
        )


def low_rank(
    x: jax.Array, a: jax.Array, b: jax.Array, precision, mask: Mask | None = None
) -> jax.Array:
    """Returns drop(x[B,T,in]) A[in,r] B[r,out], in float32 or wider whatever the dtype of x.

    mask: drops some numbers of x and scales up the rest, which keeps the mean; None drops none.
    """
    return _low_rank(precision, x, a, b, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_rank(precision, x, a, b, mask):
    return _apply(precision, x, a, b, mask)[0]


def _apply(precision, x, a, b, mask):
    """Returns (drop(x) A B, drop(x) A)."""
    if mask is not None:  # the gain on A: in bfloat16, as x may be, 1 / 0.95 is wrong by 0.2 %
        x, a = jnp.where(mask.kept(x.shape), x, 0), a * mask.gain
    wide = x.astype(jnp.promote_types(x.dtype, a.dtype))
    inner = jnp.matmul(wide, a, precision=precision)
    return jnp.matmul(inner, b, precision=precision), inner


def _save(precision, x, a, b, mask):
    y, inner = _apply(precision, x, a, b, mask)
    return y, (x, a, b, mask, inner)


def _backward(precision, saved, d_y):
    """Computes autodiff's gradients, with two differences in how.

    The mask is computed again, so that all modules that read x save the same x and no dropped copy
    of it. The products transpose the side that has r columns, where autodiff transposes the
    activations.
    """
    x, a, b, mask, inner = saved
    dot = functools.partial(jnp.einsum, precision=precision)
    d_inner = dot("bto,ro->btr", d_y, b)
    d_b = dot("btr,bto->ro", inner, d_y)
    wide = x.astype(a.dtype)
    if mask is None:
        d_x, d_a = dot("btr,ir->bti", d_inner, a), dot("btr,bti->ri", d_inner, wide)
    else:
        is_kept, d_inner = mask.kept(x.shape), d_inner * mask.gain
        d_a = dot("btr,bti->ri", d_inner, jnp.where(is_kept, wide, 0))
        d_x = jnp.where(is_kept, dot("btr,ir->bti", d_inner, a), 0)
    # Without the barrier XLA merges this transpose into the product, and transposes `wide` instead.
    d_a = jax.lax.optimization_barrier(d_a).T
    return d_x.astype(x.dtype), d_a, d_b, None


_low_rank.defvjp(_save, _backward)
