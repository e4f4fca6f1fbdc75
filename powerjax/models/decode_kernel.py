"""Attention of one new token per row on NVIDIA GPUs, as a Triton kernel: reads only what is in use.

XLA's attention reads every slot of the cache, whatever the rows' lengths. This kernel stops at each
row's own position (flash decoding: Dao et al. 2023). A row's slots are divided into chunks of
`_CHUNK`, one program per row, kv head and chunk. A second kernel adds up the chunks in use. The
order of every sum depends on the row's own position alone: neighbours and the cache's length change
no bit of it.

Letters as in decoder.py; also G query heads per kv head and C chunks per row.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

_CHUNK = 512  # slots of one program; a multiple of every block below
_MASKED = -1e30  # finite: exp(-inf - -inf) would be nan
_BLOCK_BYTES = 8192  # of the keys, and of the values, of one load
_SHARED_BYTES = 64 * 1024  # of the keys and values that are under way


def decode_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    *,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Returns attention [B,1,N,H] of one query per row, over the slots up to its position.

    Slots past the position are not read, whatever they hold.

    Args:
      q: [B,1,N,H], in bfloat16, float16 or float32.
      k, v: [B,K,S,H], of the same dtype. Float32 products are made in float32, not in TF32.
      positions: int32[B,1], each below S.
      window: how many slots a query sees at most, the last of them its own; None for all.
      interpret: run by JAX's interpreter, on any device.
    """
    batch, _, num_heads, head_dim = q.shape
    num_kv_heads, num_slots = k.shape[1:3]
    groups = num_heads // num_kv_heads
    chunks = pl.cdiv(num_slots, _CHUNK)
    queries = q.reshape(batch, num_kv_heads, groups, head_dim)
    out: Any = jax.ShapeDtypeStruct(queries.shape, q.dtype)
    if chunks > 1:
        partial = (batch, num_kv_heads, chunks, groups)
        out = (
            jax.ShapeDtypeStruct((*partial, head_dim), jnp.float32),
            jax.ShapeDtypeStruct(partial, jnp.float32),
            jax.ShapeDtypeStruct(partial, jnp.float32),
        )
    block, num_stages = _tile(jnp.dtype(q.dtype).itemsize * _power_of_two(head_dim))
    result = pl.pallas_call(
        functools.partial(_attend_kernel, block=block, groups=groups, window=window, chunks=chunks),
        out_shape=out,
        grid=(num_kv_heads, batch, chunks),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=num_stages),
        interpret=interpret,
        name="decode_attention",
    )(queries, k, v, positions[:, 0])
    if chunks > 1:
        result = pl.pallas_call(
            functools.partial(_combine_kernel, window=window),
            out_shape=jax.ShapeDtypeStruct(queries.shape, q.dtype),
            grid=(batch, num_kv_heads, groups),
            compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
            interpret=interpret,
            name="decode_attention_combine",
        )(*result, positions[:, 0])
    return result.reshape(q.shape)


def _power_of_two(size: int) -> int:
    """Returns the least power of two that is at least `size`: the sides of Triton's blocks."""
    return 1 << (size - 1).bit_length()


def _tile(width: int) -> tuple[int, int]:
    """Returns how many slots are loaded at a time, and how many loads are under way.

    Keys and values under way take at most 64 KiB. With the queries they fit the 99 KiB of shared
    memory of the smallest cards from Ampere on.

    width: bytes of one slot of one head.
    """
    slots = max(16, min(_CHUNK, _BLOCK_BYTES // width))
    return slots, 3 if 3 * 2 * slots * width <= _SHARED_BYTES else 2


def _attend_kernel(q_ref, k_ref, v_ref, position_ref, *out_refs, block, groups, window, chunks):
    """One program: the queries [G,H] of one row and kv head over the slots of one chunk.

    With one chunk it writes the attention. Otherwise it writes three results of its chunk: the sum
    of weight times value [G,H], the largest score [G], and the sum of the weights [G]. It writes
    nothing where no slot of the chunk is in use.
    """
    head, row, chunk = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    head_dim = q_ref.shape[-1]
    stop = jnp.minimum(position_ref[row] + 1, (chunk + 1) * _CHUNK)
    start = chunk * _CHUNK
    if window is not None:
        start = jnp.maximum(start, position_ref[row] + 1 - window)

    # Triton's products need powers of two, and 16 rows at least.
    rows = jnp.arange(max(16, _power_of_two(groups)))
    columns = jnp.arange(_power_of_two(head_dim))
    at = row, head, rows[:, None], columns[None]
    is_query = (rows < groups)[:, None] & (columns < head_dim)[None]

    def attend():
        q = triton.load(q_ref.at[at], mask=is_query, other=0)
        step = functools.partial(_add_block, q, k_ref, v_ref, at[:2], block, start, stop)
        empty = (
            jnp.zeros(q.shape, jnp.float32),
            jnp.full(rows.size, _MASKED, jnp.float32),
            jnp.zeros(rows.size, jnp.float32),
        )
        total, top, weight = lax.fori_loop(start // block, pl.cdiv(stop, block), step, empty)
        if chunks == 1:
            out = (total / weight[:, None]).astype(out_refs[0].dtype)
            triton.store(out_refs[0].at[at], out, mask=is_query)
        else:
            part = row, head, chunk, rows
            triton.store(out_refs[0].at[*at[:2], chunk, *at[2:]], total, mask=is_query)
            triton.store(out_refs[1].at[part], top, mask=rows < groups)
            triton.store(out_refs[2].at[part], weight, mask=rows < groups)

    pl.when(start < stop)(attend)


def _add_block(q, k_ref, v_ref, row_head, block, start, stop, i, carry):
    """Adds block i of the slots start..stop-1 to the sums over the blocks before it.

    Args:
      q: the queries, padded with zeros to the sides of Triton's blocks.
      k_ref, v_ref: [B,K,S,H], of which it reads one row and kv head.
      carry: the sum of weight times value, the largest score, the sum of the weights.
    """
    total, top, weight = carry
    precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    dot = functools.partial(jnp.dot, precision=precision, preferred_element_type=jnp.float32)
    slots, columns = i * block + jnp.arange(block), jnp.arange(q.shape[1])
    visible = (slots >= start) & (slots < stop)
    head_dim = k_ref.shape[-1]
    at = *row_head, slots[:, None], columns[None]
    mask = visible[:, None] & (columns < head_dim)[None]
    scores = dot(q, triton.load(k_ref.at[at], mask=mask, other=0).T) * head_dim**-0.5
    scores = jnp.where(visible[None], scores, _MASKED)
    new_top = jnp.maximum(top, jnp.max(scores, axis=1))
    weights = jnp.where(visible[None], jnp.exp(scores - new_top[:, None]), 0)
    shrink = jnp.exp(top - new_top)
    values = triton.load(v_ref.at[at], mask=mask, other=0)
    total = total * shrink[:, None] + dot(weights.astype(values.dtype), values)
    return total, new_top, weight * shrink + jnp.sum(weights, axis=1)


def _combine_kernel(total_ref, top_ref, weight_ref, position_ref, out_ref, *, window):
    """One program: the attention [H] of one query head, from the chunks that are in use."""
    row, head, query = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    position = position_ref[row]
    head_dim = total_ref.shape[-1]
    columns = jnp.arange(_power_of_two(head_dim))
    in_head = columns < head_dim

    def step(chunk, carry):
        total, top, weight = carry
        chunk_total = triton.load(
            total_ref.at[row, head, chunk, query, columns], mask=in_head, other=0
        )
        chunk_top = top_ref[row, head, chunk, query]
        new_top = jnp.maximum(top, chunk_top)
        old, new = jnp.exp(top - new_top), jnp.exp(chunk_top - new_top)
        weight = weight * old + weight_ref[row, head, chunk, query] * new
        return total * old + chunk_total * new, new_top, weight

    first = 0 if window is None else jnp.maximum(0, position + 1 - window) // _CHUNK
    empty = jnp.zeros(columns.size, jnp.float32), jnp.float32(_MASKED), jnp.float32(0)
    total, _, weight = lax.fori_loop(first, position // _CHUNK + 1, step, empty)
    out = (total / weight).astype(out_ref.dtype)
    triton.store(out_ref.at[row, head, query, columns], out, mask=in_head)
