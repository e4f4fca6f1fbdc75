"""Causal attention of whole sequences, in blocks of queries, with a backward pass of its own.

A block of queries is multiplied with the keys up to its own end and no others. So nearly half the
products are never made, and at most one block's scores [B,K,G,C,S] are alive. With a sliding window
the keys before the first query's window are left out as well. The backward pass
computes the scores again from the saved log-sum-exp (Dao et al. 2022, FlashAttention, in plain
matrix products). Autodiff would keep all scores and read them several times.

Letters as in decoder.py; also G query heads per kv head, C queries per block.
"""

import functools

import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: a softmax over -inf alone would be nan
_BLOCK = 128
_MAX_BLOCKS = 8


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int | None = None
) -> jax.Array:
    """Returns attention [B,K,G,T,H] of q[B,K,G,T,H] over k, v [B,K,T,H].

    The query at position t sees the keys 0..t, or with a window the last `window` of them.
    """
    return _forward(q, k, v, window)[0]


def _forward(q, k, v, window):
    """Returns out[B,K,G,T,H] and the log-sum-exp of each query's scores, [B,K,G,T]."""
    out, sums = [], []
    for block in _blocks(q.shape[3]):
        keys = _keys(block, window)
        scores = _scores(q, k, block, window)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out.append(_dot("bkqs,bksh->bkqh", weights, v[:, :, keys], v.dtype) / total)
        sums.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(out, axis=3).astype(q.dtype), jnp.concatenate(sums, axis=3)


def _save(q, k, v, window):
    """Returns the attention, and what the backward pass needs of the forward pass."""
    out, sums = _forward(q, k, v, window)
    return out, (q, k, v, out, sums)


def _backward(window, saved, d_out):
    """Returns the gradients of q, k and v."""
    q, k, v, out, sums = saved
    wide = sums.dtype
    scale = q.shape[-1] ** -0.5
    # The gradient of a score is weight * (gradient of the weight - inner). `inner` is the mean of
    # the weights' gradients under the weights.
    inner = jnp.sum(d_out.astype(wide) * out.astype(wide), axis=-1)
    transposed = (*k.shape[:2], k.shape[3], k.shape[2])
    d_q, d_k, d_v = [], jnp.zeros(transposed, wide), jnp.zeros(transposed, wide)
    for block in _blocks(q.shape[3]):
        keys = _keys(block, window)
        queries, d_block = q[:, :, :, block], d_out[:, :, :, block]
        weights = jnp.exp(_scores(q, k, block, window) - sums[:, :, :, block, None])
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
    """Divides the queries into equal blocks: 1, 2, 4 or 8 of them.

    Blocks are halved while they are longer than 128 tokens, even, and fewer than 8. So 1024 tokens
    make 8 blocks of 128, 4096 make 8 of 512, 1000 make 8 of 125, 192 make 2 of 96, and 129 one.
    """
    size = num_tokens
    while size > _BLOCK and size % 2 == 0 and num_tokens // size < _MAX_BLOCKS:
        size //= 2
    return [slice(start, start + size) for start in range(0, num_tokens, size)]


def _keys(block: slice, window: int | None) -> slice:
    """Returns the keys that any query of the block sees."""
    return slice(0 if window is None else max(0, block.start - window + 1), block.stop)


def _scores(q, k, block: slice, window: int | None) -> jax.Array:
    """Returns the scaled and masked scores [B,K,G,C,S] of a block, S being the keys it sees."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    keys = _keys(block, window)
    scores = _dot("bkqh,bksh->bkqs", q[:, :, :, block], k[:, :, keys], q.dtype)
    positions = jnp.arange(block.start, block.stop)
    slots = jnp.arange(keys.start, keys.stop)
    visible = slots <= positions[:, None]
    if window is not None:
        visible &= slots > positions[:, None] - window
    return jnp.where(visible, scores.astype(wide) * q.shape[-1] ** -0.5, _MASKED)


def _dot(equation: str, grouped: jax.Array, shared: jax.Array, dtype) -> jax.Array:
    """Returns the product of grouped[B,K,G,C,*] with shared[B,K,S,*] for each of [B,K].

    G and C are treated as one axis, so that K and V are never repeated. The inputs are taken in
    `dtype`; sums and result are float32 or wider.
    """
    flat = grouped.reshape(*grouped.shape[:2], -1, grouped.shape[-1])
    product = _einsum(equation, flat, shared, dtype)
    return product.reshape(*grouped.shape[:4], -1)


def _transposed(rows: jax.Array, weights: jax.Array, dtype) -> jax.Array:
    """Returns [B,K,H,S], the sum over G and C of rows[B,K,G,C,H] * weights[B,K,G,C,S].

    The result is not [B,K,S,H] because the product transposes one factor, and in this order it is
    the smaller one, `rows`.
    """
    flat_rows, flat_weights = (x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (rows, weights))
    return _einsum("bkqh,bkqs->bkhs", flat_rows, flat_weights, dtype)


def _einsum(equation: str, a: jax.Array, b: jax.Array, dtype) -> jax.Array:
    """Returns the product of a and b, taken in `dtype` and summed in float32 or wider."""
    wide = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(
        equation,
        a.astype(dtype),
        b.astype(dtype),
        precision=jax.lax.Precision.HIGHEST if dtype == wide else None,
        preferred_element_type=wide,
    )
