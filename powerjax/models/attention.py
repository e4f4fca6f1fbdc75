"""Attention over cached keys: one function, with a switch for the kernel behind it.

Letters as in decoder.py.
"""

import jax
import jax.numpy as jnp

from powerjax.models.causal import causal_attention

_MASKED = -1e30  # finite: a softmax over -inf alone would be nan


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    *,
    whole: bool = False,
    implementation: str | None = None,
    window: int | None = None,
) -> jax.Array:
    """Returns causal attention, [B,T,N,H].

    Key slot s is visible to a query at position p if and only if s <= p, and p - window < s where
    there is a window, whatever the row's history.

    Args:
      q: [B,T,N,H].
      k, v: [B,K,S,H]. Their heads may be wider than q's, with zeros at the end
        (`cache.head_width`).
      positions: int32[B,T], the queries' positions.
      whole: whether k and v are those of the T tokens themselves and positions are 0..T-1 in every
        row, as in prefill, scoring and training.
      implementation: "xla" (any device and dtype; None is the same) or "cudnn" (NVIDIA, bfloat16 or
        float16). cudnn computes single-token decoding and whole sequences; a chunk of tokens over
        a cached prefix takes the xla path either way, and so does a window in force.
      window: how many slots a query sees, its own included; None for all. It is in force where it
        is shorter than S.

    Raises ValueError for another `implementation`.
    """
    if implementation not in (None, "xla", "cudnn"):
        raise ValueError(f"attention implementation {implementation!r}: use 'xla' or 'cudnn'")
    if window is not None and window >= k.shape[2]:
        window = None
    if window is not None:
        return _windowed(q, k, v, positions, whole, window)
    if whole:
        kernel = _cudnn if implementation == "cudnn" else _whole
        return _spoil(kernel(q, k, jnp.where(jnp.isfinite(v), v, 0), positions), v)
    if implementation == "cudnn" and q.shape[1] == 1:
        return _cudnn(q, k, v, positions)
    return _xla(q, k, v, positions)


def _windowed(q, k, v, positions, whole: bool, window: int) -> jax.Array:
    """Attention with a sliding window in force, by the xla path."""
    if not whole:
        return _xla(q, k, v, positions, window)
    return _spoil(_whole(q, k, jnp.where(jnp.isfinite(v), v, 0), positions, window), v, window)


def _spoil(out: jax.Array, v: jax.Array, window: int | None = None) -> jax.Array:
    """Returns out[B,T,N,H] with NaN for the queries that see a non-finite value of v[B,K,T,H].

    `out` was computed with zeros in place of such values. A kernel multiplies the values after a
    query by a weight of 0, and 0 * NaN would let padding spoil the tokens before it.
    """
    batch, num_kv_heads, num_tokens, _ = v.shape
    index = jnp.arange(num_tokens)
    is_finite = jnp.isfinite(v).all(axis=-1)  # [B,K,T]
    if window is None:
        first = jnp.min(jnp.where(is_finite, num_tokens, index), axis=-1)  # [B,K]
        sees = index[:, None] >= first[:, None]  # [B,T,K]
    else:
        latest = jax.lax.cummax(jnp.where(is_finite, -window, index), axis=2)  # up to each query
        sees = (latest > index - window).swapaxes(1, 2)
    grouped = out.reshape(batch, num_tokens, num_kv_heads, -1)
    return jnp.where(sees[..., None], jnp.nan, grouped).reshape(out.shape)


def _whole(q, k, v, positions: jax.Array, window: int | None = None) -> jax.Array:
    """Attention of whole sequences, in blocks of queries (causal.py)."""
    batch, num_tokens, _, head_dim = q.shape
    grouped = q.reshape(batch, num_tokens, k.shape[1], -1, head_dim).transpose(0, 2, 3, 1, 4)
    return causal_attention(grouped, k, v, window).transpose(0, 3, 1, 2, 4).reshape(q.shape)


def _xla(q, k, v, positions: jax.Array, window: int | None = None) -> jax.Array:
    """Attention over cached keys in plain matrix products, any number of tokens per row."""
    batch, num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, num_slots = k.shape[1:3]
    groups = num_heads // num_kv_heads
    wide = jnp.promote_types(q.dtype, jnp.float32)
    precision = jax.lax.Precision.HIGHEST if q.dtype == wide else None

    # The G query heads of a kv head and the T tokens become one axis of queries, so that both
    # products are plain batched matmuls over [B,K] and K/V are never repeated.
    queries = q.reshape(batch, num_tokens, num_kv_heads, groups, head_dim)
    queries = queries.transpose(0, 2, 3, 1, 4).reshape(batch, num_kv_heads, -1, head_dim)
    if k.shape[-1] > head_dim:
        queries = jnp.pad(queries, ((0, 0), (0, 0), (0, 0), (0, k.shape[-1] - head_dim)))
    scores = jnp.einsum(
        "bkqh,bksh->bkqs", queries, k, precision=precision, preferred_element_type=wide
    )
    scores = scores * (head_dim**-0.5)
    scores = scores.reshape(batch, num_kv_heads, groups, num_tokens, num_slots)
    visible = jnp.arange(num_slots) <= positions[:, :, None]  # [B,T,S]
    if window is not None:
        visible &= jnp.arange(num_slots) > positions[:, :, None] - window
    scores = jnp.where(visible[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = weights.reshape(batch, num_kv_heads, -1, num_slots)
    out = jnp.einsum(
        "bkqs,bksh->bkqh", weights, v, precision=precision, preferred_element_type=wide
    )
    out = out[..., :head_dim].reshape(batch, num_kv_heads, groups, num_tokens, head_dim)
    return out.transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array) -> jax.Array:
    """Attention by cuDNN: of one token per row over cached keys, or of whole sequences."""
    keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # [B,S,K,H]
    if q.shape[1] == 1:
        return jax.nn.dot_product_attention(
            q,
            keys,
            values,
            query_seq_lengths=jnp.ones_like(positions[:, 0]),
            key_value_seq_lengths=positions[:, 0] + 1,
            implementation="cudnn",
        )
    return jax.nn.dot_product_attention(q, keys, values, is_causal=True, implementation="cudnn")
