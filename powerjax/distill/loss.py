"""The student's loss: maximum likelihood on samples of pi_alpha (Eq. 16), on completion tokens.

Letters: B rows, T tokens, D model, V vocabulary, C chunks.
"""

import jax
import jax.numpy as jnp

from powerjax.models import lora
from powerjax.models.decoder import CausalLM, gather

_TOKENS = 128  # of a chunk, on a device
_LOGITS = 1 << 26  # of a chunk, on a device: 256 MiB


def sum_nll(
    model: CausalLM,
    variables: dict,
    tokens: jax.Array,
    completion: jax.Array,
    dropout: lora.Dropout | None = None,
    num_devices: int = 1,
) -> jax.Array:
    """float32 []: the sum of -log p(tokens[B,T]) where completion[B,T], each given those before it.

    A row's first token has nothing before it and never counts. Logits are made for the tokens
    that count, a chunk at a time, together with the gradient of `hidden`.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    targets = jnp.roll(tokens, -1, axis=1)
    counts = jnp.roll(completion, -1, axis=1).at[:, -1].set(False)
    # What no counted token sees is fed as the row's first token: a zero gradient through a NaN is
    # NaN, so padding must not be able to make one that the row does not make itself.
    is_seen = jax.lax.cummax(counts.astype(jnp.int32), axis=1, reverse=True) > 0
    fed = jnp.where(is_seen, tokens, tokens[:, :1])
    hidden, _ = model.apply(variables, fed, positions, None, dropout)

    # Gathered once, and not once a chunk.
    name = "embed_tokens" if model.config.tie_word_embeddings else "lm_head"
    head = gather({name: variables["params"][name]}, model.config, model.mesh)

    def nll(hidden, targets, counts):
        logits = model.apply({"params": head}, hidden, method="unembed")
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - chosen, 0))

    chunks = _num_chunks(*tokens.shape, model.config.vocab_size, num_devices)
    with jax.named_scope("loss"):
        return _over_chunks(nll, chunks, hidden, targets, counts)


def _num_chunks(batch: int, length: int, vocab_size: int, num_devices: int) -> int:
    """A power of two: for _TOKENS and _LOGITS a chunk, or less split where the length is odd."""
    chunks = 1
    most = num_devices * min(_TOKENS, max(1, _LOGITS // vocab_size))
    while batch * length > most * chunks and length % (2 * chunks) == 0:
        chunks *= 2
    return chunks


def _over_chunks(nll, chunks: int, hidden, targets, counts) -> jax.Array:
    """nll(hidden[B,T,D], targets[B,T], counts[B,T]), of T / C tokens of each row at a time.

    Tokens that count come first, and chunks of others (prompts and padding) are left out. The head
    is frozen, so a chunk's logits give their gradient at once and are not made again.
    """
    batch, length = targets.shape
    order = jnp.argsort(~counts, axis=1)  # [B,T]

    def arranged(x, order):
        return jnp.take_along_axis(x, order.reshape(batch, length, *[1] * (x.ndim - 2)), axis=1)

    def split(x):
        """x[B,T,...] in that order -> [C,B,T/C,...]."""
        x = arranged(x, order).reshape(batch, chunks, length // chunks, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def joined(x):
        """Back from `split`."""
        x = jnp.moveaxis(x, 0, 1).reshape(batch, length, *x.shape[3:])
        return arranged(x, jnp.argsort(order, axis=1))

    def value_and_grad(hidden):
        def add(total, part):
            any_counts, *part = part
            value, d_hidden = jax.lax.cond(
                any_counts,
                lambda x, *rest: jax.value_and_grad(nll)(x, *rest),
                lambda x, *_: (jnp.float32(0), jnp.zeros_like(x)),
                *part,
            )
            return total + value, d_hidden

        parts = split(hidden), split(targets), split(counts)
        any_counts = jnp.any(parts[-1], axis=(1, 2))
        total, d_hidden = jax.lax.scan(add, jnp.float32(0), (any_counts, *parts))
        return total, joined(d_hidden)

    @jax.custom_vjp
    def total(hidden):
        return value_and_grad(hidden)[0]

    total.defvjp(value_and_grad, lambda grad, scale: (grad * scale.astype(grad.dtype),))
    return total(hidden)
