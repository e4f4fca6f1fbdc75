"""The K/V cache: one [B,K,S,H] array of keys and one of values per layer.

attention.py reads this layout, and so do `sample.slots` and `sample.feed`, which copy rows and
slots; change all four together. Heads come before slots,
so that decoding reads each head's keys as one contiguous block. On a TPU the last axis is padded
with zeros to whole rows of 128 lanes (`head_width`).

Each row has its own positions, so rows rewind independently. A row's slots past its length may
hold anything: slot s is visible only to queries at positions >= s, and decoding writes slot s
before such a query is made. Letters as in decoder.py.
"""

import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from powerjax.models import buckets
from powerjax.models.config import ModelConfig

log = logging.getLogger(__name__)

_TPU_LANES = 128


class KVCache(NamedTuple):
    """The keys and values of all layers."""

    k: tuple[jax.Array, ...]  # one [B,K,S,H] per layer, already rotated
    v: tuple[jax.Array, ...]  # one [B,K,S,H] per layer


def head_width(head_dim: int, platform: str) -> int:
    """Returns how many numbers one head of one slot takes in the cache: H, or more on a TPU.

    Where the last axis is not a multiple of 128 lanes, the TPU compiler lays the array out with the
    slots last. The slot loop writes rows, and would copy both caches to rows and back in each call.
    """
    return buckets.multiple(head_dim, _TPU_LANES) if platform == "tpu" else head_dim


def bytes_per_token(config: ModelConfig, dtype, platform: str, mesh: Mesh | None = None) -> int:
    """Returns the bytes that one slot of one row takes on each device, over all layers.

    mesh: the devices that the cache is split over; None for one device.
    """
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
    """Returns a cache of `batch` rows and `length` slots, all zeros.

    place: the sharding of each array, see `cache_sharding`; None takes the default device.
    """
    device = next(iter(place.device_set)) if place is not None else None
    width = head_width(config.head_dim, device.platform if device else jax.default_backend())
    shape = (batch, config.num_kv_heads, length, width)
    return KVCache(
        k=tuple(jnp.zeros(shape, dtype, device=place) for _ in range(config.num_layers)),
        v=tuple(jnp.zeros(shape, dtype, device=place) for _ in range(config.num_layers)),
    )


def cache_sharding(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a cache's arrays: split by kv heads over the mesh's "model" axis.

    Where the axis does not divide the heads or the kv heads, attention and its cache are replicated
    on every device. That is logged once, but not for an AbstractMesh.
    """
    size = mesh.shape["model"]
    if config.num_heads % size or config.num_kv_heads % size:
        if not isinstance(mesh, AbstractMesh):  # planning tries many meshes
            _log_replicated(config.num_heads, config.num_kv_heads, size)
        return NamedSharding(mesh, P())
    return NamedSharding(mesh, P(None, "model"))


_LOGGED: dict[tuple[int, int, int], object] = {}


def _log_replicated(num_heads: int, num_kv_heads: int, size: int) -> None:
    """Logs once per process that the cache is replicated, though several threads may call this."""
    token = object()
    if _LOGGED.setdefault((num_heads, num_kv_heads, size), token) is token:  # atomic
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

    What belongs to positions past the last slot is dropped. Returns the new (k_cache, v_cache).

    place: the sharding of the cache, if it is split over devices; None if it is not.
    """
    write = _write
    if place is not None:  # each device writes its own heads
        specs = (place.spec, place.spec, P())
        write = jax.shard_map(_write, mesh=place.mesh, in_specs=specs, out_specs=place.spec)
    new = [_fit(x.transpose(0, 2, 1, 3), k_cache) for x in (k, v)]
    return write(k_cache, new[0], positions), write(v_cache, new[1], positions)


def write_prompts(cache: KVCache, rows: jax.Array, fresh: KVCache) -> KVCache:
    """Returns `cache` with the K/V of whole prompts written over the first T slots of rows.

    Args:
      rows: whole numbers [B], the row of the cache that each prompt goes to; a prompt is dropped
        where its number is past the last row.
      fresh: the prompts' K/V, each array [B,K,T,H].
    """

    def write(to, new):
        return to.at[rows, :, : new.shape[2]].set(_fit(new, to), mode="drop")

    return jax.tree.map(write, cache, fresh)


def _fit(new: jax.Array, cache: jax.Array) -> jax.Array:
    """Returns `new` in the cache's dtype, its heads padded to the cache's width."""
    new = new.astype(cache.dtype)
    spare = cache.shape[-1] - new.shape[-1]
    return jnp.pad(new, [(0, 0)] * (new.ndim - 1) + [(0, spare)]) if spare else new


def _write(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """Writes new[B,K,T,H] at positions[B,T] of each row of cache[B,K,S,H].

    The scatter is over the cache reshaped to a table [B*K*S,H]. A scatter over [B,K,S,H] makes the
    TPU compiler copy the whole cache to slots-first order and back in every step.
    """
    at = _table_rows(cache.shape, positions)
    table = cache.reshape(-1, cache.shape[-1])
    rows = new.reshape(-1, new.shape[-1])
    return table.at[at].set(rows, mode="drop").reshape(cache.shape)


def _read(cache: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns [B,K,T,H], the contents of cache[B,K,S,H] at positions[B,T] of each row."""
    batch, heads, _, head_dim = cache.shape
    at = _table_rows(cache.shape, positions)
    return cache.reshape(-1, head_dim)[at].reshape(batch, heads, -1, head_dim)


def _table_rows(shape: tuple[int, ...], positions: jax.Array) -> jax.Array:
    """Returns int[B*K*T], the rows of the table [B*K*S,H] where positions[B,T] of each head lie.

    shape: the shape of the cache's arrays, (B, K, S, H). For a position that is not below S the
    number returned is past the table's end, so that a write there is dropped.
    """
    batch, heads, size, _ = shape
    first = jnp.arange(batch * heads).reshape(batch, heads, 1) * size
    at = jnp.where(positions < size, positions, batch * heads * size)[:, None]
    return (first + at).reshape(-1)


def save_slots(
    undo: KVCache, cache: KVCache, positions: jax.Array, place: NamedSharding | None = None
) -> tuple[KVCache, jax.Array]:
    """Copies one slot of each row from `cache` into `undo`, before the caller overwrites it.

    A Metropolis-Hastings proposal writes into the one working cache, and `undo` keeps what it
    overwrites. An accepted move then costs no copy, and a rejected one copies only the slots that
    it wrote.

    Args:
      undo: a cache of the same shape.
      cache: the working cache.
      positions: int[B], the slot of each row.
      place: the sharding of both caches' arrays, if they are split over devices.

    Returns:
      (undo, positions). The caller has to write at the positions returned. They are the same
      numbers, but XLA knows them only after the old slots were read, and so can write in place.
    """
    if place is None:
        return _save_slots(undo, cache, positions)
    # Each device saves the slots of its own heads. Under jit alone, XLA would add a communication
    # between devices, because the positions returned depend on every head.
    return jax.shard_map(
        _save_slots,
        mesh=place.mesh,
        in_specs=(place.spec, place.spec, P()),
        out_specs=(place.spec, P()),
        # The positions are equal on all devices, but the check cannot see through the sum in
        # _save_slots.
        check_vma=False,
    )(undo, cache, positions)


def _save_slots(undo, cache, positions):
    """Does `save_slots` for the heads that are on one device."""
    old = jax.tree.map(lambda source: _read(source, positions[:, None]), cache)
    # `x > inf` is always False, so this adds 0. It forces XLA to read the old keys and values
    # before the write that uses these positions. An optimization_barrier should do the same, but
    # XLA removes barriers before it decides on copies, and then copies the whole cache twice per
    # step.
    above = (x[:, 0, 0, 0] > jnp.inf for x in jax.tree.leaves(old))
    positions += sum(x.astype(positions.dtype) for x in above)
    undo = jax.tree.map(lambda to, x: _write(to, x, positions[:, None]), undo, old)
    return undo, positions


def restore_slots(
    cache: KVCache, undo: KVCache, row: jax.Array, first: jax.Array, last: jax.Array, width: int
) -> KVCache:
    """Returns `cache` with slots first..last of one row copied from `undo`.

    Args:
      row, first, last: int[]; `last` is included.
      width: a static number of slots, at least last - first + 1.
    """
    size = cache.k[0].shape[2]
    start = jnp.clip(first, 0, size - width)
    slots = start + jnp.arange(width)
    inside = ((slots >= first) & (slots <= last))[None, None, :, None]

    def restore(to, source):
        corner, shape = (row, 0, start, 0), (1, to.shape[1], width, to.shape[3])
        saved = jax.lax.dynamic_slice(source, corner, shape)
        block = jnp.where(inside, saved, jax.lax.dynamic_slice(to, corner, shape))
        return jax.lax.dynamic_update_slice(to, block, corner)

    return jax.tree.map(restore, cache, undo)


def copy_row(cache: KVCache, row: jax.Array, source: KVCache, source_row: jax.Array) -> KVCache:
    """Returns `cache` with the first slots of a row overwritten by a row of another cache.

    source: a cache of as many slots or fewer; all slots of its row `source_row` are copied.
    """

    def copy(to, prefix):
        block = jax.lax.dynamic_slice_in_dim(prefix, source_row, 1, axis=0)
        return jax.lax.dynamic_update_slice(to, block, (row, 0, 0, 0))

    return jax.tree.map(copy, cache, source)


def grow(cache: KVCache, length: int) -> KVCache:
    """Returns the same cache with room for `length` slots, and deletes the arrays of `cache`.

    One array is copied and deleted at a time, so that at most one exists twice.
    """

    def widen(rows):
        wider = _pad_slots(length, rows.sharding if rows.committed else None)(rows)
        wider.block_until_ready()
        rows.delete()
        return wider

    return jax.tree.map(widen, cache)


@functools.cache
def _pad_slots(length: int, place: Sharding | None):
    """Returns the compiled function that pads [B,K,S,H] to `length` slots."""

    def pad(rows):
        return jnp.pad(rows, ((0, 0), (0, 0), (0, length - rows.shape[2]), (0, 0)))

    return jax.jit(pad, out_shardings=place)
