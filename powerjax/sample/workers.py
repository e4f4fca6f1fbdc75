"""Several engines side by side, one thread each: on a mesh, and where one leaves cores idle.

A mesh has one engine for each of its rows, on that row's devices alone (placement.py).

XLA runs the small operations of a small model on one core of a CPU, so the embedded model is served
twice as fast by two engines of half the slots on two cores. A model whose matrices are large uses
all cores in each operation, and an accelerator is one device: both get one engine, in the caller's
thread. Who serves a chain changes nothing in it: its randomness is its own.
"""

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from powerjax.models.language_model import LM
from powerjax.sample import engine, feed, mh, placement

_SMALL_MODEL_BYTES = 32 << 20
_LEAST_SLOTS = 8  # for one engine; with fewer a step costs as much


def count_workers(lm: LM, num_slots: int) -> int:
    """Engines for this model: one, but for a small model on a CPU with cores to spare."""
    leaves = jax.tree.leaves(lm.params)
    on_one_cpu = all(
        len(x.devices()) == 1 and next(iter(x.devices())).platform == "cpu" for x in leaves
    )
    if not on_one_cpu or sum(x.nbytes for x in leaves) > _SMALL_MODEL_BYTES:
        return 1
    return max(1, min(_count_cores(), num_slots // _LEAST_SLOTS))


def _without_adapter(lm: LM) -> LM:
    """The model with its adapter merged, if its weights are few and in the adapter's precision.

    Rank 16 is a fifth of the products of layers that are 128 wide, and next to nothing in wide
    ones; a copy of the weights is nothing where they are few. Where they are of less precision
    than the adapter, merging would round it.
    """
    few = sum(x.nbytes for x in jax.tree.leaves(lm.params)) <= _SMALL_MODEL_BYTES
    return lm.merged() if few and jnp.dtype(lm.dtype).itemsize >= 4 else lm


def _count_cores() -> int:
    """Cores this process may use; macOS only knows how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[engine.Request],
    settings: mh.Settings,
    *,
    num_slots: int,
    long_context: bool = False,
    on_finish: Callable[[engine.Finished], None],
    on_fail: Callable[[engine.Request], None],
    bar,
) -> engine.Stats:
    """`engine.generate` by as many engines as pay, its callbacks in the caller's thread.

    `bar`, a tqdm bar, goes on by one with each chain that ends.

    A small model's adapter is merged into a copy of its weights (`_without_adapter`).
    """
    models = [_without_adapter(row) for row in placement.rows(lm)]
    if len(models) == 1:
        models *= count_workers(models[0], num_slots)
    count = len(models)
    options = dict(num_slots=-(-num_slots // count), long_context=long_context)

    def hand_over(end: engine.Finished | engine.Request) -> None:
        (on_finish if isinstance(end, engine.Finished) else on_fail)(end)
        bar.update()

    def show(stats: engine.Stats) -> bool:
        bar.set_postfix_str(_postfix(stats), refresh=False)
        bar.update(0)  # a log gets its line even while no chain ends
        return True

    if count == 1:
        return engine.generate(
            models[0],
            prompts,
            requests,
            settings,
            on_finish=hand_over,
            on_fail=hand_over,
            on_call=show,
            **options,
        )

    shares = _shares(requests, count)
    options["prefix_rows"] = max(
        feed.count_prefix_rows(share, options["num_slots"]) for share in shares
    )
    events: queue.SimpleQueue = queue.SimpleQueue()
    stopping, started = threading.Event(), time.perf_counter()
    latest = [engine.Stats() for _ in shares]

    def work(number: int) -> None:
        def keep(stats: engine.Stats) -> bool:
            latest[number] = dataclasses.replace(stats)
            events.put(latest[number])
            return not stopping.is_set()

        try:
            latest[number] = engine.generate(
                models[number],
                prompts,
                shares[number],
                settings,
                on_finish=events.put,
                on_fail=events.put,
                on_call=keep,
                **options,
            )
            events.put(None)
        except BaseException as error:
            events.put(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(shares))]
    for thread in threads:
        thread.start()
    running, failure = len(threads), None
    try:
        while running:
            event = events.get()
            if isinstance(event, engine.Finished | engine.Request):
                hand_over(event)
                continue
            if isinstance(event, engine.Stats):
                show(_sum(latest, started))
                continue
            running -= 1
            if event is not None:
                failure = failure or event
                stopping.set()
    finally:
        # Ctrl-C or an error in on_finish: the engines end their call, and what they finished in
        # it is handed over.
        stopping.set()
        for thread in threads:
            thread.join()
        while not events.empty():
            event = events.get()
            if isinstance(event, engine.Finished | engine.Request):
                hand_over(event)
    if failure is not None:
        raise failure
    total = _sum(latest, started)
    total.num_slots = options["num_slots"] * len(shares)
    return total


def _shares(requests: Sequence[engine.Request], count: int) -> list[list[engine.Request]]:
    """The chains dealt out, the same way every time: prompt by prompt if there are enough."""
    rank = {p: i for i, p in enumerate(dict.fromkeys(r.prompt_index for r in requests))}
    if len(rank) >= 8 * count:
        shares = [[r for r in requests if rank[r.prompt_index] % count == i] for i in range(count)]
    else:
        shares = [list(requests[i::count]) for i in range(count)]
    return [share for share in shares if share]


def _sum(parts: Sequence[engine.Stats], started: float) -> engine.Stats:
    total = sum(parts[1:], start=parts[0])
    total.wall_s = time.perf_counter() - started
    total.host_s /= len(parts)
    total.prefill_s /= len(parts)
    firsts = [p.first_completion_s for p in parts if p.first_completion_s is not None]
    total.first_completion_s = min(firsts, default=None)
    return total


def _postfix(stats: engine.Stats) -> str:
    text = f"{stats.tokens_per_s:,.0f} tok/s"
    if stats.moves:
        text += f", accepted {stats.acceptance_rate:.2f}"
    if stats.num_failed:
        text += f", {stats.num_failed} failed"
    return text
