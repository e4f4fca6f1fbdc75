"""Rotary position embedding, with default, linear, llama3 and longrope frequencies.

Number i of a head is rotated together with number i + rotary/2, not with its neighbour.
Letters as in decoder.py; `rotary` is how many of a head's H numbers are rotated.
"""

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.models.config import ModelConfig, RopeConfig


def inverse_frequencies(
    config: ModelConfig, long_context: bool = False, local: bool = False
) -> np.ndarray:
    """Returns float32[rotary/2]: theta^(-2i/rotary), scaled as the kind of embedding has it.

    As in transformers' modeling_rope_utils.py.

    local: whether these are the frequencies of layers with a sliding window (`config.local_rope`).
    long_context: whether to use the long factors. The choice is made once per run, by its total
        length, so that one cache never holds keys rotated by two sets of frequencies.
    """
    rope = config.rope
    if local and config.local_rope is not None:
        rope = config.local_rope
    rotary = int(config.head_dim * rope.rotary_fraction)
    exponent = np.arange(0, rotary, 2, dtype=np.float32) / np.float32(rotary)
    frequencies = np.float32(rope.theta) ** exponent
    if rope.kind == "longrope":
        factors = rope.long_factor if long_context else rope.short_factor
        frequencies = np.asarray(factors, np.float32) * frequencies
    inverse = (np.float32(1.0) / frequencies).astype(np.float32)
    if rope.kind == "linear":
        inverse = inverse / np.float32(rope.factor)
    return _llama3(inverse, rope) if rope.kind == "llama3" else inverse


def _llama3(inverse: np.ndarray, rope: RopeConfig) -> np.ndarray:
    """Returns llama3's frequencies, float32[rotary/2], of the plain ones."""
    turns = np.float32(rope.original_max_position_embeddings) * inverse / np.float32(2 * np.pi)
    low, high = np.float32(rope.low_freq_factor), np.float32(rope.high_freq_factor)
    share = np.clip((turns - low) / (high - low), 0, 1)  # that is left as it is
    return (1 - share) * inverse / np.float32(rope.factor) + share * inverse


def cos_sin(
    positions: jax.Array, config: ModelConfig, long_context: bool = False, local: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns (cos, cos) and (-sin, sin), float32[B,T,rotary] each, for int32 positions[B,T].

    `rotate` multiplies x by the first and x with its halves exchanged by the second. Both contain
    the attention factor. They repeat each cosine in both halves because XLA on CPUs computes
    float32[B,T,rotary/2] anew for each head of each layer, and this width only once.
    """
    frequencies = inverse_frequencies(config, long_context, local)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    factor = np.float32(config.rope.attention_factor)
    cos, sin = jnp.cos(angles) * factor, jnp.sin(angles) * factor
    return jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, factor: float = 1.0) -> jax.Array:
    """Returns factor * x[B,T,N,H] with the first `rotary` numbers of each head rotated.

    cos, sin: the two results of `cos_sin`. The products are made in float32 or wider.
    """
    rotary = cos.shape[-1]
    half = rotary // 2
    cos, sin = cos[:, :, None], sin[:, :, None]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if factor != 1.0:
        wide = wide * factor
    first, second, rest = wide[..., :half], wide[..., half:rotary], wide[..., rotary:]
    turned = [
        first * cos[..., :half] + second * sin[..., :half],
        second * cos[..., half:] + first * sin[..., half:],
    ]
    return jnp.concatenate([*turned, rest] if rest.shape[-1] else turned, -1).astype(x.dtype)
