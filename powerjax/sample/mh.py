"""The Metropolis-Hastings kernel of ONE chain: no model, no key, no batch. Exactness lives here.

A chain holds a completion y and walks through stages. Stage k ends at the length
E = min((k + 1) block_size, max_new_tokens). The chain first extends y until EOS or E. Then it makes
num_mcmc_steps moves. A move draws a cut m uniformly on 0..|y|-1, proposes a new suffix from m until
EOS or E, which gives y', and accepts y' with probability min(1, A), where

    log A = sum_{t>=m} w_t(y') - sum_{t>=m} w_t(y) + log|y| - log|y'|

and w_t = alpha log p_t - log q_t (`weights`). The two sums are the logarithm of Eq. 20's ratio. The
last two terms are there because a cut is drawn over the current length, and lengths differ.

A second model may draw the moves, the proposal model. q_t is then its law, at a temperature of its
own, and w_t may have either sign. A RESTART proposes a whole completion (m is always 0): its ratio
has no length terms, because no cut is drawn. A SUFFIX is the move above. In a mixture each move
draws its kind, RESTART, SUFFIX or BASE, with fixed probabilities, and is weighed by the sums of its
own kind's law, for the old completion and the new one.

The kernel leaves pi^alpha on "ends in EOS or has length E" invariant, for every alpha >= 1 and
every proposal that can draw whatever p can. With top_k it leaves invariant pi^alpha restricted to
strings whose every token is among its prefix's top k.

`advance` moves a chain by one token. It needs the logits that follow the chain's working tokens
(`working_tokens`); call it by hand, or vmapped over slots as `slots` does. The line that accepts or
rejects is in `_decide`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from powerjax.sample import weights
from powerjax.sample.chain import (
    BASE,
    RESTART,
    SUFFIX,
    Chain,
    Draws,
    Info,
    Kernel,
    Sequence,
    Settings,
    init,
    settings,
)

__all__ = [
    "BASE",
    "MAX_NEW_TOKENS",
    "RESTART",
    "SUFFIX",
    "Chain",
    "Draws",
    "Info",
    "Kernel",
    "Sequence",
    "Settings",
    "advance",
    "init",
    "next_move",
    "settings",
    "working_tokens",
]

MAX_NEW_TOKENS = 2**16 - 1  # `_scale` draws a cut among at most so many places


def next_move(chain: Chain, settings: Settings) -> tuple[Array, Array]:
    """Returns the (stage, step) of the MH move that would follow the current move."""
    more = chain.step < settings.num_mcmc_steps
    return jnp.where(more, chain.stage, chain.stage + 1), jnp.where(more, chain.step + 1, 1)


def working_tokens(chain: Chain) -> np.ndarray:
    """Returns int32 [position], the completion's tokens that the next logits must follow.

    It works on the host, not under jit: its length is not known there.
    """
    cut, position = int(chain.cut), int(chain.position)
    return np.concatenate(
        [np.asarray(chain.state.tokens)[:cut], np.asarray(chain.proposal.tokens)[cut:position]]
    )


class _Verdict(NamedTuple):
    """What becomes of a move after a token. bool [] unless marked."""

    at_end: Array  # the move has run to its end
    log_accept: Array  # float [], log A at the end; before it, what `Info.log_accept` says
    finished: Array  # the move is over, accepted or rejected
    accepted: Array


def advance(
    chain: Chain,
    logits: Array,
    draws: Draws,
    settings: Settings,
    proposal_logits: Array | None = None,
) -> tuple[Chain, Info]:
    """Draws one token of the current move, books it, and decides what comes next.

    Args:
      chain: state of one chain (vmap for more).
      logits: float [V], the model's at `chain.position`; float64 gives a float64 chain.
      draws: uniforms, each used for one thing only.
      settings: of the run.
      proposal_logits: float [V], the proposal model's; needed where settings.mixture is not None.

    Returns:
      (chain, info). The completion of a chain that is done does not change, and the chain stays
      done. Logits that hold NaN or +inf, or only -inf, end the chain: `info.failed` is True and the
      completion stays as it was. So does a token that the base draws and the proposal model cannot.
    """
    # --- draw the token and book it ---
    drawn = _draw_token(chain, logits, draws, settings, proposal_logits)
    # Whatever is wrong with the logits makes their normaliser, and with it every log_p, NaN.
    failed = ~chain.done & ~(jnp.isfinite(drawn.log_p) & jnp.all(jnp.isfinite(drawn.weight)))
    gain = drawn.log_p if settings.kernel == "power_inf" else drawn.weight
    sums = _add(chain.sum_hi, chain.sum_lo, gain)
    proposal = _book(chain.proposal, chain.position, drawn.token, drawn.log_p, *sums)
    is_stop = jnp.any(drawn.token == settings.stop_ids)
    # --- accept or reject ---
    verdict = _decide(chain, sums, is_stop, failed, settings)
    accepted = verdict.accepted
    length = chain.position + 1
    state = _merge(chain.state, proposal, accepted, chain.cut, length)
    after = chain._replace(
        state=state,
        length=jnp.where(accepted, length, chain.length),
        ended=jnp.where(accepted, is_stop, chain.ended),
        proposal=proposal,
        position=length,
        token=drawn.token,
        sum_hi=sums[0],
        sum_lo=sums[1],
        bound=verdict.log_accept,
    )
    # --- what comes next: the rest of the move, another move, another stage, or the end ---
    following = _next(chain, after, verdict, failed, draws, settings)
    info = Info(
        *(drawn.token, drawn.log_p, drawn.weight),
        *(chain.position, chain.cut, chain.stage, chain.kind),
        is_proposal=(chain.step > 0) & ~chain.done,
        finished=verdict.finished,
        accepted=accepted,
        rejected_early=verdict.finished & ~verdict.at_end,
        failed=failed,
        log_accept=verdict.log_accept,
    )
    return following, info


def _draw_token(
    chain: Chain,
    logits: Array,
    draws: Draws,
    settings: Settings,
    proposal_logits: Array | None,
) -> weights.TokenDraw:
    """The token at `chain.position`, by whoever draws the move under way."""
    if settings.mixture is None or proposal_logits is None:
        return weights.draw_token(
            logits, draws.token, settings.alpha, settings.inv_temperature, settings.top_k
        )
    return weights.draw_token_of_two(
        logits,
        proposal_logits,
        draws.token,
        settings.alpha,
        (settings.inv_temperature, settings.mixture.inv_temperature),
        chain.kind == BASE,
        settings.top_k,
    )


def _decide(
    chain: Chain, sums: tuple[Array, Array], is_stop: Array, failed: Array, settings: Settings
) -> _Verdict:
    """Whether the move is over with the token at `chain.position`, and whether it is accepted.

    Args:
      chain: before the token was drawn.
      sums: the compensated sum of the log-weights of y', the token's included.
      is_stop: bool [], whether the token ends the completion.
      failed: bool [], whether the logits gave no law.
      settings: of the run.
    """
    position, extending = chain.position, chain.step == 0
    cap = _stage_end(chain.stage, settings)
    if settings.kernel == "karan2026":
        cap = jnp.where(extending, cap, chain.length)
    at_end = is_stop | (position + 1 >= cap)
    log_ratio = _log_ratio(chain, position, *sums, settings)
    # In exact arithmetic the partial log-ratios of a monotone kernel fall to log A. Their running
    # minimum makes it so in floating point, so early rejection decides as the end would.
    is_monotone = settings.is_monotone & (chain.kind == BASE)
    log_accept = jnp.where(is_monotone, jnp.minimum(chain.bound, log_ratio), log_ratio)
    # The MH rule accepts where u <= A, here in logarithms. For power_inf, log_accept is the rise of
    # log p, and has to be above 0.
    passes = log_accept > 0 if settings.kernel == "power_inf" else log_accept >= chain.log_u
    hopeless = ~extending & ~passes & settings.early_rejection & is_monotone
    finished = (at_end | hopeless) & ~chain.done & ~failed
    return _Verdict(at_end, log_accept, finished, finished & at_end & (extending | passes))


def _next(
    chain: Chain,
    after: Chain,
    verdict: _Verdict,
    failed: Array,
    draws: Draws,
    settings: Settings,
) -> Chain:
    """The chain before its next token.

    Args:
      chain: before the token that was drawn.
      after: with that token booked, as the chain goes on if its move does.
      verdict: of the move.
      failed: bool [], whether the logits gave no law.
      draws: cut and uniform of the next move.
      settings: of the run.
    """
    stage_over = verdict.finished & (chain.step >= settings.num_mcmc_steps)
    settled = after.ended & (settings.stop_at_eos | (settings.num_mcmc_steps == 0))
    is_last = _stage_end(chain.stage, settings) >= settings.max_new_tokens
    done = chain.done | failed | (stage_over & (settled | is_last))
    extends = stage_over & ~after.ended  # the next move is the extension of the next stage
    stage, step = next_move(chain, settings)
    kind = _next_kind(extends, draws, settings)
    # A cut is floor(u |y|) for a 32-bit u. An extension goes on where y ends.
    cut = jnp.where(kind == RESTART, 0, _scale(draws.cut, after.length))
    cut = jnp.where(extends, after.length, cut)
    before = jnp.maximum(cut - 1, 0)
    first = lambda x, empty: jnp.where(cut > 0, x[before], empty)  # noqa: E731
    pick = lambda fresh, going_on: jnp.where(verdict.finished, fresh, going_on)  # noqa: E731
    following = after._replace(
        cut=pick(cut, chain.cut),
        position=pick(cut, after.position),
        token=pick(first(after.state.tokens, -1), after.token),
        sum_hi=pick(first(after.state.cum_hi, 0), after.sum_hi),
        sum_lo=pick(first(after.state.cum_lo, 0), after.sum_lo),
        bound=pick(jnp.full_like(after.bound, jnp.inf), after.bound),
        log_u=pick(draws.log_u.astype(after.bound.dtype), chain.log_u),
        stage=pick(stage, chain.stage),
        step=pick(jnp.where(extends, 0, step), chain.step),
        kind=pick(kind, chain.kind),
        done=done,
    )
    stay = lambda before, after: jnp.where(chain.done | done, before, after)  # noqa: E731
    return following._replace(
        cut=stay(chain.cut, following.cut),
        position=stay(chain.position, following.position),
        token=stay(chain.token, following.token),
        stage=stay(chain.stage, following.stage),
        step=stay(chain.step, following.step),
        kind=stay(chain.kind, following.kind),
    )


def _next_kind(extends: Array, draws: Draws, settings: Settings) -> Array:
    """The kind of the move, or of the extension, that comes next (int32 [])."""
    mixture = settings.mixture
    if mixture is None or draws.kind is None:
        return jnp.int32(BASE)
    kind = jnp.sum(draws.kind >= mixture.edges, dtype=jnp.int32)  # 0, 1, 2: RESTART, SUFFIX, BASE
    return jnp.where(extends, mixture.extends_by, kind)


def _stage_end(stage: Array, settings: Settings) -> Array:
    """E, the length at which a stage ends (int32 [])."""
    return jnp.minimum((stage + 1) * settings.block_size, settings.max_new_tokens)


def _log_ratio(chain: Chain, position: Array, sum_hi: Array, sum_lo: Array, settings: Settings):
    """log A of the proposal as if it ended at `position`: Eq. 20 and the terms of the lengths.

    The sums of y' and of y are over all tokens: those below the cut are the same and cancel. Both
    are sums of the law that the move's kind draws from.
    """
    against = position if settings.kernel == "karan2026" else chain.length - 1
    against = jnp.clip(against, 0, chain.state.cum_hi.shape[0] - 1)
    difference = (sum_hi - chain.state.cum_hi[against]) + (sum_lo - chain.state.cum_lo[against])
    if settings.mixture is not None:
        difference = jnp.where(chain.kind == BASE, difference[0], difference[1])
    if settings.kernel != "exact":
        return difference
    dtype = difference.dtype
    lengths = jnp.maximum(jnp.stack([chain.length, position + 1]), 1).astype(dtype)
    lengths = jnp.where(chain.kind == RESTART, 1, lengths)  # a restart draws no cut
    return difference + (jnp.log(lengths[0]) - jnp.log(lengths[1]))


def _add(hi: Array, lo: Array, x: Array) -> tuple[Array, Array]:
    """(hi + lo) + x with the rounding error of hi + x kept in lo (Knuth's two-sum)."""
    total = hi + x
    x_part = total - hi
    return total, lo + ((hi - (total - x_part)) + (x - x_part))


def _book(sequence: Sequence, at: Array, *values: Array) -> Sequence:
    """The sequence with the values of one token at the index `at`."""
    return Sequence(
        *(
            row.at[at].set(value.astype(row.dtype), mode="drop")
            for row, value in zip(sequence, values, strict=True)
        )
    )


def _merge(state: Sequence, proposal: Sequence, accepted: Array, cut: Array, length: Array):
    """The state, with the proposal's tokens on [cut, length) where the move was accepted."""
    index = jnp.arange(state.tokens.shape[0])
    moved = accepted & (index >= cut) & (index < length)

    def pick(old, new):
        return jnp.where(moved.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return Sequence(*map(pick, state, proposal))


def _scale(bits: Array, count: Array) -> Array:
    """floor(bits / 2^32 * count) without losing bits, for count < 2^16 (int32 [])."""
    n = jnp.maximum(count, 1).astype(jnp.uint32)
    high, low = bits >> 16, bits & jnp.uint32(0xFFFF)
    return ((high * n + ((low * n) >> 16)) >> 16).astype(jnp.int32)
