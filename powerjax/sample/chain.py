"""The state of one chain, and the settings of a run: what the kernel `mh` works on.

`Chain` is what is carried from token to token, `Info` is what is only reported, `Draws` is the
randomness that comes in, and `Settings` stays the same through a run.
"""

import dataclasses
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from powerjax.sample import weights

Kernel = Literal["exact", "power_inf", "karan2026"]

# The kinds of a move: who draws it, and from where. Without a proposal model all are BASE.
RESTART = 0  # the proposal model, the whole completion anew
SUFFIX = 1  # the proposal model, from a cut
BASE = 2  # the base at its temperature, from a cut


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """The settings of a run whose moves a second model draws, the proposal model.

    Attributes:
      inv_temperature: float [], 1/tau_q of the proposal model.
      edges: float32 [2]: a move is a RESTART where its uniform is below the first number, else a
        SUFFIX where it is below the second, else BASE. (.4, .7) makes shares of .4, .3 and .3.
      extends_by: int32 [], the kind that draws the extensions: SUFFIX, or BASE.
    """

    inv_temperature: Array
    edges: Array
    extends_by: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run. Numbers are scalar arrays, so that a sweep over them compiles once.

    Attributes:
      alpha: float [], the exponent.
      inv_temperature: float [], 1/tau of the proposal.
      block_size: int32 [], tokens per stage.
      num_mcmc_steps: int32 [], moves per stage; 0 is plain sampling.
      max_new_tokens: int32 [].
      stop_ids: int32 [n], tokens that end a completion.
      stop_at_eos: bool []; True ends the chain at the first stage whose state ends in EOS ("eos"),
        False runs every stage ("horizon").
      early_rejection: bool [].
      kernel: the acceptance rule: "exact"; "power_inf", which accepts iff log p rises; or
        "karan2026", the published code's, which cuts the ratio to the proposal's length, caps the
        length at the current one, and does not correct for lengths. A static field.
      top_k: how many tokens the proposal may draw; None: all. A static field.
      mixture: of a run with a proposal model; None: the base draws every move.
    """

    alpha: Array
    inv_temperature: Array
    block_size: Array
    num_mcmc_steps: Array
    max_new_tokens: Array
    stop_ids: Array
    stop_at_eos: Array
    early_rejection: Array
    kernel: Kernel = dataclasses.field(default="exact", metadata={"static": True})
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})
    mixture: Mixture | None = None

    @property
    def is_monotone(self) -> Array:
        """Whether the partial log-ratio of a BASE move can only fall as it grows (bool [])."""
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
    shares: tuple[float, float, float] | None = None,
    proposal_temperature: float = 1.0,
    extends_by: int = SUFFIX,
    dtype=np.float32,
) -> Settings:
    """Settings from plain numbers.

    temperature: of the proposal; None, and whatever is 1/alpha but for rounding, mean 1/alpha.
    shares: of RESTART, SUFFIX and BASE among the moves; None: there is no proposal model.
    proposal_temperature: tau_q of the proposal model.
    extends_by: the kind that draws the extensions of a run with a proposal model.
    dtype: float dtype of alpha and inv_temperature.
    """
    inv_temperature = alpha if temperature is None else 1.0 / temperature
    if abs(inv_temperature - alpha) < 1e-6 * alpha:  # 0.25 for alpha 4, however it was rounded
        inv_temperature = alpha
    scalar = lambda value, kind: cast(Array, np.asarray(value, kind))  # noqa: E731
    mixture = None
    if shares is not None:
        edges = np.cumsum(shares)[:2]
        edges[np.cumsum(shares)[:2] > 1 - 1e-6] = 1  # shares that sum to 1 but for rounding
        mixture = Mixture(
            inv_temperature=scalar(1.0 / proposal_temperature, dtype),
            edges=scalar(edges, np.float32),
            extends_by=scalar(extends_by, np.int32),
        )
    return Settings(
        alpha=scalar(alpha, dtype),
        inv_temperature=scalar(inv_temperature, dtype),
        block_size=scalar(block_size, np.int32),
        num_mcmc_steps=scalar(num_mcmc_steps, np.int32),
        max_new_tokens=scalar(max_new_tokens, np.int32),
        stop_ids=scalar(stop_ids, np.int32),
        stop_at_eos=scalar(stop == "eos", bool),
        early_rejection=scalar(early_rejection, bool),
        kernel=kernel,
        top_k=top_k,
        mixture=mixture,
    )


class Sequence(NamedTuple):
    """Tokens with what was booked when each was drawn. Arrays [M], M >= max_new_tokens.

    cum_hi + cum_lo is the sum of the log-weights (for power_inf: of log p) up to and including a
    token. It is added up from left to right and compensated, because float32 alone errs by 0.05
    over thousands of tokens. With a proposal model both are [M, 2]: every token is weighed against
    the base's proposal (0) and against the proposal model (1), whichever of them drew it.
    """

    tokens: Array  # int32
    log_p: Array  # base log-probabilities
    cum_hi: Array
    cum_lo: Array


class Chain(NamedTuple):
    """The state of one chain: its completion y, and the move under way. Scalars unless marked."""

    state: Sequence  # y, valid below `length`
    length: Array  # int32, |y|, EOS counted
    ended: Array  # bool, whether y ends in a stop token
    proposal: Sequence  # y', valid on [cut, position)
    cut: Array  # int32, where the move began
    position: Array  # int32, the index of the token that is drawn next
    token: Array  # int32, the token at position - 1, which the model is fed; -1: the prompt's last
    sum_hi: Array  # sum_hi + sum_lo is the cumulative sum of y' below `position`; [] or [2]
    sum_lo: Array
    bound: Array  # the running minimum of the move's log-ratio; log A is no larger if monotone
    log_u: Array  # the log of the move's uniform: the move is accepted where log A reaches it
    stage: Array  # int32
    step: Array  # int32, 0 while the chain extends, then 1..num_mcmc_steps
    kind: Array  # int32, RESTART, SUFFIX or BASE: the kind of the move or extension under way
    done: Array  # bool


class Draws(NamedTuple):
    """Uniforms that `advance` may need; see `draws.draw`."""

    token: Array  # float [2] in [0, 1), of the token
    cut: Array  # uint32 [], the bits of the next move's cut
    log_u: Array  # float [], the log of the next move's uniform
    kind: Array | None = None  # float32 [] in [0, 1), of the next move's kind, if there are several


class Info(NamedTuple):
    """What one `advance` did. Scalars."""

    token: Array  # int32, the token drawn at `position`
    log_p: Array  # its base log-probability
    weight: Array  # its log-weight; [2] with a proposal model
    position: Array  # int32
    cut: Array  # int32, the cut of the move that the token belongs to
    stage: Array  # int32, that move's stage
    kind: Array  # int32, its kind
    is_proposal: Array  # bool, whether the move is an MH move and no extension
    finished: Array  # bool, whether the move ended with this token
    accepted: Array  # bool, whether its tokens are the state's now
    rejected_early: Array  # bool, whether it was rejected before its end
    failed: Array  # bool, the logits give no law: the chain ends with its state as it was
    log_accept: Array  # float, log A where the move ran to its end; before, the ratio so far


def init(settings: Settings, max_tokens: int | None = None, dtype=jnp.float32) -> Chain:
    """A chain with an empty completion, about to extend through stage 0.

    Args:
      settings: of the run.
      max_tokens: M, room for tokens (static); settings.max_new_tokens when None.
      dtype: float dtype of what is booked; it is that of the logits.
    """
    size = int(settings.max_new_tokens) if max_tokens is None else max_tokens
    i, f, no = jnp.int32(0), jnp.zeros((), dtype), jnp.asarray(False)
    laws = () if settings.mixture is None else (2,)

    def empty():
        tokens, log_p = jnp.zeros(size, jnp.int32), jnp.zeros(size, dtype)
        return Sequence(tokens, log_p, *(jnp.zeros((size, *laws), dtype) for _ in range(2)))

    return Chain(
        state=empty(),
        length=i,
        ended=no,
        proposal=empty(),
        cut=i,
        position=i,
        token=jnp.int32(-1),
        sum_hi=jnp.zeros(laws, dtype),
        sum_lo=jnp.zeros(laws, dtype),
        bound=jnp.asarray(jnp.inf, dtype),
        log_u=f,
        stage=i,
        step=i,
        kind=jnp.int32(BASE) if settings.mixture is None else settings.mixture.extends_by,
        done=no,
    )
