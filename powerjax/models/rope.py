"""Rotary position embedding, with default and longrope frequencies.

Number i of a head is rotated together with number i + rotary/2, not with its neighbour.
Letters as in decoder.py; `rotary` is how many of a head's H numbers are rotated.
"""

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.models.config import ModelConfig


def inverse_frequencies(config: ModelConfig, long_context: bool = False) -> np.ndarray:
    """Returns float32[rotary/2]: theta^(-2i/rotary), divided by longrope's factors if it is used.

    long_context: whether to use the long factors. The choice is made once per run, by its total
        length, so that one cache never holds keys rotated by two sets of frequencies.
    """
    rope = config.rope
    rotary = int(config.head_dim * rope.rotary_fraction)
    exponent = np.arange(0, rotary, 2, dtype=np.float32) / np.float32(rotary)
    frequencies = np.float32(rope.theta) ** exponent
    if rope.kind == "longrope":
        factors = rope.long_factor if long_context else rope.short_factor
        frequencies = np.asarray(factors, np.float32) * frequencies
    return (np.float32(1.0) / frequencies).astype(np.float32)


def cos_sin(
    positions: jax.Array, config: ModelConfig, long_context: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns (cos, cos) and (-sin, sin), float32[B,T,rotary] each, for int32 positions[B,T].

    `rotate` multiplies x by the first and x with its halves exchanged by the second. Both contain
    the attention factor. They repeat each cosine in both halves because XLA on CPUs computes
    float32[B,T,rotary/2] anew for each head of each layer, and this width only once.
    """
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config, long_context)
    factor = np.float32(config.rope.attention_factor)
    cos, sin = jnp.cos(angles) * factor, jnp.sin(angles) * factor
    return jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Returns x[B,T,N,H] with the first `rotary` numbers of each head rotated.

    cos, sin: the two results of `cos_sin`. The products are made in float32 or wider.
    """
    rotary = cos.shape[-1]
    half = rotary // 2
    cos, sin = cos[:, :, None], sin[:, :, None]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first, second, rest = wide[..., :half], wide[..., half:rotary], wide[..., rotary:]
    turned = [
        first * cos[..., :half] + second * sin[..., :half],
        second * cos[..., half:] + first * sin[..., half:],
    ]
    return jnp.concatenate([*turned, rest] if rest.shape[-1] else turned, -1).astype(x.dtype)
