"""Attention and the cache: visibility depends on the position alone, and rows are independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import models
from powerjax.models import cache as cache_lib
from powerjax.models import causal
from powerjax.models.attention import attention
from powerjax.models.cache import init_cache, write_layer

B, N, K, H, S = 3, 4, 2, 8, 12


def _arrays(num_tokens, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((B, num_tokens, N, H)).astype(dtype)
    k, v = (rng.standard_normal((B, K, S, H)).astype(dtype) for _ in range(2))
    return q, k, v


def _plain(q, k, v, positions, window=S):
    """Returns attention in float64, computed head by head and query by query."""
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        end = positions[b, t] + 1
        visible = slice(max(0, end - window), end)
        keys, values = k[b, n // (N // K), visible], v[b, n // (N // K), visible]
        scores = keys.astype(float) @ q[b, t, n] / H**0.5
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ values / weights.sum()
    return out


@pytest.mark.parametrize(("num_tokens", "window"), [(1, None), (5, None), (1, 4), (5, 4), (5, 1)])
def test_against_plain_softmax(num_tokens, window):
    q, k, v = _arrays(num_tokens)
    starts = np.array([[0], [3], [6]])
    positions = starts + np.arange(num_tokens)
    result = attention(q, k, v, positions, window=window)
    expected = _plain(q, k, v, positions, window or S)
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_a_window_of_all_slots_changes_nothing_and_cudnn_leaves_a_shorter_one_to_xla(whole):
    q, k, v = _arrays(S)
    positions = np.tile(np.arange(S), (B, 1))
    plain = attention(q, k, v, positions, whole=whole)
    result = attention(q, k, v, positions, whole=whole, window=S)
    np.testing.assert_array_equal(result, plain)
    result = attention(q, k, v, positions, whole=whole, window=4, implementation="cudnn")
    np.testing.assert_allclose(result, _plain(q, k, v, positions, 4), atol=2e-6)


def test_what_is_not_finite_spoils_only_the_queries_whose_window_holds_it():
    q, k, v = _arrays(S)
    positions = np.tile(np.arange(S), (B, 1))
    clean = np.asarray(attention(q, k, v, positions, whole=True, window=4))
    v[1, 0, 3, 2] = np.nan
    result = np.asarray(attention(q, k, v, positions, whole=True, window=4))
    seen = np.isnan(result).any(axis=-1)
    expected = np.zeros(seen.shape, bool)
    expected[1, 3:7, : N // K] = True
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(result[~expected], clean[~expected])


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_tokens", [S, 256])
def test_keys_and_values_that_are_not_finite_spoil_the_queries_that_see_them(broken, num_tokens):
    """They spoil no others in any row. 256 tokens make two blocks of queries."""
    rng = np.random.default_rng(0)
    q = rng.standard_normal((B, num_tokens, N, H)).astype(np.float32)
    k, v = rng.standard_normal((2, B, K, num_tokens, H)).astype(np.float32)
    positions = np.broadcast_to(np.arange(num_tokens), (B, num_tokens))
    clean = np.asarray(attention(q, k, v, positions, whole=True))
    v[1, 0, 7, 3], v[1, 0, 9, 0], k[1, 0, 10, 2] = broken, np.nan, broken
    v[2, 1, num_tokens - 1, 0] = broken
    result = np.asarray(attention(q, k, v, positions, whole=True))
    np.testing.assert_array_equal(result[0], clean[0])
    np.testing.assert_array_equal(result[1, :7], clean[1, :7])
    np.testing.assert_array_equal(result[1, :, N // K :], clean[1, :, N // K :])  # other kv head
    np.testing.assert_array_equal(result[2, :-1], clean[2, :-1])
    assert not np.isfinite(result[1, 7:, : N // K]).any()
    assert not np.isfinite(result[2, -1, N // K :]).any()


def _softmax(q, k, v, window=None):
    """Returns attention of whole sequences with all T x T scores at once, in float32.

    Letters as in causal.py.
    """
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    scores = jnp.einsum("bkgth,bksh->bkgts", q, k, precision="highest") / q.shape[-1] ** 0.5
    visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if window is not None:
        visible &= ~jnp.tril(visible, -window)
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
    return jnp.einsum("bkgts,bksh->bkgth", weights, v, precision="highest")


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize(
    ("num_tokens", "num_blocks", "window"), [(5, 1, None), (14, 2, None), (16, 4, None), (16, 4, 6)]
)
def test_whole_sequences_in_blocks_are_plain_softmax_and_so_are_their_gradients(
    num_tokens, num_blocks, window, dtype, bound, monkeypatch
):
    """2 kv heads have 3 query heads each. Errors are relative to the whole tensor's norm."""
    monkeypatch.setattr(causal, "_BLOCK", 4)  # small, because compiling is what takes time
    assert len(causal._blocks(num_tokens)) == num_blocks
    rng = np.random.default_rng(num_tokens)
    sizes = [(2, 2, 3, num_tokens, H), (2, 2, num_tokens, H), (2, 2, num_tokens, H)]
    qkv = [jnp.asarray(rng.standard_normal(size), dtype) for size in sizes]
    towards = rng.standard_normal(sizes[0]).astype(np.float32)

    def value_and_gradients(function):
        def along(q, k, v):
            out = function(q, k, v, window)
            return jnp.sum(out.astype(jnp.float32) * towards), out

        gradients, out = jax.grad(along, argnums=(0, 1, 2), has_aux=True)(*qkv)
        return out, *gradients

    result = jax.jit(value_and_gradients, static_argnums=0)(causal.causal_attention)
    expected = value_and_gradients(_softmax)
    for name, x, exact in zip(("out", "d_q", "d_k", "d_v"), result, expected, strict=True):
        assert x.dtype == dtype
        x, exact = np.asarray(x, np.float64), np.asarray(exact, np.float64)
        assert np.linalg.norm(x - exact) <= bound * np.linalg.norm(exact), name


def test_blocks_are_a_partition_of_any_length():
    for num_tokens in (1, 127, 128, 129, 130, 258, 384, 1000, 1023, 1024, 4096, 4100):
        blocks = causal._blocks(num_tokens)
        assert [i for block in blocks for i in range(num_tokens)[block]] == list(range(num_tokens))


def test_blocks_are_halved_while_long_and_even():
    for num_tokens, size in (
        (1024, 128),
        (4096, 512),
        (1000, 125),
        (192, 96),
        (130, 65),
        (129, 129),
    ):
        blocks = causal._blocks(num_tokens)
        assert {block.stop - block.start for block in blocks} == {size}


def test_whole_goes_by_query_heads_in_the_order_of_the_others():
    """`attention` orders the query heads for whole sequences as it does for a cache."""
    q, k, v = _arrays(S)
    positions = np.tile(np.arange(S), (B, 1))
    result = attention(q, k, v, positions, whole=True)
    np.testing.assert_allclose(result, _plain(q, k, v, positions), atol=2e-6)


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
    result, expected = (
        np.asarray(attention(q, k, v, positions, implementation=name), np.float32)
        for name in ("cudnn", "xla")
    )
    np.testing.assert_allclose(result, expected, atol=2e-2)


def test_write_layer_goes_by_row_and_drops_the_rest():
    rng = np.random.default_rng(0)
    k_cache, v_cache = (rng.standard_normal((B, K, S, H)).astype(np.float32) for _ in range(2))
    k, v = (rng.standard_normal((B, 2, K, H)).astype(np.float32) for _ in range(2))
    positions = np.array([[0, 1], [7, 3], [S - 1, S]])  # the last is outside
    result = write_layer(jnp.asarray(k_cache), jnp.asarray(v_cache), k, v, positions)
    for cache, new, out in zip((k_cache, v_cache), (k, v), result, strict=True):
        expected = cache.copy()
        for b, t in np.ndindex(positions.shape):
            if positions[b, t] < S:
                expected[b, :, positions[b, t]] = new[b, t]
        np.testing.assert_array_equal(out, expected)


def test_fresh_cache_of_a_whole_sequence(tiny_qwen):
    """Without a cache the K/V returned are those that a pass with a cache writes."""
    tokens = np.arange(10).reshape(2, 5)
    positions = np.tile(np.arange(5), (2, 1))
    apply, params = jax.jit(tiny_qwen.model().apply), {"params": tiny_qwen.params}
    hidden, fresh = apply(params, tokens, positions)
    empty = init_cache(tiny_qwen.config, 2, 5)
    cached_hidden, cached = apply(params, tokens, positions, empty)
    np.testing.assert_allclose(hidden, cached_hidden, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), fresh, cached)


def test_a_cache_of_whole_tpu_lanes_changes_nothing(tiny_qwen, monkeypatch):
    """Heads of 8 numbers are stored as 128; prompts are written and tokens decoded after them."""
    tokens = np.random.default_rng(0).integers(1, 97, (3, 12))
    positions = np.tile(np.arange(12), (3, 1))
    params = {"params": tiny_qwen.params}
    apply = jax.jit(tiny_qwen.model().apply)
    expected, _ = apply(params, tokens, positions)
    monkeypatch.setattr(cache_lib, "head_width", lambda head_dim, platform: 128)
    cache = init_cache(tiny_qwen.config, 4, 16)
    assert cache.k[0].shape == (4, 2, 16, 128)
    rows = np.array([2, 0, 3])
    _, fresh = apply(params, tokens[:, :7], positions[:, :7])
    cache = cache_lib.write_prompts(cache, rows, fresh)
    cache = jax.tree.map(lambda x: x[rows], cache)
    for t in range(7, 12):
        at = slice(t, t + 1)
        hidden, cache = apply(params, tokens[:, at], positions[:, at], cache)
        np.testing.assert_allclose(hidden, expected[:, at], atol=1e-5)
    assert all(not x[..., 8:].any() for x in jax.tree.leaves(cache))


@pytest.mark.parametrize(
    ("platform", "head_dim", "width"),
    [("cpu", 96, 96), ("gpu", 64, 64), ("tpu", 64, 128), ("tpu", 96, 128), ("tpu", 128, 128)],
)
def test_a_tpus_cache_has_whole_lanes_and_is_counted_so(platform, head_dim, width):
    config = models.ModelConfig(97, 32, 64, 2, 4, 2, head_dim)
    assert cache_lib.head_width(head_dim, platform) == width
    result = cache_lib.bytes_per_token(config, "bfloat16", platform)
    assert result == 2 * 2 * 2 * width * 2  # keys and values, layers, heads, two bytes


def test_init_cache_shape():
    config = models.ModelConfig(97, 32, 64, 2, 4, 2, 8)
    cache = init_cache(config, 3, 7, jnp.bfloat16)
    assert len(cache.k) == len(cache.v) == 2
    assert cache.k[0].shape == (3, 2, 7, 8) and cache.v[1].dtype == jnp.bfloat16
