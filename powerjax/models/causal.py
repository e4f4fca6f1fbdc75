"""Causal attention of whole sequences, in blocks of queries, with a backward pass of its own.

A block of queries meets the keys up to its own end and no others, so half the products are never
made, and no more than one block's scores [B,K,G,C,S] are alive. The backward pass makes them again
from the saved log-sum-exp (Dao et al. 2022, FlashAttention, in plain matrix products), where
autodiff would keep them and go over them several times more.

Letters as in decoder.py, and G query heads of one kv head, C queries of one block.
"""

import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: a softmax over -inf alone would be nan
_BLOCK = 128
_MAX_BLOCKS = 8


@jax.custom_vjp
def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of q[B,K,G,T,H] over k, v [B,K,T,H], each query over the keys up to its own."""
    return _forward(q, k, v)[0]


def _forward(q, k, v):
    """(out[B,K,G,T,H], log-sum-exp of the scores [B,K,G,T])."""
    out, sums = [], []
    for block in _blocks(q.shape[3]):
        scores = _scores(q, k, block)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out.append(_dot("bkqs,bksh->bkqh", weights, v[:, :, : block.stop], v.dtype) / total)
        sums.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(out, axis=3).astype(q.dtype), jnp.concatenate(sums, axis=3)


def _save(q, k, v):
    out, sums = _forward(q, k, v)
    return out, (q, k, v, out, sums)


def _backward(saved, d_out):
    q, k, v, out, sums = saved
    wide = sums.dtype
    scale = q.shape[-1] ** -0.5
    # d score = weight * (d weight - inner), inner the mean of d weight under the weights.
    inner = jnp.sum(d_out.astype(wide) * out.astype(wide), axis=-1)
    turned = (*k.shape[:2], k.shape[3], k.shape[2])
    d_q, d_k, d_v = [], jnp.zeros(turned, wide), jnp.zeros(turned, wide)
    for block in _blocks(q.shape[3]):
        keys = slice(0, block.stop)
        queries, d_block = q[:, :, :, block], d_out[:, :, :, block]
        weights = jnp.exp(_scores(q, k, block) - sums[:, :, :, block, None])
        d_weights = _dot("bkqh,bksh->bkqs", d_block, v[:, :, keys], v.dtype)
        d_scores = weights * (d_weights - inner[:, :, :, block, None]) * scale
        d_q.append(_dot("bkqs,bksh->bkqh", d_scores, k[:, :, keys], q.dtype))
        d_k = d_k.at[..., keys].add(_transposed(queries, d_scores, q.dtype))
        d_v = d_v.at[..., keys].add(_transposed(d_block, weights, v.dtype))
    d_q = jnp.concatenate(d_q, axis=3)
    d_k, d_v = d_k.swapaxes(2, 3), d_v.swapaxes(2, 3)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)


causal_attention.defvjp(_save, _backward)


def _blocks(num_tokens: int) -> list[slice]:
    """The queries' blocks: one where they do not divide, else so many of at least 128."""
    size = num_tokens
    while size > _BLOCK and size % 2 == 0 and num_tokens // size < _MAX_BLOCKS:
        size //= 2
    return [slice(start, start + size) for start in range(0, num_tokens, size)]


def _scores(q, k, block: slice) -> jax.Array:
    """Scaled and masked scores [B,K,G,C,S] of the block's queries, S up to the block's end."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = _dot("bkqh,bksh->bkqs", q[:, :, :, block], k[:, :, : block.stop], q.dtype)
    positions = jnp.arange(block.start, block.stop)
    visible = jnp.arange(block.stop) <= positions[:, None]
    return jnp.where(visible, scores.astype(wide) * q.shape[-1] ** -0.5, _MASKED)


def _dot(equation: str, grouped: jax.Array, shared: jax.Array, dtype) -> jax.Array:
    """The product over [B,K] of grouped[B,K,G,C,*] with shared[B,K,S,*], G and C as one axis.

    So K and V are never repeated. Inputs in `dtype`, sums and result in float32 or wider.
    """
    flat = grouped.reshape(*grouped.shape[:2], -1, grouped.shape[-1])
    found = _einsum(equation, flat, shared, dtype)
    return found.reshape(*grouped.shape[:4], -1)


def _transposed(rows: jax.Array, weights: jax.Array, dtype) -> jax.Array:
    """sum over G and C of rows[B,K,G,C,H] * weights[B,K,G,C,S] -> [B,K,H,S].

    Not [B,K,S,H]: the smaller factor is the one that has to be turned for the product.
    """
    flat = [x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (rows, weights)]
    return _einsum("bkqh,bkqs->bkhs", *flat, dtype)


def _einsum(equation: str, a: jax.Array, b: jax.Array, dtype) -> jax.Array:
    wide = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(
        equation,
        a.astype(dtype),
        b.astype(dtype),
        precision=jax.lax.Precision.HIGHEST if dtype == wide else None,
        preferred_element_type=wide,
    )
