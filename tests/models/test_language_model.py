"""LM: its logits and scores, the shapes they are compiled for, and what they refuse."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import models
from powerjax.models import scoring
from tests.golden import cases


def _pairs(seed, sizes):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 97, n).tolist() for n, _ in sizes]
    return prompts, [rng.integers(0, 97, n).tolist() for _, n in sizes]


def _expected_score(lm, prompt, completion):
    logits = lm.logits([prompt + completion])[0]
    log_probs = jax.nn.log_softmax(logits)[len(prompt) - 1 : -1]
    return log_probs[np.arange(len(completion)), np.array(completion)]


def test_logits_ignore_padding(tiny_qwen):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 97, (3, 20))
    lengths = np.array([20, 7, 13])
    padded = np.where(np.arange(20) < lengths[:, None], tokens, -1)  # pad ids may be anything
    result = tiny_qwen.logits(padded, lengths)
    assert result.shape == (3, 20, 97) and result.dtype == jnp.float32
    other = np.where(padded < 0, 5, padded)
    np.testing.assert_array_equal(result, tiny_qwen.logits(other, lengths))
    for row, n in zip(result, lengths, strict=True):
        assert not np.asarray(row[n:]).any()


def test_a_row_in_a_batch_has_the_logits_it_has_alone(tiny_qwen):
    """The test is in float64, where rounding in another shape is far below the bound."""
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, 97, (3, 20)), np.array([20, 7, 13])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), tiny_qwen.params)
        lm = dataclasses.replace(tiny_qwen, params=wide, dtype=jnp.float64)
        result = lm.logits(tokens, lengths)
        assert result.dtype == jnp.float64
        for row, real, n in zip(result, tokens, lengths, strict=True):
            np.testing.assert_allclose(row[:n], lm.logits(real[None, :n])[0], rtol=0, atol=1e-12)


def test_score_is_log_softmax(tiny_qwen):
    sizes = [(3, 5), (9, 1), (20, 0), (2, 30), (40, 17), (1, 1)]
    prompts, completions = _pairs(1, sizes)
    result = tiny_qwen.score(prompts, completions)
    for prompt, completion, scores in zip(prompts, completions, result, strict=True):
        assert scores.dtype == np.float32 and len(scores) == len(completion)
        if completion:
            expected = _expected_score(tiny_qwen, prompt, completion)
            np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_score_in_chunks_of_the_vocabulary(tiny_qwen, monkeypatch):
    prompts, completions = _pairs(2, [(5, 40), (8, 33)])
    whole = tiny_qwen.score(prompts, completions)
    monkeypatch.setattr(scoring, "_SCORE_LOGITS", 97 * 9)  # 8 rows of logits at a time
    fresh = jax.jit(scoring._token_log_probs.__wrapped__, static_argnums=0)
    monkeypatch.setattr(scoring, "_token_log_probs", fresh)
    for result, expected in zip(tiny_qwen.score(prompts, completions), whole, strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_score_of_many_rows_keeps_their_order(tiny_qwen, monkeypatch):
    prompts, completions = _pairs(3, [(1 + i % 7, 1 + (i * 5) % 11) for i in range(40)])
    whole = tiny_qwen.score(prompts, completions)
    monkeypatch.setattr(scoring, "_SCORE_ROWS", 4)
    for result, expected in zip(tiny_qwen.score(prompts, completions), whole, strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_one_trace_per_shape_bucket(tiny_qwen, monkeypatch):
    hidden = scoring._hidden.__wrapped__
    monkeypatch.setattr(
        scoring,
        "_hidden",
        jax.jit(chex.assert_max_traces(hidden, n=2), static_argnums=0),
    )
    for width in (3, 9, 16):  # the bucket of 16
        tiny_qwen.logits(np.ones((1, width), int))
    tiny_qwen.score([[1, 2]], [[3] * 8])
    for width in (17, 21, 24):  # the bucket of 24
        tiny_qwen.logits(np.ones((1, width), int))
        tiny_qwen.score([[1] * width], [[5]])
    with pytest.raises(AssertionError, match="traced"):
        tiny_qwen.logits(np.ones((1, 25), int))


def test_longrope_choice(tmp_path):
    """The longest row decides for logits, each sequence for score, unless the caller does."""
    lm = models.load(cases.write_checkpoint("phi3_longrope_long", tmp_path), dtype="float32")
    tokens = np.arange(1, 21)[None]  # 20 tokens, more than the original 16
    short = lm.logits(tokens[:, :10])[0]
    within_long = lm.logits(tokens)[0, :10]
    assert np.abs(short - within_long).max() > 1e-2
    prompt, completion = tokens[0, :4].tolist(), tokens[0, 4:10].tolist()
    by_length, by_hand = (
        lm.score([prompt], [completion], long_context=long)[0] for long in (None, True)
    )
    places, ids = np.arange(3, 9), np.array(completion)
    np.testing.assert_allclose(by_length, jax.nn.log_softmax(short)[places, ids], atol=1e-4)
    np.testing.assert_allclose(by_hand, jax.nn.log_softmax(within_long)[places, ids], atol=1e-4)


def test_half_precision_stays_near(tiny_qwen):
    tokens = np.arange(24).reshape(2, 12)
    full = np.asarray(tiny_qwen.logits(tokens))
    for dtype in ("bfloat16", "float16"):
        params = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), tiny_qwen.params)
        lm = dataclasses.replace(tiny_qwen, params=params, dtype=dtype)
        result = lm.logits(tokens)
        assert result.dtype == jnp.float32
        assert np.abs(result - full).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.logits(np.ones((1, 513), int)), "513 tokens.*context of 512"),
        (lambda lm: lm.score([[1] * 500], [[1] * 20]), "520 tokens.*context of 512"),
        (lambda lm: lm.logits([[1, 97]]), "vocabulary of 97"),
        (lambda lm: lm.logits([[1, -1]]), "vocabulary of 97"),
        (lambda lm: lm.score([[1, 2]], [[400]]), "vocabulary of 97"),
        (lambda lm: lm.logits([1, 2]), r"\[B,T\]"),
        (lambda lm: lm.score([[1], [2]], [[3]]), "2 prompts but 1 completions"),
        (lambda lm: lm.score([[]], [[3]]), "prompt 0 is empty"),
        (lambda lm: lm.score(["text"], [[3]]), "no tokenizer"),
        (lambda lm: lm.encode("text"), "no tokenizer"),
        (lambda lm: lm.decode([1]), "no tokenizer"),
    ],
)
def test_refusals(tiny_qwen, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(tiny_qwen)
    assert "\n" not in str(caught.value)


def test_repr(tiny_qwen):
    shown = repr(tiny_qwen)
    for part in ("tiny_qwen", "Qwen2ForCausalLM", "float32", "2 layers", "stop ids [0]"):
        assert part in shown
