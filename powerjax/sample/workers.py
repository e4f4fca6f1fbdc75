"""Several engines side by side, a thread for each: on a mesh, and where one would leave cores idle.

A mesh has an engine for each of its rows, on that row's devices alone (`placement`).

On a CPU, XLA runs the small operations of a small model on one core. The embedded model is
therefore served twice as fast by two engines of half the slots on two cores. A model whose matrices
are large uses all cores in each operation, and an accelerator is one device: both get one engine,
in the caller's thread. Which engine serves a chain changes nothing in it, because a chain's
randomness is its own.
"""

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from powerjax.models.language_model import LM
from powerjax.sample import engine, mh, placement
from powerjax.sample.stats import Finished, Request, Stats

_SMALL_MODEL_BYTES = 32 << 20
_LEAST_SLOTS = 8  # per engine: a step of fewer slots takes as long as a step of 8


def count_workers(lm: LM, num_slots: int) -> int:
    """How many engines pay for this model on one device.

    A small model on a CPU gets an engine per core, with 8 slots or more each. Any other model gets
    one engine.
    """
    leaves = jax.tree.leaves(lm.params)
    on_one_cpu = all(
        len(x.devices()) == 1 and next(iter(x.devices())).platform == "cpu" for x in leaves
    )
    if not on_one_cpu or sum(x.nbytes for x in leaves) > _SMALL_MODEL_BYTES:
        return 1
    return max(1, min(_count_cores(), num_slots // _LEAST_SLOTS))


def _with_small_adapter_merged(lm: LM) -> LM:
    """The model, its adapter merged where the model is small and merging rounds nothing.

    The products of a rank-16 adapter are a fifth of those of layers that are 128 wide, and
    negligible in wide layers; a copy of the weights is cheap where they are few. Weights of less
    precision than the adapter's float32 would be rounded by the merge, so they keep it apart.
    """
    is_small = sum(x.nbytes for x in jax.tree.leaves(lm.params)) <= _SMALL_MODEL_BYTES
    return lm.merged() if is_small and jnp.dtype(lm.dtype).itemsize >= 4 else lm


def _count_cores() -> int:
    """The cores that this process may use; on macOS, which does not say, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    settings: mh.Settings,
    *,
    num_slots: int,
    proposal: LM | None = None,
    scorer: LM | None = None,
    on_finish: Callable[[Finished], None],
    on_fail: Callable[[Request], None],
    bar: Any,
    **options: Any,
) -> Stats:
    """Runs every request's chain to its end, on one engine or several.

    Args:
      lm, prompts, requests, settings, proposal, scorer: as for `engine.generate`.
      num_slots: slots of all engines together.
      on_finish, on_fail: as for `engine.generate`; they are called in the caller's thread.
      bar: a tqdm bar, which goes on by one with each chain that ends.
      options: whether longrope's long factors are used, and how many moves are traced, as for
        `engine.generate`.

    Returns the Stats of all engines together. One engine runs in the caller's thread, several in
    threads of their own; both ways are one screen.
    """
    others = {"proposal": proposal, "scorer": scorer}
    models = placement.rows_of_all(lm, others)
    if proposal is None:
        models = [(_with_small_adapter_merged(row), beside) for row, beside in models]
    if len(models) == 1:
        models *= count_workers(models[0][0], num_slots)
    desk = _Desk(on_finish, on_fail, bar)
    slots_per_engine = -(-num_slots // len(models))
    if len(models) == 1:
        return engine.generate(
            models[0][0],
            prompts,
            requests,
            settings,
            num_slots=slots_per_engine,
            **models[0][1],
            **options,
            on_finish=desk.hand_over,
            on_fail=desk.hand_over,
            on_call=desk.show,
        )
    shares = _shares(requests, len(models))

    def run_engine(number: int, report: "_Report") -> Stats:
        return engine.generate(
            models[number][0],
            prompts,
            shares[number],
            settings,
            num_slots=slots_per_engine,
            **models[number][1],
            **options,
            on_finish=report.put,
            on_fail=report.put,
            on_call=report.show,
        )

    total = _run_threads(len(shares), run_engine, desk)
    total.num_slots = slots_per_engine * len(shares)
    return total


class _Desk:
    """Where ended chains are handed to the caller, and the bar is drawn."""

    def __init__(
        self,
        on_finish: Callable[[Finished], None],
        on_fail: Callable[[Request], None],
        bar: Any,
    ) -> None:
        self._on_finish, self._on_fail, self._bar = on_finish, on_fail, bar

    def hand_over(self, end: Finished | Request) -> None:
        """Calls back for a chain that finished, or for the request of one that failed."""
        if isinstance(end, Finished):
            self._on_finish(end)
        else:
            self._on_fail(end)
        self._bar.update()

    def show(self, stats: Stats) -> bool:
        """Draws the bar with the stats so far; True, for the engine is to go on."""
        self._bar.set_postfix_str(_postfix(stats), refresh=False)
        self._bar.update(0)  # a log file gets its line even while no chain ends
        return True


class _Report:
    """What one engine's thread tells the caller's thread."""

    def __init__(self, events: queue.SimpleQueue, stopping: threading.Event) -> None:
        self.stats = Stats()  # as of the engine's last call of its slots
        self._events, self._stopping = events, stopping

    def put(self, end: Finished | Request) -> None:
        self._events.put(end)

    def show(self, stats: Stats) -> bool:
        """Takes the stats so far; False once the engine is to stop."""
        self.stats = dataclasses.replace(stats)
        self._events.put(self.stats)
        return not self._stopping.is_set()


def _run_threads(count: int, run_engine: Callable[[int, _Report], Stats], desk: _Desk) -> Stats:
    """Runs `run_engine(0 .. count - 1)`, each in a thread, and hands over what they report.

    The first error of an engine is raised after all engines have ended.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    stopping, started = threading.Event(), time.perf_counter()
    reports = [_Report(events, stopping) for _ in range(count)]

    def work(number: int) -> None:
        try:
            reports[number].stats = run_engine(number, reports[number])
            events.put(None)
        except BaseException as error:
            events.put(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    running, failure = count, None
    try:
        while running:
            event = events.get()
            if isinstance(event, Finished | Request):
                desk.hand_over(event)
            elif isinstance(event, Stats):
                desk.show(_sum([report.stats for report in reports], started))
            else:  # an engine has ended, with an error or with None
                running -= 1
                if event is not None:
                    failure = failure or event
                    stopping.set()
    finally:
        # After Ctrl-C or an error in on_finish the engines end the call that they are in, and what
        # they finished in it is handed over.
        stopping.set()
        for thread in threads:
            thread.join()
        while not events.empty():
            event = events.get()
            if isinstance(event, Finished | Request):
                desk.hand_over(event)
    if failure is not None:
        raise failure
    return _sum([report.stats for report in reports], started)


def _shares(requests: Sequence[Request], count: int) -> list[list[Request]]:
    """The requests dealt out to `count` engines, the same way every time; no share is empty.

    Where there are enough prompts, the chains of one prompt go to one engine, which prefills it
    once.
    """
    rank = {p: i for i, p in enumerate(dict.fromkeys(r.prompt_index for r in requests))}
    if len(rank) >= 8 * count:
        shares = [[r for r in requests if rank[r.prompt_index] % count == i] for i in range(count)]
    else:
        shares = [list(requests[i::count]) for i in range(count)]
    return [share for share in shares if share]


def _sum(parts: Sequence[Stats], started: float) -> Stats:
    """The stats of engines that run side by side since `started`."""
    total = sum(parts[1:], start=parts[0])
    total.wall_s = time.perf_counter() - started
    total.host_s /= len(parts)
    total.prefill_s /= len(parts)
    firsts = [p.first_completion_s for p in parts if p.first_completion_s is not None]
    total.first_completion_s = min(firsts, default=None)
    return total


def _postfix(stats: Stats) -> str:
    """`5,432 tok/s, accepted 0.31`: what the bar says behind its count."""
    text = f"{stats.tokens_per_s:,.0f} tok/s"
    if stats.acceptance_rate is not None:
        text += f", accepted {stats.acceptance_rate:.2f}"
    if stats.num_failed:
        text += f", {stats.num_failed} failed"
    return text
