"""The log-weight of a token, and the draw from the proposal. (The model's weights are `LM.params`.)

The proposal is q(v) ∝ p(v)^(1/tau) on the top_k tokens of p, or on all where top_k is None. The
log-weight of a drawn token is w = alpha log p(v) - log q(v). It is the token's share of the log
importance weight of pi^alpha against the proposal: the ratio of Eq. 20 is a sum of log-weights.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Up to this vocabulary size one float32 uniform resolves every token; above it two are drawn.
_ONE_LEVEL_VOCAB = 64


class TokenDraw(NamedTuple):
    """One drawn token. token: int32 []; log_p, weight: [] in the dtype of the logits."""

    token: Array
    log_p: Array  # log p(token), the base law
    weight: Array  # alpha log p(token) - log q(token); [2] where there are two proposals


def is_monotone(alpha: Array, inv_temperature: Array) -> Array:
    """Whether every log-weight is <= 0, so that partial sums of them can only fall (bool [])."""
    return (inv_temperature >= 1) & (inv_temperature <= alpha)


def draw_token(
    logits: Array, uniforms: Array, alpha: Array, inv_temperature: Array, top_k: int | None = None
) -> TokenDraw:
    """Draws one token from the proposal and weighs it, in one pass over the logits.

    With m = max l, Z = sum exp(l - m) and Z_tau = sum_{top k} exp((l - m) / tau):
    log p(v) = l_v - m - log Z, and w(v) = (alpha - 1/tau) log p(v) + log Z_tau - (log Z) / tau.
    At tau = 1/alpha the first term vanishes and no cancellation is left.

    Args:
      logits: float [V], unnormalised; -inf marks a token that cannot be drawn. Below float32 they
        are widened to it.
      uniforms: float [2] in [0, 1): one draws a block of tokens, one a token of the block.
      alpha: [] exponent of the target.
      inv_temperature: [] 1/tau of the proposal.
      top_k: how many tokens the proposal may draw; ties with the k-th may all be drawn.

    Returns:
      TokenDraw in the dtype of the logits. `weight` is clamped at 0 where the mathematics says
      w <= 0, which early rejection needs.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits = logits.astype(dtype)
    alpha, inv_temperature = jnp.asarray(alpha, dtype), jnp.asarray(inv_temperature, dtype)
    shifted = logits - jnp.max(logits)
    log_z = jnp.log(jnp.sum(jnp.exp(shifted)))
    mass = jnp.exp(shifted * inv_temperature)
    if top_k is not None and top_k < logits.shape[-1]:
        mass = jnp.where(shifted >= _kth_largest(shifted, top_k), mass, 0)
    token = inverse_cdf(mass, uniforms)
    log_p = shifted[token] - log_z
    log_norm = jnp.log(jnp.sum(mass)) - inv_temperature * log_z
    weight = (alpha - inv_temperature) * log_p + log_norm
    monotone = is_monotone(alpha, inv_temperature)
    return TokenDraw(token, log_p, jnp.where(monotone, jnp.minimum(weight, 0), weight))


def draw_token_of_two(
    logits: Array,
    proposal_logits: Array,
    uniforms: Array,
    alpha: Array,
    inv_temperatures: tuple[Array, Array],
    by_base: Array,
    top_k: int | None = None,
) -> TokenDraw:
    """Draws one token from one of two proposals, and weighs it against both.

    The first proposal is that of `draw_token`: the base at its temperature. The second is another
    model at a temperature of its own, q(v) ∝ q_1(v)^(1/tau_q) on the top_k tokens of the base's p.

    Args:
      logits: float [V], of the base.
      proposal_logits: float [V], of the other model.
      uniforms: float [2] in [0, 1).
      alpha: [] exponent of the target.
      inv_temperatures: ([], []), 1/tau of the base's proposal and of the other model's.
      by_base: bool [], whether the first proposal draws the token.
      top_k: how many tokens either may draw: those that are likeliest under p.

    Returns:
      TokenDraw with weights [2], alpha log p - log q of the first proposal and of the second.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits, proposal_logits = logits.astype(dtype), proposal_logits.astype(dtype)
    alpha = jnp.asarray(alpha, dtype)
    base_inv, other_inv = (jnp.asarray(x, dtype) for x in inv_temperatures)
    shifted = logits - jnp.max(logits)
    log_z = jnp.log(jnp.sum(jnp.exp(shifted)))
    allowed = jnp.ones(shifted.shape, bool)
    if top_k is not None and top_k < logits.shape[-1]:
        allowed = shifted >= _kth_largest(shifted, top_k)
    # The largest of the allowed logits is taken off, so that their masses do not all vanish.
    other = proposal_logits - jnp.max(proposal_logits, where=allowed, initial=-jnp.inf)
    base_mass = jnp.where(allowed, jnp.exp(shifted * base_inv), 0)
    other_mass = jnp.where(allowed, jnp.exp(other * other_inv), 0)
    token = inverse_cdf(jnp.where(by_base, base_mass, other_mass), uniforms)
    log_p = shifted[token] - log_z
    base_weight = (alpha - base_inv) * log_p + jnp.log(jnp.sum(base_mass)) - base_inv * log_z
    base_weight = jnp.where(is_monotone(alpha, base_inv), jnp.minimum(base_weight, 0), base_weight)
    other_weight = alpha * log_p - (other_inv * other[token] - jnp.log(jnp.sum(other_mass)))
    return TokenDraw(token, log_p, jnp.stack([base_weight, other_weight]))


def _kth_largest(x: Array, k: int) -> Array:
    """The k-th largest number of x[V], equal numbers counted one by one. Returns [], x's dtype.

    Nothing uses the indices, so XLA would drop them without the barrier. It would then no longer
    recognise a top-k and would sort all of x, which takes 100 times as long on a CPU.
    """
    values, _ = jax.lax.optimization_barrier(jax.lax.top_k(x, k))
    return values[-1]


def inverse_cdf(mass: Array, uniforms: Array) -> Array:
    """Draws an index with probability mass / sum(mass), in two levels of about sqrt(V) each.

    One float32 uniform over a float32 cumulative sum of 150k entries misses tokens of mass 1e-3.
    One uniform for a block and another for a token of the block do not. An entry of zero mass is
    never drawn.

    Args:
      mass: float [V], non-negative, not all zero.
      uniforms: float [2] in [0, 1).

    Returns:
      int32 [].
    """
    size = mass.shape[-1]
    if size <= _ONE_LEVEL_VOCAB:
        return _first_above(mass, uniforms[1])
    width = math.isqrt(size - 1) + 1
    blocks = -(-size // width)
    table = jnp.pad(mass, (0, blocks * width - size)).reshape(blocks, width)
    block = _first_above(jnp.sum(table, axis=1), uniforms[0])
    # The minimum only matters where the mass is NaN: never a token outside the vocabulary.
    return jnp.minimum(block * width + _first_above(table[block], uniforms[1]), size - 1)


def _first_above(mass: Array, uniform: Array) -> Array:
    """The first index of positive mass whose cumulative mass exceeds uniform * total (int32 [])."""
    cdf = jnp.cumsum(mass)
    possible = mass > 0
    hit = possible & (cdf > uniform * cdf[-1])
    last = mass.shape[-1] - 1 - jnp.argmax(possible[::-1])  # where rounding puts u * total at total
    return jnp.where(jnp.any(hit), jnp.argmax(hit), last).astype(jnp.int32)
