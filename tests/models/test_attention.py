"""Attention and the cache: visibility by position alone, rows independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import models
from powerjax.models.attention import attention
from powerjax.models.cache import init_cache, write_layer

B, N, K, H, S = 3, 4, 2, 8, 12


def _arrays(num_tokens, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((B, num_tokens, N, H)).astype(dtype)
    k, v = (rng.standard_normal((B, K, S, H)).astype(dtype) for _ in range(2))
    return q, k, v


def _plain(q, k, v, positions):
    """Head by head and query by query, in float64."""
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        visible = positions[b, t] + 1
        keys, values = k[b, n // (N // K), :visible], v[b, n // (N // K), :visible]
        scores = keys.astype(float) @ q[b, t, n] / H**0.5
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ values / weights.sum()
    return out


@pytest.mark.parametrize("num_tokens", [1, 5])
def test_against_plain_softmax(num_tokens):
    q, k, v = _arrays(num_tokens)
    starts = np.array([[0], [3], [6]])
    positions = starts + np.arange(num_tokens)
    found = attention(q, k, v, positions)
    np.testing.assert_allclose(found, _plain(q, k, v, positions), atol=2e-6)


def test_slots_past_the_position_do_not_matter():
    q, k, v = _arrays(1)
    positions = np.array([[0], [4], [11]])
    hidden = np.arange(S)[None, None, :, None] > positions[:, :, None, None]
    other = attention(q, np.where(hidden, 1e4, k), np.where(hidden, -1e4, v), positions)
    np.testing.assert_array_equal(attention(q, k, v, positions), other)


def test_unknown_implementation():
    q, k, v = _arrays(1)
    with pytest.raises(ValueError, match="flash"):
        attention(q, k, v, np.zeros((B, 1), int), implementation="flash")


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cudnn attention needs an NVIDIA GPU")
@pytest.mark.parametrize("num_tokens", [1, 16])
def test_cudnn_agrees_with_xla(num_tokens):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((B, num_tokens, 8, 64)), jnp.bfloat16)
    k, v = (jnp.asarray(rng.standard_normal((B, 2, 16, 64)), jnp.bfloat16) for _ in range(2))
    last = np.array([[0], [7], [15]])
    positions = last if num_tokens == 1 else np.tile(np.arange(16), (B, 1))
    found, expected = (
        np.asarray(attention(q, k, v, positions, implementation=name), np.float32)
        for name in ("cudnn", "xla")
    )
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_write_layer_goes_by_row_and_drops_the_rest():
    rng = np.random.default_rng(0)
    k_cache, v_cache = (rng.standard_normal((B, K, S, H)).astype(np.float32) for _ in range(2))
    k, v = (rng.standard_normal((B, 2, K, H)).astype(np.float32) for _ in range(2))
    positions = np.array([[0, 1], [7, 3], [S - 1, S]])  # the last is outside
    found = write_layer(jnp.asarray(k_cache), jnp.asarray(v_cache), k, v, positions)
    for cache, new, out in zip((k_cache, v_cache), (k, v), found, strict=True):
        expected = cache.copy()
        for b, t in np.ndindex(positions.shape):
            if positions[b, t] < S:
                expected[b, :, positions[b, t]] = new[b, t]
        np.testing.assert_array_equal(out, expected)


def test_fresh_cache_of_a_whole_sequence(tiny_qwen):
    """Without a cache the K/V handed back are those that a cached pass writes."""
    tokens = np.arange(10).reshape(2, 5)
    positions = np.tile(np.arange(5), (2, 1))
    model, params = tiny_qwen.model(), {"params": tiny_qwen.params}
    hidden, fresh = model.apply(params, tokens, positions)
    given = init_cache(tiny_qwen.config, 2, 5)
    cached_hidden, cached = model.apply(params, tokens, positions, given)
    np.testing.assert_allclose(hidden, cached_hidden, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), fresh, cached)


def test_init_cache_shape():
    config = models.ModelConfig(97, 32, 64, 2, 4, 2, 8)
    cache = init_cache(config, 3, 7, jnp.bfloat16)
    assert len(cache.k) == len(cache.v) == 2
    assert cache.k[0].shape == (3, 2, 7, 8) and cache.v[1].dtype == jnp.bfloat16
