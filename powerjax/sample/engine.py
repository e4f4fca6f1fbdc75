"""The host loop of one engine: fill the queue, call the slots, hand finished chains out."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from powerjax.models.cache import grow
from powerjax.models.language_model import LM
from powerjax.sample import mh, placement, shapes
from powerjax.sample import slots as slots_lib
from powerjax.sample.feed import Feed, count_prefix_rows

# Earlier versions had the next six names here.
from powerjax.sample.memory import pick_num_slots as pick_num_slots
from powerjax.sample.scores import Scores
from powerjax.sample.shapes import LOGIT_ROWS as LOGIT_ROWS
from powerjax.sample.shapes import bytes_per_slot as bytes_per_slot
from powerjax.sample.shapes import count_fitting as count_fitting
from powerjax.sample.shapes import prefill_shape as prefill_shape
from powerjax.sample.shapes import slots_for as slots_for
from powerjax.sample.stats import Failed, Finished, Request, Stats
from powerjax.sample.traces import Trace

_FIRST_CHUNK = 4  # model steps of the first call
_COMPILING: collections.defaultdict = collections.defaultdict(threading.Lock)  # by devices


def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    settings: mh.Settings,
    *,
    num_slots: int,
    proposal: LM | None = None,
    scorer: LM | None = None,
    long_context: bool = False,
    other_long_context: bool = False,
    trace: int = 0,
    on_finish: Callable[[Finished], None],
    on_fail: Callable[[Request], None] | None = None,
    on_call: Callable[[Stats], bool] | None = None,
) -> Stats:
    """Runs every request's chain to its end, calling on_finish as each one gets there.

    A chain whose logits are not finite (`mh.advance`) ends there; the others go on. The loop is one
    screen: fill the queue, call the slots, hand out, read, go on.

    Args:
      lm: the model.
      prompts: token ids, by prompt_index. The longest decides the shapes even if no request is for
        it, so that a resumed job runs in the shapes of the whole job.
      requests: the chains; those of one prompt stand together and share one prefill.
      settings: of the run.
      num_slots: chains that advance at a time.
      proposal: the proposal model, where settings.mixture has its moves.
      scorer: a model that scores the completions once they are finished; None: none does.
      long_context: whether longrope's long factors are used.
      other_long_context: the same of the proposal model or the scorer.
      trace: how many moves of a chain are traced.
      on_finish: called with each chain that finished.
      on_fail: called with the request of each chain whose logits were not finite.
      on_call: called with the stats so far after each call of the slots; False ends the run early.

    Returns:
      The Stats of the run.
    """
    started = time.perf_counter()
    model = placement.module(lm, long_context, proposal, other_long_context)
    variables, home = placement.variables(lm, proposal), placement.home(lm, proposal)
    rows = count_prefix_rows(num_slots)
    feed = Feed(model, variables, prompts, requests, num_slots, rows, home)
    max_tokens = int(settings.max_new_tokens)
    window, most = shapes.first_window(max(map(len, prompts)), max_tokens)
    slots = slots_lib.init(model, num_slots, window, max_tokens, settings, home, trace)
    stats, max_steps = Stats(num_slots, num_slots), _FIRST_CHUNK
    scores = None
    if scorer is not None:
        scores = Scores(scorer, prompts, other_long_context, on_finish, num_slots)
        on_finish = scores.add
    ends = _Ends(stats, started, on_finish, on_fail)
    ended, compiling = started, _COMPILING[placement.devices(lm)]
    try:
        while True:
            # --- fill the queue and call the slots; workers that start together wait for the first
            # one's compilation ---
            with compiling if stats.model_steps == 0 else contextlib.nullcontext():
                queue = _fill(feed, stats, ended)
                began = time.perf_counter()
                slots, results, tally, head = slots_lib.run(
                    model, variables, slots, queue, settings, np.int32(max_steps), feed.has_more
                )
            # --- hand out what the call before ended, while the device works ---
            ends.hand_out()
            # --- wait for the device, and read what it did ---
            head, tally, count, busy, position = jax.device_get(
                (head, tally, results.size, slots.busy, slots_lib.write_position(slots))
            )
            ended = time.perf_counter()
            stats.add_call(tally)
            if proposal is not None:  # it reads every token that the base reads
                stats.num_proposal_forward_tokens = stats.num_forward_tokens
            ends.take(results, int(count), requests)
            feed.taken(int(head))
            stats.wall_s = ended - started
            # --- stop, or make ready for the next call ---
            if on_call is not None and not on_call(stats):
                break
            if not busy.any() and feed.is_empty:
                break
            if np.max(position, where=busy, initial=0) >= window:
                window = min(most, 2 * window)
                slots = slots._replace(
                    cache=grow(slots.cache, window), undo=grow(slots.undo, window)
                )
            if tally.steps >= max_steps:  # it ran its full length
                max_steps = shapes.next_max_steps(max_steps, ended - began)
    finally:
        ends.hand_out()  # whatever ended the loop: what is finished is not lost
        if scores is not None:
            scores.flush()
    stats.wall_s = time.perf_counter() - started
    return stats


def _fill(feed: Feed, stats: Stats, ended: float) -> slots_lib.Queue:
    """Prefills what the queue lacks, and returns the queue.

    ended: when the last call of the slots ended; the time since then is counted in `stats`.
    """
    refilling = time.perf_counter()
    stats.prefill_tokens += feed.refill()
    refilled = time.perf_counter()
    queue = feed.queue()
    stats.prefill_s += refilled - refilling
    stats.host_s += (time.perf_counter() - refilled) + (refilling - ended)
    return queue


def _finished(host: Any, row: int, request: Request) -> Finished:
    """The chain in one row of a call's results.

    host: the `slots.Results` as NumPy's arrays.
    """
    moves, forward_tokens = int(host.moves[row]), int(host.forward_tokens[row])
    is_pair = host.sum_hi.ndim == 2
    is_traced = host.trace.log_p.shape[1] > 0
    return Finished(
        request=request,
        tokens=host.tokens[row, : host.length[row]],
        log_p=host.log_p[row, : host.length[row]],
        ended=bool(host.ended[row]),
        num_forward_tokens=forward_tokens,
        num_proposal_forward_tokens=forward_tokens if is_pair else None,
        num_moves=moves,
        num_accepted=int(host.accepted[row]),
        num_rejected_early=int(host.rejected_early[row]),
        log_weight=host.sum_hi[row].astype(np.float64) + host.sum_lo[row],
        trace=Trace(*(x[row, :moves] for x in host.trace)) if is_traced else None,
    )


class _Ends:
    """Chains that ended, from the call that ended them until they are handed out."""

    def __init__(
        self,
        stats: Stats,
        started: float,
        on_finish: Callable[[Finished], None],
        on_fail: Callable[[Request], None] | None,
    ) -> None:
        self._stats, self._started = stats, started
        self._on_finish, self._on_fail = on_finish, on_fail
        self._waiting: collections.deque[Finished | Failed] = collections.deque()

    def take(self, results: slots_lib.Results, count: int, requests: Sequence[Request]) -> None:
        """Takes the first `count` chains of a call's results."""
        if not count:
            return
        host = jax.device_get(results)
        for i in range(count):
            request = requests[host.request[i]]
            if host.failed[i]:
                self._waiting.append(Failed(request))
                continue
            self._waiting.append(_finished(host, i, request))

    def hand_out(self) -> None:
        """Calls back for each chain that waits. A callback may raise; the others wait on."""
        while self._waiting:
            end = self._waiting.popleft()
            if isinstance(end, Failed):
                self._stats.num_failed += 1
                if self._on_fail is not None:
                    self._on_fail(end.request)
                continue
            if self._stats.first_completion_s is None:
                self._stats.first_completion_s = time.perf_counter() - self._started
            self._on_finish(end)
