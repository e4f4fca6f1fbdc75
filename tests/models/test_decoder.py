"""Rotations and norms of the decoder: what they compute, and how often."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import models
from powerjax.models import layers, rope


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotate_turns_pairs_of_the_two_halves_and_leaves_the_rest(fraction):
    config = models.load("tiny", dtype="float32").config
    config = dataclasses.replace(
        config, rope=dataclasses.replace(config.rope, rotary_fraction=fraction)
    )
    head_dim = config.head_dim
    half = int(head_dim * fraction) // 2
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4, head_dim)).astype(np.float32)
    positions = np.array([[0, 1, 2], [7, 100, 2000]])
    turned = rope.rotate(jnp.asarray(x), *rope.cos_sin(jnp.asarray(positions), config))
    angles = positions[..., None, None] * config.rope.theta ** (-np.arange(half) / half)
    pairs = (x[..., :half] + 1j * x[..., half : 2 * half]) * np.exp(1j * angles)
    expected = np.concatenate([pairs.real, pairs.imag, x[..., 2 * half :]], -1)
    np.testing.assert_allclose(turned, expected, atol=1e-3)  # of 2,000 radians in float32
    np.testing.assert_allclose(turned[:, :2], expected[:, :2], atol=2e-5)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("num_tokens", [1, 16])
def test_cosines_are_made_once_and_not_for_each_head_of_each_layer(num_tokens):
    lm = models.load("tiny", dtype="float32")
    tokens = jnp.zeros((4, num_tokens), jnp.int32)

    def hidden(params, tokens, positions):
        return lm.model().apply({"params": params}, tokens, positions)[0]

    program = jax.jit(hidden).lower(lm.params, tokens, tokens).compile().as_text()
    assert len(re.findall(r" cosine\(", program)) == 1
    assert lm.config.num_layers > 1


def test_by_row_has_the_gradient_of_its_product():
    rng = np.random.default_rng(0)
    x, factor = rng.standard_normal((2, 3, 8)), rng.standard_normal((2, 3, 1))
    with jax.enable_x64(True):
        result, expected = (
            jax.grad(lambda x, factor, f=f: jnp.sum(jnp.sin(f(x, factor))), argnums=(0, 1))(
                jnp.asarray(x), jnp.asarray(factor)
            )
            for f in (layers.by_row, jnp.multiply)
        )
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
