"""The host loop: prefill prompts into the queue, run the slots, hand finished chains out."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from powerjax.models.cache import grow
from powerjax.models.language_model import LM
from powerjax.sample import mh, placement, shapes
from powerjax.sample import slots as slots_lib
from powerjax.sample.feed import Feed, count_prefix_rows
from powerjax.sample.stats import Failed, Finished, Request, Stats

_FIRST_CHUNK = 4  # model steps of the first call
_COMPILING: collections.defaultdict = collections.defaultdict(threading.Lock)  # by devices


def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    settings: mh.Settings,
    *,
    num_slots: int,
    long_context: bool = False,
    prefix_rows: int | None = None,
    on_finish: Callable[[Finished], None],
    on_fail: Callable[[Request], None] | None = None,
    on_call: Callable[[Stats], bool] | None = None,
) -> Stats:
    """Runs every request's chain to its end, calling on_finish as each one gets there.

    A chain whose logits are not finite (`mh.advance`) ends there, and the others go on.

    Args:
      lm: the model.
      prompts: token ids, by prompt_index. The longest sets the shapes, asked for or not, so that
        the part of a job that is left runs in the shapes of the whole.
      requests: the chains; those of one prompt stand together and share one prefill.
      settings: of the run.
      num_slots: chains that advance at a time.
      long_context: which longrope factors the run uses.
      prefix_rows: prompts the device's queue holds; None: `prefix_rows` of the requests.
      on_finish: called with each chain that finished.
      on_fail: called with the request of each chain whose logits were not finite.
      on_call: called with the stats so far after each call of the slots; False ends the run early.

    Returns:
      Stats of the run.
    """
    started = time.perf_counter()
    model, home = placement.module(lm, long_context), placement.home(lm)
    rows = prefix_rows or count_prefix_rows(requests, num_slots)
    feed = Feed(lm, model, prompts, requests, num_slots, rows, home)
    max_tokens = int(settings.max_new_tokens)
    window, most = shapes.first_window(max(map(len, prompts)), max_tokens)
    slots = slots_lib.init(lm.config, num_slots, window, max_tokens, settings, lm.dtype, home)
    stats, max_steps = Stats(num_slots, num_slots), _FIRST_CHUNK
    ends = _Ends(stats, started, on_finish, on_fail)
    ended, compiling = started, _COMPILING[placement.devices(lm)]
    try:
        while True:
            # --- fill the queue and call the slots; workers that start together wait for the first
            # one's compilation ---
            with compiling if stats.model_steps == 0 else contextlib.nullcontext():
                refilling = time.perf_counter()
                stats.prefill_tokens += feed.refill()
                refilled = time.perf_counter()
                queue = feed.queue()
                began = time.perf_counter()
                stats.prefill_s += refilled - refilling
                stats.host_s += (began - refilled) + (refilling - ended)
                slots, results, tally, head = slots_lib.run(
                    model, lm.variables, slots, queue, settings, np.int32(max_steps), feed.has_more
                )
            # --- hand out what the call before ended, while the device works ---
            ends.hand_out()
            # --- wait for the device, and read what it did ---
            head, tally, count, busy, position = jax.device_get(
                (head, tally, results.count, slots.busy, slots_lib.write_position(slots))
            )
            ended = time.perf_counter()
            stats.add_call(tally)
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
    stats.wall_s = time.perf_counter() - started
    return stats


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
            self._waiting.append(
                Finished(
                    request=request,
                    tokens=host.tokens[i, : host.length[i]],
                    log_p=host.log_p[i, : host.length[i]],
                    ended=bool(host.ended[i]),
                    num_forward_tokens=int(host.forward_tokens[i]),
                    num_moves=int(host.moves[i]),
                    num_accepted=int(host.accepted[i]),
                    num_rejected_early=int(host.rejected_early[i]),
                )
            )

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
