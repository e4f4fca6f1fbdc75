"""The decoder against transformers in float32: by golden files always, live with --parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import models
from powerjax.models.cache import init_cache
from tests.golden import cases
from tests.golden.make import GOLDEN_SEED, reference

TOLERANCE = 1e-4
LIVE_SEED = 7
LENGTH = max(cases.LENGTHS) + cases.NUM_GREEDY

# Cases that differ little from one beside them. They are compared with the golden files by --full.
LONG = ("phi4_mini", "qwen2_window", "smollm2", "llama_linear", "qwen3_bias", "mistral")
GOLDEN = [pytest.param(c, marks=pytest.mark.full if c in LONG else ()) for c in cases.CASES]


@functools.partial(jax.jit, static_argnums=0)
def _step(model, params, tokens, positions, cache):
    hidden, cache = model.apply({"params": params}, tokens, positions, cache)
    return model.apply({"params": params}, hidden, method="unembed"), cache


def _prefilled(lm, rows, length):
    """Returns the model for runs of `length`, logits, and a cache that has seen rows[B,T]."""
    model = lm.model(lm.config.long_context(length))
    positions = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    cache = init_cache(lm.config, len(rows), length, jnp.float32)
    return model, *_step(model, lm.params, rows, positions, cache)


def _decode_with_rewinds(lm, inputs):
    """Returns [steps,B,V]; a step feeds each row one token, after its past or rewound into it."""
    padded = inputs.rows[:, : max(cases.LENGTHS)]
    model, _, cache = _prefilled(lm, padded, LENGTH)  # of the same programs as _greedy's
    result = []
    for tokens, positions in zip(inputs.step_tokens, inputs.step_positions, strict=True):
        logits, cache = _step(model, lm.params, tokens[:, None], positions[:, None], cache)
        result.append(np.asarray(logits[:, 0]))
    return np.stack(result)


def _greedy(lm, inputs):
    """Returns [prompts,64], decoded as one batch of rows at positions of their own."""
    lengths = inputs.start_lengths
    padded = inputs.rows[:, : max(lengths)]
    model, logits, cache = _prefilled(lm, padded, LENGTH)
    tokens = np.argmax(np.asarray(logits)[np.arange(len(lengths)), lengths - 1], -1)
    result = [tokens]
    for i in range(cases.NUM_GREEDY - 1):
        logits, cache = _step(model, lm.params, tokens[:, None], (lengths + i)[:, None], cache)
        tokens = np.argmax(np.asarray(logits[:, 0]), -1)
        result.append(tokens)
    return np.stack(result, 1)


def _check(folder, inputs, expected, record_property):
    lm = models.load(folder, dtype="float32")
    lengths = inputs.start_lengths
    padded = inputs.rows[:, : max(lengths)]
    single = [lm.logits(padded[i : i + 1], n[None])[0, :n] for i, n in enumerate(lengths)]
    single = np.concatenate(single)
    batch = np.asarray(lm.logits(padded, lengths))
    batch = np.concatenate([row[:n] for row, n in zip(batch, lengths, strict=True)])
    result = {"single": single, "batch": batch, "steps": _decode_with_rewinds(lm, inputs)}
    worst = {name: float(np.abs(result[name] - expected[name]).max()) for name in result}
    record_property("max|dlogit|", ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    assert max(worst.values()) <= TOLERANCE
    np.testing.assert_array_equal(_greedy(lm, inputs), expected["greedy"])


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case, tmp_path, record_property):
    cases.write_checkpoint(case, tmp_path, GOLDEN_SEED)
    with np.load(cases.GOLDEN / f"{case}.npz") as expected:
        _check(tmp_path, cases.inputs(GOLDEN_SEED), expected, record_property)


@pytest.mark.parametrize("case", cases.CASES)
def test_live(case, tmp_path, record_property, parity):
    cases.write_checkpoint(case, tmp_path, LIVE_SEED)
    inputs = cases.inputs(LIVE_SEED)
    _check(tmp_path, inputs, reference(tmp_path, inputs), record_property)
