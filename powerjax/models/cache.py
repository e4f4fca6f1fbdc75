"""The KV cache: one [B,K,S,H] array of keys and one of values per layer. Only this file, and
attention which reads it, know the layout.

Heads stand before slots because decoding then reads each head's keys as one contiguous block.
Positions are per row, so rows rewind independently. A row's slots past its length may hold
anything: slot s is visible only to queries at positions >= s, and decoding writes slot s before
such a query is made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from powerjax.models.config import ModelConfig


class KVCache(NamedTuple):
    """Per layer: keys (already rotated) and values, each [B,K,S,H]."""

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]


def init_cache(config: ModelConfig, batch: int, length: int, dtype=jnp.float32) -> KVCache:
    """An empty cache of `batch` rows and `length` slots."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    return KVCache(
        k=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
        v=tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)),
    )


def write_layer(
    k_cache: jax.Array, v_cache: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Writes k, v [B,T,K,H] into one layer's [B,K,S,H] at each row's own positions[B,T].

    Positions past the last slot are dropped.
    """
    rows = jnp.arange(k.shape[0])[:, None]
    k_cache = k_cache.at[rows, :, positions].set(k.astype(k_cache.dtype), mode="drop")
    v_cache = v_cache.at[rows, :, positions].set(v.astype(v_cache.dtype), mode="drop")
    return k_cache, v_cache
