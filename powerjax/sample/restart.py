"""Restart moves: independence Metropolis-Hastings over draws that do not depend on the state.

The proposal model q draws whole completions. With W(y) = alpha log p(y) - log q(y), a chain in y
accepts the next draw y' with probability min(1, exp(W(y') - W(y))), and this leaves pi^alpha
invariant. No proposal depends on the state, so a chain of N moves is N + 1 draws, all made at once
in as many slots, and a pass over their W (`accepted`). Draw i has the randomness of the chain's
step i, so the chain is the same however many slots there are, and the same as that of a mixture
which makes restart moves alone, one after the other.

The proposal model draws by itself, and its log q is booked token by token. The base then scores
whole completions in one pass, which costs little next to decoding. With top_k the proposal model
may draw only what is among the base's k likeliest tokens, so there the two models step together.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from powerjax.models.language_model import LM
from powerjax.sample import draws, mh, spec, workers
from powerjax.sample.stats import Finished, Request, Stats
from powerjax.sample.traces import Trace


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the proposal model draws.

    Attributes:
      alpha: exponent of the target.
      temperature: tau_q of the proposal model.
      max_new_tokens: tokens of the longest completion.
      stop_ids: the base's tokens that end a completion.
      top_k: how many tokens may be drawn, by the base's order; None: all.
      by_base: whether the base draws in the proposal model's place, at temperature 1/alpha.
      together: whether both models step together, and book both proposals' laws. It has to be so
        with top_k and by_base.
    """

    alpha: float
    temperature: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    top_k: int | None = None
    by_base: bool = False
    together: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None or self.by_base:
            object.__setattr__(self, "together", True)


def draws_of(sampler: spec.Power, stop_ids: tuple[int, ...], together: bool = False) -> Draws:
    """How the proposal model draws for a sampler with restart moves."""
    return Draws(
        alpha=sampler.alpha,
        temperature=sampler.proposal_temperature,
        max_new_tokens=sampler.max_new_tokens,
        stop_ids=stop_ids,
        top_k=sampler.top_k,
        together=together,
    )


def log_weight(end: Finished, settings: Draws) -> float:
    """W(y) = alpha log p(y) - log q(y) of one draw of `draw`."""
    if end.scored is None:  # both models stepped together: [base's proposal, proposal model]
        return float(end.log_weight[1])
    # The draw booked w_t = log q(y_t) / tau_q - log q_tau(y_t), whose sum gives log q_tau(y).
    log_q = _total(end.log_p) / settings.temperature - float(end.log_weight)
    return settings.alpha * log_p(end) - log_q


def log_p(end: Finished) -> float:
    """log p(y) of one draw under the base."""
    return _total(end.log_p if end.scored is None else end.scored)


def _total(log_probs: np.ndarray) -> float:
    return float(np.sum(log_probs, dtype=np.float64))


def accepted(log_weights: np.ndarray, log_u: np.ndarray) -> np.ndarray:
    """Which of N restart moves a chain accepts: bool [N].

    Args:
      log_weights: float64 [N+1], W of the first draw and of the N proposals.
      log_u: float [N], the logs of the moves' uniforms.
    """
    current, verdicts = log_weights[0], np.zeros(len(log_u), bool)
    for i, proposed in enumerate(log_weights[1:]):
        verdicts[i] = proposed - current >= log_u[i]
        if verdicts[i]:
            current = proposed
    return verdicts


def draw(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    settings: Draws,
    *,
    proposal: LM,
    long_context: bool = False,
    other_long_context: bool = False,
    **run: Any,
) -> Stats:
    """Draws a completion from the proposal model for each request.

    Args:
      lm: the base.
      prompts: token ids, by prompt_index.
      requests: the draws.
      settings: how they are drawn.
      proposal: the proposal model.
      long_context, other_long_context: whether longrope's long factors are used, by the base and by
        the proposal model.
      run: num_slots, on_finish, on_fail and bar, as for `workers.generate`. on_finish gets
        chains for `log_weight` and `log_p`.

    Returns:
      The Stats of the run, the tokens of both models counted apart.
    """
    flags: dict[str, Any] = {
        "long_context": long_context,
        "other_long_context": other_long_context,
    }
    if settings.together:
        kernel = _plain(settings, settings.alpha, shares=(1.0, 0.0, 0.0))
        return workers.generate(lm, prompts, requests, kernel, proposal=proposal, **flags, **run)
    return _draw_then_score(lm, prompts, requests, settings, proposal=proposal, **flags, **run)


def _draw_then_score(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    settings: Draws,
    *,
    proposal: LM,
    long_context: bool,
    other_long_context: bool,
    on_finish: Callable[[Finished], None],
    **run: Any,
) -> Stats:
    """`draw` where the proposal model decodes alone, and the base scores what is finished."""
    scored = 0

    def collect(end: Finished) -> None:
        nonlocal scored
        count = len(end.tokens)
        scored += count
        on_finish(
            dataclasses.replace(end, num_forward_tokens=count, num_proposal_forward_tokens=count)
        )

    stats = workers.generate(
        proposal,
        prompts,
        requests,
        _plain(settings, 1 / settings.temperature, temperature=settings.temperature),
        scorer=lm,
        long_context=other_long_context,
        other_long_context=long_context,
        on_finish=collect,
        **run,
    )
    stats.num_proposal_forward_tokens = stats.num_forward_tokens
    stats.num_forward_tokens = scored
    return stats


def _plain(settings: Draws, alpha: float, **options: Any) -> mh.Settings:
    """The kernel's settings for draws without moves."""
    if settings.together:
        options["proposal_temperature"] = settings.temperature
        options["extends_by"] = mh.BASE if settings.by_base else mh.SUFFIX
        options["top_k"] = settings.top_k
    return mh.settings(
        alpha,
        block_size=settings.max_new_tokens,
        num_mcmc_steps=0,
        max_new_tokens=settings.max_new_tokens,
        stop_ids=settings.stop_ids,
        **options,
    )


def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    settings: Draws,
    *,
    num_steps: int,
    on_finish: Callable[[Finished], None],
    on_fail: Callable[[Request], None],
    **run: Any,
) -> Stats:
    """Runs every request's chain of restart moves to its end.

    Args:
      lm, prompts, settings: as for `draw`.
      requests: the chains.
      num_steps: N, moves per chain.
      on_finish: called with each chain that finished.
      on_fail: called with the request of each chain one of whose draws failed: logits were not
        finite.
      run: the other arguments of `draw`. The bar goes on by one with each draw.

    Returns:
      The Stats of the run.
    """
    drawn: dict[tuple[int, int], dict[int, Finished]] = collections.defaultdict(dict)
    whole = {(r.prompt_index, r.sample_index): r for r in requests}
    log_us = dict(zip(whole, draws.accept_log_us(_keys(requests), num_steps), strict=True))
    failed: set[tuple[int, int]] = set()
    moves = moves_accepted = 0

    def fail(request: Request) -> None:
        chain = request.prompt_index, request.sample_index
        if chain not in failed:
            failed.add(chain)
            on_fail(whole[chain])

    def collect(end: Finished) -> None:
        nonlocal moves, moves_accepted
        chain = end.request.prompt_index, end.request.sample_index
        if not np.isfinite(log_weight(end, settings)):
            fail(end.request)
        if chain in failed:
            return
        drawn[chain][end.request.step] = end
        if len(drawn[chain]) == num_steps + 1:
            ends = drawn.pop(chain)
            in_order = [ends[i] for i in range(num_steps + 1)]
            finished = _chain(whole[chain], in_order, log_us[chain], settings)
            moves += finished.num_moves
            moves_accepted += finished.num_accepted
            on_finish(finished)

    each = [dataclasses.replace(r, step=i) for r in requests for i in range(num_steps + 1)]
    stats = draw(lm, prompts, each, settings, on_finish=collect, on_fail=fail, **run)
    stats.moves, stats.moves_accepted, stats.num_failed = moves, moves_accepted, len(failed)
    stats.stage_moves, stats.stage_accepted = ([moves], [moves_accepted]) if moves else ([], [])
    return stats


def _keys(requests: Sequence[Request]) -> np.ndarray:
    """The keys of the chains, uint32 [C, 2]."""
    return np.array([request.key for request in requests], np.uint32).reshape(-1, 2)


def _chain(
    request: Request, ends: Sequence[Finished], log_u: np.ndarray, settings: Draws
) -> Finished:
    """A chain of restart moves, from its N + 1 draws and the logs of N uniforms."""
    log_weights = np.array([log_weight(end, settings) for end in ends])
    verdicts = accepted(log_weights, log_u)
    states = np.maximum.accumulate(np.where(verdicts, np.arange(1, len(ends)), 0))
    last = ends[states[-1] if len(states) else 0]
    return dataclasses.replace(
        last,
        request=request,
        log_p=last.log_p if last.scored is None else last.scored,
        scored=None,
        num_forward_tokens=sum(end.num_forward_tokens for end in ends),
        num_proposal_forward_tokens=sum(end.num_proposal_forward_tokens or 0 for end in ends),
        num_moves=len(verdicts),
        num_accepted=int(verdicts.sum()),
        trace=Trace(
            log_p=np.array([log_p(ends[i]) for i in states]),
            length=np.array([len(ends[i].tokens) for i in states], int),
            accepted=verdicts,
            kind=np.full(len(verdicts), mh.RESTART),
        ),
    )
