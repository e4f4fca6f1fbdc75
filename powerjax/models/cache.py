"""The KV cache: one [B,K,S,H] array of keys and one of values per layer. Only this file, and
attention which reads it, know the layout.

Heads stand before slots because decoding then reads each head's keys as one contiguous block.
On a TPU the last axis is filled with zeros to whole rows of 128 lanes (`head_width`).
Positions are per row, so rows rewind independently. A row's slots past its length may hold
anything: slot s is visible only to queries at positions >= s, and decoding writes slot s before
such a query is made.
"""

import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from powerjax.models.config import ModelConfig

log = logging.getLogger(__name__)


_TPU_LANES = 128


class KVCache(NamedTuple):
    """Per layer: keys (already rotated) and values, each [B,K,S,H]."""

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]


def head_width(head_dim: int, platform: str) -> int:
    """What one head of one slot takes in the cache, in numbers.

    The TPU compiler stores an array whose last axis is no whole row of lanes with its slots last,
    and the slot loop, which writes rows, would copy both caches to rows and back in every call.
    """
    return -(-head_dim // _TPU_LANES) * _TPU_LANES if platform == "tpu" else head_dim


def bytes_per_token(config: ModelConfig, dtype, platform: str, mesh: Mesh | None = None) -> int:
    """What a position of one row takes of each device: keys and values of all layers."""
    heads = config.num_kv_heads
    if mesh is not None and "model" in cache_sharding(config, mesh).spec:
        heads //= mesh.shape["model"]
    width = head_width(config.head_dim, platform)
    return 2 * config.num_layers * heads * width * jnp.dtype(dtype).itemsize


def init_cache(
    config: ModelConfig,
    batch: int,
    length: int,
    dtype=jnp.float32,
    place: Sharding | None = None,
) -> KVCache:
    """An empty cache of `batch` rows and `length` slots; place: of each array, `cache_sharding`."""
    device = next(iter(place.device_set)) if place is not None else None
    width = head_width(config.head_dim, device.platform if device else jax.default_backend())
    shape = (batch, config.num_kv_heads, length, width)
    return KVCache(
        k=tuple(jnp.zeros(shape, dtype, device=place) for _ in range(config.num_layers)),
        v=tuple(jnp.zeros(shape, dtype, device=place) for _ in range(config.num_layers)),
    )


def cache_sharding(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """Where an array of a cache lies: split by kv heads over "model", as the attention weights are.

    Where the heads do not divide, attention is replicated, and the cache with it; that is logged.
    """
    size = mesh.shape["model"]
    if config.num_heads % size or config.num_kv_heads % size:
        if not isinstance(mesh, AbstractMesh):  # a plan tries many
            _say_replicated(config.num_heads, config.num_kv_heads, size)
        return NamedSharding(mesh, P())
    return NamedSharding(mesh, P(None, "model"))


_SAID: dict[tuple[int, int, int], object] = {}


def _say_replicated(num_heads: int, num_kv_heads: int, size: int) -> None:
    """Once, whichever of the engines' threads comes first."""
    mine = object()
    if _SAID.setdefault((num_heads, num_kv_heads, size), mine) is mine:
        log.warning(
            "the K/V cache is replicated: %d heads, %d kv heads do not divide by model axis %d",
            num_heads,
            num_kv_heads,
            size,
        )


def write_layer(
    k_cache: jax.Array,
    v_cache: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    place: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Writes k, v [B,T,K,H] into one layer's [B,K,S,H] at each row's own positions[B,T].

    Positions past the last slot are dropped. place: of the cache, where it is over devices.
    """
    write = _write
    if place is not None:  # each device its own heads
        specs = (place.spec, place.spec, P())
        write = jax.shard_map(_write, mesh=place.mesh, in_specs=specs, out_specs=place.spec)
    new = [_fit(x.transpose(0, 2, 1, 3), k_cache) for x in (k, v)]
    return write(k_cache, new[0], positions), write(v_cache, new[1], positions)


def write_prompts(cache: KVCache, rows: jax.Array, fresh: KVCache) -> KVCache:
    """Writes the K/V of whole prompts, each [B,K,T,H], over the first T slots of rows[B].

    Rows past the last are dropped.
    """

    def write(to, new):
        return to.at[rows, :, : new.shape[2]].set(_fit(new, to), mode="drop")

    return jax.tree.map(write, cache, fresh)


def _fit(new: jax.Array, cache: jax.Array) -> jax.Array:
    """In the cache's dtype and with its width of a head."""
    new = new.astype(cache.dtype)
    spare = cache.shape[-1] - new.shape[-1]
    return jnp.pad(new, [(0, 0)] * (new.ndim - 1) + [(0, spare)]) if spare else new


def _write(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """new[B,K,T,H] at positions[B,T] of each row, as rows of one long [B*K*S,H] table.

    A scatter over [B,K,S,H] makes the TPU compiler copy the whole cache to slots-first order and
    back, in every step; in the table a position is a row, and rows stay where they are.
    """
    at = _table_rows(cache.shape, positions)
    table = cache.reshape(-1, cache.shape[-1])
    rows = new.reshape(-1, new.shape[-1])
    return table.at[at].set(rows, mode="drop").reshape(cache.shape)


def _read(cache: jax.Array, positions: jax.Array) -> jax.Array:
    """[B,K,T,H]: what stands at positions[B,T] of each row."""
    batch, heads, _, head_dim = cache.shape
    at = _table_rows(cache.shape, positions)
    return cache.reshape(-1, head_dim)[at].reshape(batch, heads, -1, head_dim)


def _table_rows(shape: tuple[int, ...], positions: jax.Array) -> jax.Array:
    """Rows [B*K*T] of the table that hold positions[B,T]; past its end for those past the last."""
    batch, heads, size, _ = shape
    first = jnp.arange(batch * heads).reshape(batch, heads, 1) * size
    at = jnp.where(positions < size, positions, batch * heads * size)[:, None]
    return (first + at).reshape(-1)


def save_slots(
    undo: KVCache, cache: KVCache, positions: jax.Array, place: NamedSharding | None = None
) -> tuple[KVCache, jax.Array]:
    """Copies the slot at each row's position[B] from `cache` into `undo`, before it is overwritten.

    A Metropolis-Hastings proposal writes into the one working cache; what it overwrites is kept
    here, so that an accepted move costs no copy and a rejected one copies its own length back.

    Args:
      undo, cache, positions: see above.
      place: of both caches' arrays, where they are split over devices.

    Returns:
      (undo, positions). Write at the positions returned: they are the same numbers, but depend on
      the old slots having been read, so that XLA can write in place.
    """
    if place is None:
        return _save_slots(undo, cache, positions)
    # Each device for its own heads: whether a slot was read is nothing to tell the others.
    return jax.shard_map(
        _save_slots,
        mesh=place.mesh,
        in_specs=(place.spec, place.spec, P()),
        out_specs=(place.spec, P()),
        check_vma=False,  # positions are the same everywhere; the sum below hides it
    )(undo, cache, positions)


def _save_slots(undo, cache, positions):
    old = jax.tree.map(lambda source: _read(source, positions[:, None]), cache)
    # Nothing exceeds infinity, so this adds 0. XLA drops an optimization_barrier before it decides
    # on copies, and then copies the whole cache, twice a step.
    above = (x[:, 0, 0, 0] > jnp.inf for x in jax.tree.leaves(old))
    positions += sum(x.astype(positions.dtype) for x in above)
    undo = jax.tree.map(lambda to, x: _write(to, x, positions[:, None]), undo, old)
    return undo, positions


def restore_slots(
    cache: KVCache, undo: KVCache, row: jax.Array, first: jax.Array, last: jax.Array, width: int
) -> KVCache:
    """Copies slots first..last (at most `width` of them, a static number) of one row back."""
    size = cache.k[0].shape[2]
    start = jnp.clip(first, 0, size - width)
    slots = start + jnp.arange(width)
    inside = ((slots >= first) & (slots <= last))[None, None, :, None]

    def restore(to, source):
        corner, shape = (row, 0, start, 0), (1, to.shape[1], width, to.shape[3])
        kept = jax.lax.dynamic_slice(source, corner, shape)
        block = jnp.where(inside, kept, jax.lax.dynamic_slice(to, corner, shape))
        return jax.lax.dynamic_update_slice(to, block, corner)

    return jax.tree.map(restore, cache, undo)


def copy_row(cache: KVCache, row: jax.Array, source: KVCache, source_row: jax.Array) -> KVCache:
    """Overwrites the first slots of a row with a row of a (shorter or equal) cache."""

    def copy(to, prefix):
        block = jax.lax.dynamic_slice_in_dim(prefix, source_row, 1, axis=0)
        return jax.lax.dynamic_update_slice(to, block, (row, 0, 0, 0))

    return jax.tree.map(copy, cache, source)


def grow(cache: KVCache, length: int) -> KVCache:
    """The same cache with room for `length` slots; layer by layer, so that only one is doubled.

    The arrays of `cache` are deleted.
    """

    def widen(rows):
        wider = _pad_slots(length, rows.sharding if rows.committed else None)(rows)
        wider.block_until_ready()
        rows.delete()
        return wider

    return jax.tree.map(widen, cache)


@functools.cache
def _pad_slots(length: int, place: Sharding | None):
    def pad(rows):
        return jnp.pad(rows, ((0, 0), (0, 0), (0, length - rows.shape[2]), (0, 0)))

    return jax.jit(pad, out_shardings=place)
