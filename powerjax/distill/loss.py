"""The student's loss: maximum likelihood on samples of pi_alpha (Eq. 16), on completion tokens.

Letters: B rows, T tokens, D model, V vocabulary, C chunks.
"""

import jax
import jax.numpy as jnp

from powerjax.models import lora
from powerjax.models.decoder import CausalLM, gather

# The most tokens and the most logits (256 MiB) that one device computes in one chunk.
_TOKENS = 128
_LOGITS = 1 << 26


def sum_nll(
    model: CausalLM,
    variables: dict,
    tokens: jax.Array,
    completion: jax.Array,
    dropout: lora.Dropout | None = None,
    num_devices: int = 1,
) -> jax.Array:
    """Returns the sum of -log p of the completions' tokens, each given those before it (Eq. 16).

    Logits are computed for the tokens that count, a chunk at a time, together with the gradient of
    the hidden states.

    Args:
      model: the student's architecture.
      variables: its "params" and "lora" collections.
      tokens: int32 [B,T], right-padded.
      completion: bool [B,T], the tokens that count. A row's first token never does, for nothing
        comes before it.
      dropout: the adapter's `lora.Dropout`; None drops nothing.
      num_devices: over how many devices the rows are split.

    Returns:
      float32 [].
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    targets = jnp.roll(tokens, -1, axis=1)
    counts = jnp.roll(completion, -1, axis=1).at[:, -1].set(False)
    # A position that no counted token attends to is fed the row's first token. 0 * NaN is NaN in
    # the backward pass, so padding gets a token that makes no NaN unless the row itself makes one.
    is_seen = jax.lax.cummax(counts.astype(jnp.int32), axis=1, reverse=True) > 0
    fed = jnp.where(is_seen, tokens, tokens[:, :1])
    hidden, _ = model.apply(variables, fed, positions, None, dropout)

    # Gathered here, once, rather than once per chunk.
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
    """Returns the number of chunks: the least power of two that keeps to _TOKENS and _LOGITS.

    It is smaller if the next power of two does not divide the length.
    """
    chunks = 1
    most = num_devices * min(_TOKENS, max(1, _LOGITS // vocab_size))
    while batch * length > most * chunks and length % (2 * chunks) == 0:
        chunks *= 2
    return chunks


def _over_chunks(nll, chunks: int, hidden, targets, counts) -> jax.Array:
    """Returns nll(hidden[B,T,D], targets[B,T], counts[B,T]), summed over C chunks of each row.

    A chunk has T / C tokens of each row. Each row is sorted so that its tokens that count come
    first; chunks in which no token counts (prompts and padding) are skipped. The head is frozen, so
    the gradient of a chunk's logits is computed together with them, and they are never made again.
    """
    batch, length = targets.shape
    order = jnp.argsort(~counts, axis=1)  # [B,T]

    def arranged(x, order):
        return jnp.take_along_axis(x, order.reshape(batch, length, *[1] * (x.ndim - 2)), axis=1)

    def split(x):
        """Returns x[B,T,...], in that order, as [C,B,T/C,...]."""
        x = arranged(x, order).reshape(batch, chunks, length // chunks, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def joined(x):
        """Returns x[C,B,T/C,...] as [B,T,...] in the original order: the inverse of `split`."""
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
