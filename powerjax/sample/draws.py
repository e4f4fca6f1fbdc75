"""Randomness that belongs to the chain: every uniform is a function of what it is used for.

A draw is keyed by (seed, chain id, sample index, stage, MH step, position, purpose) and by nothing
else. A chain's output therefore does not depend on its slot, its neighbours, the order of admission
or a restart. No two draws share a key.

Keys are made by a chain of Threefry-2x32 hashes, each keyed by the one before: of the seed and the
id, of the sample index, of the move, of the draw. The last two are computed for every token.
"""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.random import threefry2x32_p

from powerjax.sample import mh

EXTEND, PROPOSE, CUT, ACCEPT, KIND = range(5)  # the purposes of a draw


def chain_id(name: str | int) -> int:
    """A stable 64-bit name of a problem: the first 8 bytes of SHA-256, or the integer itself."""
    if isinstance(name, str):
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return int(name) % 2**64


def chain_keys(seed: int, names: Sequence[str | int], sample_indices: Sequence[int]) -> np.ndarray:
    """The key of each of R chains.

    Args:
      seed: of the run.
      names: R names of problems.
      sample_indices: R sample indices.

    Returns:
      uint32 [R, 2].
    """
    ids = np.array([chain_id(n) for n in names], np.uint64)
    samples = np.array(sample_indices, np.uint32)
    word = np.full(ids.shape, _seed_word(int(seed)), np.uint64)
    low = np.uint64(0xFFFFFFFF)
    key = _hash(
        *(jnp.asarray((x & low).astype(np.uint32)) for x in (word >> np.uint64(32), word)),
        *(jnp.asarray((x & low).astype(np.uint32)) for x in (ids >> np.uint64(32), ids)),
    )
    return np.asarray(jnp.stack(_hash(*key, jnp.asarray(samples), jnp.zeros_like(key[0])), axis=-1))


def _seed_word(seed: int) -> int:
    """A seed as 64 bits: itself from 0 up, a hash of it below 0.

    A negative seed is not taken modulo 2**64, because -1 would then draw what 2**64 - 1 draws.
    """
    if seed >= 0:
        return seed % 2**64
    return int.from_bytes(hashlib.sha256(f"seed {seed}".encode()).digest()[:8], "big")


def draw(key: Array, chain: mh.Chain, settings: mh.Settings, dtype=jnp.float32) -> mh.Draws:
    """The uniforms that `mh.advance` may need at this state of one chain.

    Args:
      key: uint32 [2], the chain's (`chain_keys`).
      chain: state of one chain, before the token is drawn.
      settings: of the run.
      dtype: float dtype of the uniforms.

    Returns:
      mh.Draws: the token uniforms of the current move at its position, and the cut, the acceptance
      uniform and, where there are several kinds, the kind of the next move, in case the current one
      ends here.
    """
    next_stage, next_step = mh.next_move(chain, settings)
    word = lambda *xs: jnp.stack([jnp.asarray(x).astype(jnp.uint32) for x in xs])  # noqa: E731
    k0, k1 = jnp.broadcast_to(key[0], 2), jnp.broadcast_to(key[1], 2)
    m0, m1 = _hash(k0, k1, word(chain.stage, next_stage), word(chain.step, next_step))
    purpose = jnp.where(chain.step == 0, EXTEND, PROPOSE)
    purposes = [purpose, CUT, ACCEPT] + ([] if settings.mixture is None else [KIND])
    move = jnp.array([0] + [1] * (len(purposes) - 1))
    position = word(chain.position, *[0] * (len(purposes) - 1))
    high, low = _hash(m0[move], m1[move], position, word(*purposes))
    return mh.Draws(
        token=uniform(jnp.stack([high[0], low[0]]), dtype),
        cut=high[1],
        log_u=_log_uniform(high[2], dtype),
        kind=None if settings.mixture is None else uniform(high[3]),
    )


def accept_log_us(keys: np.ndarray, num_steps: int) -> np.ndarray:
    """The logs of the acceptance uniforms of the moves 1..N of stage 0: float32 [C, N].

    They are those of `draw`, for whoever decides on moves that were drawn elsewhere.

    Args:
      keys: uint32 [C, 2], the keys of C chains.
      num_steps: N.
    """
    steps = jnp.arange(1, num_steps + 1, dtype=jnp.uint32)
    k0, k1 = (jnp.asarray(keys)[:, i, None] for i in (0, 1))
    k0, k1, steps = jnp.broadcast_arrays(k0, k1, steps)
    zero = jnp.zeros_like(steps)
    high, _ = _hash(*_hash(k0, k1, zero, steps), zero, zero + ACCEPT)
    return np.asarray(_log_uniform(high, jnp.float32))


def _log_uniform(bits: Array, dtype) -> Array:
    """The log of a uniform on (0, 1) from 32 bits. It is never -inf. dtype: of the result."""
    return jnp.log((bits.astype(dtype) + dtype(0.5)) * dtype(2.0**-32))


def uniform(bits: Array, dtype=jnp.float32) -> Array:
    """Floats in [0, 1) from the upper 24 of uint32 bits. They are never 1."""
    return (bits >> 8).astype(dtype) * dtype(2.0**-24)


def _hash(k0: Array, k1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of the counter (x0, x1) under the key (k0, k1), elementwise (uint32)."""
    with jax.named_scope("threefry"):
        return tuple(threefry2x32_p.bind(k0, k1, x0, x1))
