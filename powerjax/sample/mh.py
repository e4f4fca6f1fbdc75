"""The Metropolis-Hastings kernel of ONE chain: no model, no key, no batch. Exactness lives here.

A chain holds a completion y and walks through stages. Stage k ends at length
E = min((k + 1) block_size, max_new_tokens): the completion is extended to EOS or E, then
num_mcmc_steps times a cut m is drawn uniformly on 0..|y|-1, the suffix from m is proposed anew to
EOS or E, and accepted with

    log A = sum_{t>=m} w_t(y') - sum_{t>=m} w_t(y) + log|y| - log|y'|        (Eq. 20, lengths free)

where w_t = alpha log p_t - log q_t (`weights.py`). The last two terms correct for a cut drawn over
the current length. The kernel leaves pi^alpha on "ends in EOS or has length E" invariant, for every
alpha >= 1 and every proposal temperature (with top_k: pi^alpha restricted to strings whose every
token is among its prefix's top k).

`advance` moves a chain by one token; drive it with the logits that follow the chain's working
tokens (`working_tokens`), by hand or vmapped over slots.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from powerjax.sample import weights

MAX_NEW_TOKENS = 2**16 - 1  # `_scale` draws a cut among as many places

Kernel = Literal["exact", "power_inf", "karan2026"]


@struct.dataclass
class Settings:
    """What a run is asked for. Arrays are scalars, so that a sweep compiles once.

    Attributes:
      alpha: float [], the exponent.
      inv_temperature: float [], 1/tau of the proposal.
      block_size: int32 [], tokens a stage.
      num_mcmc_steps: int32 [], moves a stage; 0 is plain sampling.
      max_new_tokens: int32 [].
      stop_ids: int32 [n], tokens that end a completion.
      stop_at_eos: bool [], True leaves at the first stage whose state ends in EOS ("eos"); False
        runs every stage ("horizon").
      early_rejection: bool [].
      kernel: "exact"; "power_inf" (accept iff log p rises); "karan2026" (the published code's rule:
        ratio cut to the proposal's length, length capped at the current one, no correction).
      top_k: tokens the proposal may draw, None for all.
    """

    alpha: Array
    inv_temperature: Array
    block_size: Array
    num_mcmc_steps: Array
    max_new_tokens: Array
    stop_ids: Array
    stop_at_eos: Array
    early_rejection: Array
    kernel: Kernel = struct.field(pytree_node=False, default="exact")
    top_k: int | None = struct.field(pytree_node=False, default=None)

    @property
    def is_monotone(self) -> Array:
        """True where the partial log-ratio of a proposal can only fall as it grows (bool [])."""
        if self.kernel == "power_inf":
            return jnp.asarray(True)
        if self.kernel == "karan2026":
            return jnp.asarray(False)
        return weights.is_monotone(self.alpha, self.inv_temperature)


def settings(
    alpha: float = 4.0,
    temperature: float | None = None,
    *,
    block_size: int,
    num_mcmc_steps: int,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    stop: Literal["eos", "horizon"] = "eos",
    early_rejection: bool = True,
    kernel: Kernel = "exact",
    top_k: int | None = None,
    dtype=np.float32,
) -> Settings:
    """Settings from plain numbers; temperature None means 1/alpha, exactly."""
    inv_temperature = alpha if temperature is None else 1.0 / temperature
    if abs(inv_temperature - alpha) < 1e-6 * alpha:  # 0.25 for alpha 4, however it was rounded
        inv_temperature = alpha
    return Settings(
        alpha=np.asarray(alpha, dtype),
        inv_temperature=np.asarray(inv_temperature, dtype),
        block_size=np.int32(block_size),
        num_mcmc_steps=np.int32(num_mcmc_steps),
        max_new_tokens=np.int32(max_new_tokens),
        stop_ids=np.asarray(stop_ids, np.int32),
        stop_at_eos=np.bool_(stop == "eos"),
        early_rejection=np.bool_(early_rejection),
        kernel=kernel,
        top_k=top_k,
    )


class Sequence(NamedTuple):
    """Tokens with what was booked when each was drawn. Arrays [M], M >= max_new_tokens.

    cum_hi + cum_lo is the sum of the log-weights up to and including a token, left to right and
    compensated: float32 alone errs by 0.05 over thousands of tokens.
    """

    tokens: Array  # int32
    log_p: Array  # base log-probability
    cum_hi: Array
    cum_lo: Array


class Chain(NamedTuple):
    """State of one chain: the completion y, and the move under way. Scalars unless marked."""

    state: Sequence  # y, valid below `length`
    length: Array  # int32 |y|, EOS counted
    ended: Array  # bool, y ends in a stop token
    proposal: Sequence  # y', valid on [cut, position)
    cut: Array  # int32, where the move began
    position: Array  # int32, index of the token to be drawn next
    token: Array  # int32, token at position - 1, which the model is fed; -1: the prompt's last
    sum_hi: Array  # log-weights of y' up to position
    sum_lo: Array
    bound: Array  # least upper bound so far on log A of this move
    log_u: Array  # log of the uniform that log A must reach
    stage: Array  # int32
    step: Array  # int32, 0 while extending, then 1..num_mcmc_steps
    done: Array  # bool


class Draws(NamedTuple):
    """Uniforms that `advance` may need; see `draws.draw`."""

    token: Array  # float [2] in [0, 1)
    cut: Array  # uint32 [], bits of the next move's cut
    log_u: Array  # float [], log of the next move's uniform


class Info(NamedTuple):
    """What one `advance` did. Scalars."""

    token: Array  # int32, drawn at `position`
    log_p: Array
    weight: Array
    position: Array  # int32
    cut: Array  # int32, of the move that the token belongs to
    stage: Array  # int32, of that move
    is_proposal: Array  # bool, an MH move (not an extension)
    finished: Array  # bool, the move ended with this token
    accepted: Array  # bool, and its tokens are now the state's
    rejected_early: Array  # bool, before its end
    failed: Array  # bool, the logits give no law: the chain ends, its state as it was
    log_accept: Array  # float, log A where the move ran to its end, an upper bound before


def init(settings: Settings, max_tokens: int | None = None, dtype=jnp.float32) -> Chain:
    """A chain with an empty completion, about to extend through stage 0.

    Args:
      settings: of the run.
      max_tokens: M, room for tokens (static); settings.max_new_tokens when None.
      dtype: float dtype of the books, that of the logits.
    """
    size = int(settings.max_new_tokens) if max_tokens is None else max_tokens
    i, f, no = jnp.int32(0), jnp.zeros((), dtype), jnp.asarray(False)

    def empty():
        return Sequence(jnp.zeros(size, jnp.int32), *(jnp.zeros(size, dtype) for _ in range(3)))

    return Chain(
        state=empty(),
        length=i,
        ended=no,
        proposal=empty(),
        cut=i,
        position=i,
        token=jnp.int32(-1),
        sum_hi=f,
        sum_lo=f,
        bound=jnp.asarray(jnp.inf, dtype),
        log_u=f,
        stage=i,
        step=i,
        done=no,
    )


def next_move(chain: Chain, settings: Settings) -> tuple[Array, Array]:
    """(stage, step) of the MH move that follows the current move, should one follow."""
    more = chain.step < settings.num_mcmc_steps
    return jnp.where(more, chain.stage, chain.stage + 1), jnp.where(more, chain.step + 1, 1)


def working_tokens(chain: Chain) -> np.ndarray:
    """Completion tokens that the next logits are conditioned on: int32 [position] (host)."""
    cut, position = int(chain.cut), int(chain.position)
    return np.concatenate(
        [np.asarray(chain.state.tokens)[:cut], np.asarray(chain.proposal.tokens)[cut:position]]
    )


def advance(chain: Chain, logits: Array, draws: Draws, settings: Settings) -> tuple[Chain, Info]:
    """Draws one token of the current move, books it, and decides what comes next.

    Args:
      chain: state of one chain (vmap for more).
      logits: float [V], the model's at `chain.position`; float64 gives a float64 chain.
      draws: uniforms, each used for one thing only.
      settings: of the run.

    Returns:
      (chain, info). A chain that is done stays as it is. Logits that hold NaN or +inf, or only
      -inf, end the chain: `info.failed`, and the token is neither booked nor accepted.
    """
    drawn = weights.draw_token(
        logits, draws.token, settings.alpha, settings.inv_temperature, settings.top_k
    )
    position, extending = chain.position, chain.step == 0
    length_new = position + 1
    # Whatever is wrong with the logits makes their normaliser, and with it every log_p, NaN.
    failed = ~chain.done & ~jnp.isfinite(drawn.log_p)
    gain = drawn.log_p if settings.kernel == "power_inf" else drawn.weight
    sum_hi, sum_lo = _add(chain.sum_hi, chain.sum_lo, gain)
    proposal = _book(chain.proposal, position, drawn.token, drawn.log_p, sum_hi, sum_lo)

    is_stop = jnp.any(drawn.token == settings.stop_ids)
    stage_end = _stage_end(chain.stage, settings)
    cap = stage_end
    if settings.kernel == "karan2026":
        cap = jnp.where(extending, stage_end, chain.length)
    at_end = is_stop | (length_new >= cap)

    log_ratio = _log_ratio(chain, position, sum_hi, sum_lo, settings)
    # In exact arithmetic the partial log-ratios of a monotone kernel fall to log A. Their running
    # minimum makes it so in floating point, so early rejection decides as the end would.
    bound = jnp.where(settings.is_monotone, jnp.minimum(chain.bound, log_ratio), log_ratio)
    passes = bound > 0 if settings.kernel == "power_inf" else bound >= chain.log_u
    hopeless = ~extending & ~passes & settings.early_rejection & settings.is_monotone
    finished = (at_end | hopeless) & ~chain.done & ~failed
    accepted = finished & at_end & (extending | passes)

    state = _merge(chain.state, proposal, accepted, chain.cut, length_new)
    length = jnp.where(accepted, length_new, chain.length)
    ended = jnp.where(accepted, is_stop, chain.ended)

    stage_over = finished & (chain.step >= settings.num_mcmc_steps)
    settled = ended & (settings.stop_at_eos | (settings.num_mcmc_steps == 0))
    done = chain.done | failed | (stage_over & (settled | (stage_end >= settings.max_new_tokens)))
    extend_next = stage_over & ~ended
    stage_next, step_next = next_move(chain, settings)

    # The cut is floor(u |y|) for a 32-bit u; a stage that goes on from an open end starts there.
    cut = jnp.where(extend_next, length, _scale(draws.cut, length))
    before = jnp.maximum(cut - 1, 0)
    pick = lambda fresh, going_on: jnp.where(finished, fresh, going_on)  # noqa: E731
    first = lambda x, empty: jnp.where(cut > 0, x[before], empty)  # noqa: E731
    following = Chain(
        state=state,
        length=length,
        ended=ended,
        proposal=proposal,
        cut=pick(cut, chain.cut),
        position=pick(cut, length_new),
        token=pick(first(state.tokens, -1), drawn.token),
        sum_hi=pick(first(state.cum_hi, 0), sum_hi),
        sum_lo=pick(first(state.cum_lo, 0), sum_lo),
        bound=pick(jnp.full_like(bound, jnp.inf), bound),
        log_u=pick(draws.log_u.astype(bound.dtype), chain.log_u),
        stage=pick(stage_next, chain.stage),
        step=pick(jnp.where(extend_next, 0, step_next), chain.step),
        done=done,
    )
    stays = {
        f: jnp.where(chain.done | done, getattr(chain, f), getattr(following, f))
        for f in ("cut", "position", "token", "stage", "step")
    }
    info = Info(
        token=drawn.token,
        log_p=drawn.log_p,
        weight=drawn.weight,
        position=position,
        cut=chain.cut,
        stage=chain.stage,
        is_proposal=~extending & ~chain.done,
        finished=finished,
        accepted=accepted,
        rejected_early=finished & ~at_end,
        failed=failed,
        log_accept=bound,
    )
    return following._replace(**stays), info


def _stage_end(stage: Array, settings: Settings) -> Array:
    """E, the length at which a stage ends (int32 [])."""
    return jnp.minimum((stage + 1) * settings.block_size, settings.max_new_tokens)


def _log_ratio(chain: Chain, position: Array, sum_hi: Array, sum_lo: Array, settings: Settings):
    """log A of the proposal as if it ended at `position`; sums below the cut cancel exactly."""
    against = position if settings.kernel == "karan2026" else chain.length - 1
    against = jnp.clip(against, 0, chain.state.cum_hi.shape[0] - 1)
    difference = (sum_hi - chain.state.cum_hi[against]) + (sum_lo - chain.state.cum_lo[against])
    if settings.kernel != "exact":
        return difference
    dtype = difference.dtype
    lengths = jnp.maximum(jnp.stack([chain.length, position + 1]), 1).astype(dtype)
    return difference + (jnp.log(lengths[0]) - jnp.log(lengths[1]))


def _add(hi: Array, lo: Array, x: Array) -> tuple[Array, Array]:
    """(hi + lo) + x with the rounding error of hi + x kept in lo (Knuth's two-sum)."""
    total = hi + x
    x_part = total - hi
    return total, lo + ((hi - (total - x_part)) + (x - x_part))


def _book(sequence: Sequence, at: Array, *values: Array) -> Sequence:
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
    return Sequence(*(jnp.where(moved, new, old) for old, new in zip(state, proposal, strict=True)))


def _scale(bits: Array, count: Array) -> Array:
    """floor(bits / 2^32 * count) without losing bits, for count < 2^16 (int32 [])."""
    n = jnp.maximum(count, 1).astype(jnp.uint32)
    high, low = bits >> 16, bits & jnp.uint32(0xFFFF)
    return ((high * n + ((low * n) >> 16)) >> 16).astype(jnp.int32)
