"""Attention over cached keys: one function, with a switch for the kernel behind it.

Letters as in decoder.py.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models.causal import causal_attention

IMPLEMENTATIONS = ("xla", "triton", "cudnn")
_TRITON_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)

_MASKED = -1e30  # finite: a softmax over -inf alone would be nan


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    *,
    whole: bool = False,
    implementation: str | None = None,
    place: NamedSharding | None = None,
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
      implementation: "xla" (any device and dtype), "triton" or "cudnn"; None takes `fastest`.
        triton (decode_kernel.py) computes single-token decoding on NVIDIA GPUs and reads only the
        slots in use; everything else, and other devices, take the xla path. cudnn (NVIDIA,
        bfloat16 or float16) computes single-token decoding and whole sequences. With cudnn, a chunk
        of tokens over a cached prefix takes the xla path, and so does a window in force.
      window: how many slots a query sees, its own included; None for all. It is in force where it
        is shorter than S.
      place: the sharding of k and v, if they are split over devices; None if they are not.

    Raises ValueError for another `implementation`.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        known = ", ".join(map(repr, IMPLEMENTATIONS))
        raise ValueError(f"attention implementation {implementation!r}: use one of {known}")
    implementation = implementation or fastest()
    if window is not None and window >= k.shape[2]:
        window = None
    if implementation == "triton" and not whole and q.shape[1] == 1 and q.dtype in _TRITON_DTYPES:
        return _triton(q, k, v, positions, window, place)
    if window is not None:
        return _windowed(q, k, v, positions, whole, window)
    if whole:
        kernel = _cudnn if implementation == "cudnn" else _whole
        return _spoil(kernel(q, k, jnp.where(jnp.isfinite(v), v, 0), positions), v)
    if implementation == "cudnn" and q.shape[1] == 1:
        return _cudnn(q, k, v, positions)
    return _xla(q, k, v, positions)


@functools.cache
def fastest() -> str:
    """Returns the implementation that decoding takes by default on JAX's default device.

    That is triton on NVIDIA GPUs from Ampere (compute capability 8.0) on, and xla elsewhere. It was
    measured on an H100 alone.
    """
    device = jax.devices()[0]
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind:
        return "xla"
    try:
        from jax.experimental.pallas import triton  # noqa: F401  later versions of JAX lack it
    except ImportError:
        return "xla"
    return "triton" if float(device.compute_capability) >= 8 else "xla"


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


def _triton(q, k, v, positions, window: int | None, place: NamedSharding | None) -> jax.Array:
    """Attention of one token per row by our kernel, on NVIDIA GPUs; by XLA elsewhere."""
    from powerjax.models import decode_kernel  # Pallas takes a while to import, and not all need it

    def attend(*arrays):
        return jax.lax.platform_dependent(
            *arrays,
            cuda=functools.partial(decode_kernel.decode_attention, window=window),
            default=functools.partial(_xla, window=window),
        )

    if place is None:
        return attend(q, k, v, positions)
    # XLA does not divide a kernel over devices, so each device is given its own heads.
    heads = P(None, None, *place.spec[1:2])
    specs = (heads, place.spec, place.spec, P())
    attend = jax.shard_map(
        attend, mesh=place.mesh, in_specs=specs, out_specs=heads, check_vma=False
    )
    return attend(q, k, v, positions)


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
