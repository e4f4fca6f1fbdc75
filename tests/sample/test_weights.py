"""Token draws over large vocabularies: top_k sorts nothing and keeps every tie with the k-th."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax.sample import mh, weights
from tests import tiny
from tests.sample import compiled

pytestmark = pytest.mark.usefixtures("optimized")


def draw_token(logits, uniforms, top_k, alpha=4.0, inv_temperature=4.0):
    return weights.draw_token(logits, uniforms, alpha, inv_temperature, top_k)


@pytest.mark.parametrize(
    ("vocab_size", "top_k", "dtype"),
    [(151_936, 20, "float32"), (32_064, 50, "bfloat16"), (151_936, 1, "float32")],
)
def test_a_draw_among_the_top_k_sorts_nothing(vocab_size, top_k, dtype):
    logits = jax.ShapeDtypeStruct((16, vocab_size), dtype)
    uniforms = jax.ShapeDtypeStruct((16, 2), "float32")
    draw = jax.vmap(lambda row, u: draw_token(row, u, top_k))
    program = jax.jit(draw).lower(logits, uniforms).compile().as_text()
    assert "TopK" in program
    assert "sort(" not in program


def test_the_slot_loop_sorts_nothing_under_top_k():
    narrow = dict(hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1)
    lm = tiny.random_lm(tiny.config(vocab_size=151_936, **narrow))
    settings = mh.settings(
        2.0, block_size=8, num_mcmc_steps=2, max_new_tokens=16, stop_ids=(0,), top_k=20
    )
    program, _ = compiled.slot_loop(lm, settings, num_slots=4, window=32)
    assert "TopK" in program
    assert "sort(" not in program


@pytest.mark.parametrize("top_k", [1, 3, 99, 100, 101, None])
def test_the_kth_largest_is_that_of_a_sort_and_ties_with_it_are_drawn(top_k):
    """The logits take few values, so many tie. Token 17 cannot be drawn at all."""
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 9, 100).astype(np.float32)
    logits[17] = -np.inf
    kth = -np.inf if top_k is None else np.sort(logits)[::-1][min(top_k, 100) - 1]
    uniforms = jnp.asarray(rng.uniform(size=(4000, 2)), jnp.float32)
    draw = jax.vmap(lambda u: draw_token(jnp.asarray(logits), u, top_k, 1.0, 0.01).token)
    drawn = set(np.asarray(draw(uniforms)).tolist())
    assert drawn == {i for i in range(100) if logits[i] >= kth and i != 17}
