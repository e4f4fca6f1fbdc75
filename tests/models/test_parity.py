"""The decoder against transformers, in float32: golden files always, live with --parity."""

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

pytestmark = pytest.mark.parametrize("case", cases.CASES)


@functools.partial(jax.jit, static_argnums=0)
def _step(model, params, tokens, positions, cache):
    hidden, cache = model.apply({"params": params}, tokens, positions, cache)
    return model.apply({"params": params}, hidden, method="unembed"), cache


def _prefilled(lm, rows, length):
    """The model for runs of `length`, logits and a cache that has seen rows[B,T]."""
    model = lm.model(lm.config.long_context(length))
    positions = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    cache = init_cache(lm.config, len(rows), length, jnp.float32)
    return model, *_step(model, lm.params, rows, positions, cache)


def _decode_with_rewinds(lm, given):
    """[steps,B,V]: each row is fed one token a step, after its past or rewound into it."""
    padded = given.rows[:, : max(cases.LENGTHS)]
    model, _, cache = _prefilled(lm, padded, given.rows.shape[1])
    found = []
    for tokens, positions in zip(given.step_tokens, given.step_positions, strict=True):
        logits, cache = _step(model, lm.params, tokens[:, None], positions[:, None], cache)
        found.append(np.asarray(logits[:, 0]))
    return np.stack(found)


def _greedy(lm, given):
    """[prompts,64]: the whole unequal batch at once, each row at its own positions."""
    lengths = given.start_lengths
    padded = given.rows[:, : max(lengths)]
    model, logits, cache = _prefilled(lm, padded, max(lengths) + cases.NUM_GREEDY)
    tokens = np.argmax(np.asarray(logits)[np.arange(len(lengths)), lengths - 1], -1)
    found = [tokens]
    for i in range(cases.NUM_GREEDY - 1):
        logits, cache = _step(model, lm.params, tokens[:, None], (lengths + i)[:, None], cache)
        tokens = np.argmax(np.asarray(logits[:, 0]), -1)
        found.append(tokens)
    return np.stack(found, 1)


def _check(folder, given, expected, record_property):
    lm = models.load(folder, dtype="float32")
    single = np.concatenate([lm.logits(prompt[None])[0] for prompt in given.prompts])
    lengths = given.start_lengths
    batch = np.asarray(lm.logits(given.rows[:, : max(lengths)], lengths))
    batch = np.concatenate([row[:n] for row, n in zip(batch, lengths, strict=True)])
    found = {"single": single, "batch": batch, "steps": _decode_with_rewinds(lm, given)}
    worst = {name: float(np.abs(found[name] - expected[name]).max()) for name in found}
    record_property("max|dlogit|", ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    assert max(worst.values()) <= TOLERANCE
    np.testing.assert_array_equal(_greedy(lm, given), expected["greedy"])


def test_golden(case, tmp_path, record_property):
    cases.write_checkpoint(case, tmp_path, GOLDEN_SEED)
    with np.load(cases.GOLDEN / f"{case}.npz") as expected:
        _check(tmp_path, cases.inputs(GOLDEN_SEED), expected, record_property)


def test_live(case, tmp_path, record_property, parity):
    cases.write_checkpoint(case, tmp_path, LIVE_SEED)
    given = cases.inputs(LIVE_SEED)
    _check(tmp_path, given, reference(tmp_path, given), record_property)
