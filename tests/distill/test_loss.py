"""The student's loss by chunks of the tokens that count, against all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax.distill import loss

B, D, V = 3, 8, 31


def _inputs(length):
    """Returns hidden [B,T,D], head [D,V], targets [B,T], and masks [B,T] by name."""
    keys = jax.random.split(jax.random.key(length), 4)
    hidden = jax.random.normal(keys[0], (B, length, D))
    head = jax.random.normal(keys[1], (D, V))
    targets = jax.random.randint(keys[2], (B, length), 0, V)
    scattered = jax.random.bernoulli(keys[3], 0.4, (B, length))
    place = jnp.arange(length)
    after_prompts = (place >= jnp.array([[0], [5], [9]])) & (place < jnp.array([[11], [6], [12]]))
    masks = {
        "scattered": scattered,
        "after prompts": after_prompts,
        "one row": after_prompts & (jnp.arange(B) == 1)[:, None],
        "none": jnp.zeros_like(scattered),
        "all": jnp.ones_like(scattered),
    }
    return hidden, head, targets, masks


def _nll(head, seen=None):
    """Returns the loss of a chunk; every call appends to `seen`, unless that is None."""

    def nll(hidden, targets, counts):
        if seen is not None:
            jax.debug.callback(lambda: seen.append(1))
        log_probs = jax.nn.log_softmax(hidden @ head)
        chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(counts, chosen, 0))

    return nll


@pytest.mark.parametrize("length, chunks", [(12, 1), (12, 4), (15, 1), (16, 8)])
def test_chunks_give_the_value_and_gradient_of_all_at_once(length, chunks):
    hidden, head, targets, masks = _inputs(length)
    nll = _nll(head)

    @jax.jit
    def by_chunks(hidden, targets, counts):
        return jax.value_and_grad(
            lambda x: 3.0 * loss._over_chunks(nll, chunks, x, targets, counts)
        )(hidden)

    for name, counts in masks.items():
        value, grad = by_chunks(hidden, targets, counts)
        expected, pulled = jax.value_and_grad(lambda x, c=counts: 3.0 * nll(x, targets, c))(hidden)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(grad, pulled, rtol=1e-5, atol=1e-6, err_msg=name)


def test_chunks_without_a_token_that_counts_are_left_out():
    hidden, head, targets, masks = _inputs(16)
    num_made = {}
    for name, counts in masks.items():
        seen = []
        jax.jit(lambda *inputs, seen=seen: loss._over_chunks(_nll(head, seen), 8, *inputs))(
            hidden, targets, counts
        )
        jax.effects_barrier()
        num_made[name] = len(seen)
    assert num_made["none"] == 0
    assert num_made["all"] == 8
    assert num_made["one row"] == 1  # one token
    assert num_made["after prompts"] == 6  # the longest row has eleven


@pytest.mark.parametrize(
    "shape, vocab_size, num_devices, chunks",
    [
        ((1, 1024), 8192, 1, 8),
        ((1, 1024), 151_936, 1, 8),
        ((8, 1024), 151_936, 8, 8),
        ((1, 64), 8192, 1, 1),
        ((2, 96), 8192, 1, 2),
        ((1, 1027), 8192, 1, 1),
        ((1, 1024), 1 << 24, 1, 256),
    ],
)
def test_chunks_are_of_so_many_tokens_as_the_length_allows(shape, vocab_size, num_devices, chunks):
    assert loss._num_chunks(*shape, vocab_size, num_devices) == chunks
