"""The host loop: prefill prompts into the queue, run the slots, hand finished chains out."""

import collections
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from powerjax.models.cache import (
    KVCache,
    bytes_per_token,
    cache_sharding,
    grow,
    init_cache,
    write_prompts,
)
from powerjax.models.language_model import LM
from powerjax.sample import mh, placement
from powerjax.sample import slots as slots_lib
from powerjax.sample.memory import free_bytes as _free_bytes
from powerjax.sample.stats import Failed, Finished, Request, Stats

log = logging.getLogger(__name__)

_PREFILL_ROWS = 8
_PREFILL_TOKENS = 8192  # in one prefill
_MIN_WINDOW = 256  # cache slots to begin with; doubled when a chain needs more
_FIRST_CHUNK = 4  # model steps
_CHUNK_S = 0.5  # aim for one call of the slots: how often progress shows and Ctrl-C is heard
_COMPILING = collections.defaultdict(threading.Lock)  # by devices
_MAX_SLOTS = {"cpu": 64, "gpu": 256, "tpu": 256}
_MEMORY_SHARE = 0.8  # of free device memory, for caches and logits
_STEP = 8  # slots are counted in eights: rows of a device's tile
LOGIT_ROWS = 6  # float32 [V] that a slot's draw has alive at once


def pick_num_slots(lm: LM, longest_prompt: int, max_new_tokens: int, num_chains: int) -> int:
    """Slots of all engines: for each row of the mesh as many as fit its devices' free memory.

    No more than there are chains, rounded up (`slots_for`), and no more than pays (64 on a CPU).
    """
    device, rows = placement.devices(lm)[0], placement.num_rows(lm)
    lengths = longest_prompt, max_new_tokens
    per_slot = bytes_per_slot(lm.config, lm.dtype, *lengths, device.platform, lm.mesh)
    free, fitting = _free_bytes(device), _STEP
    if free is None:
        log.warning("%s does not say how much memory it has free: %d slots", device, _STEP)
    else:
        fitting = count_fitting(free, per_slot, device.platform)
    return rows * min(fitting, slots_for(-(-num_chains // rows)))


def bytes_per_slot(
    config,
    dtype,
    longest_prompt: int,
    max_new_tokens: int,
    platform: str,
    mesh: Mesh | None = None,
) -> int:
    """What a slot takes of a device's memory.

    Two caches of its whole length, a few rows of logits, and its share of the queue of prefilled
    prompts.
    """
    tokens = 2 * (longest_prompt + max_new_tokens) + 2 * _bucket(longest_prompt)  # as _Feed's
    per_token = bytes_per_token(config, dtype, platform, mesh)
    return tokens * per_token + LOGIT_ROWS * 4 * config.vocab_size


def prefill_shape(longest_prompt: int) -> tuple[int, int]:
    """(rows, tokens) of a batch of prompts, by the longest; fewer slots get fewer rows."""
    width = _bucket(longest_prompt)
    return max(1, min(_PREFILL_ROWS, _PREFILL_TOKENS // width)), width


def count_fitting(free_bytes: int, per_slot: int, platform: str) -> int:
    """Slots of one engine that fit: a multiple of 8 from 8 up, at most what pays, at least one."""
    room = max(1, int(_MEMORY_SHARE * free_bytes) // per_slot)
    room = min(room, _MAX_SLOTS.get(platform, 256))
    return room if room < _STEP else room // _STEP * _STEP


def slots_for(num_chains: int) -> int:
    """Slots of one engine for so many chains: the next multiple of 8; 1, 2 or 4 for few chains.

    Rounded up, because each number of slots is a compilation of its own.
    """
    if num_chains <= _STEP:
        return _power_of_two(num_chains)
    return _round_up(num_chains, _STEP)


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
    feed = _Feed(lm, model, prompts, requests, num_slots, rows, home)
    longest = max(map(len, prompts))
    max_tokens = int(settings.max_new_tokens)
    window_end = max(_round_up(longest + max_tokens - 1, 32), feed.prompt_bucket)
    window = min(window_end, max(_MIN_WINDOW, _power_of_two(feed.prompt_bucket + 64)))
    slots = slots_lib.init(lm.config, num_slots, window, max_tokens, settings, lm.dtype, home)
    stats, max_steps, late = Stats(num_slots, num_slots), _FIRST_CHUNK, collections.deque()

    def deliver():
        while late:
            end = late.popleft()
            if isinstance(end, Failed):
                stats.num_failed += 1
                if on_fail is not None:
                    on_fail(end.request)
                continue
            if stats.first_completion_s is None:
                stats.first_completion_s = time.perf_counter() - started
            on_finish(end)

    ended, compiling = started, _COMPILING[placement.devices(lm)]
    try:
        while True:
            # Workers that start together wait for the first one's compilation.
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
            deliver()  # the last call's, while the device works
            head, tally, count, busy, position = jax.device_get(
                (head, tally, results.count, slots.busy, slots_lib.write_position(slots))
            )
            ended = time.perf_counter()
            _tally(stats, tally)
            late.extend(_ends(results, int(count), requests))
            feed.taken(int(head))
            stats.wall_s = ended - started
            if on_call is not None and not on_call(stats):
                break
            if not busy.any() and feed.is_empty:
                break
            length = slots.cache.k[0].shape[2]
            if np.max(position, where=busy, initial=0) >= length:
                length = min(window_end, 2 * length)
                slots = slots._replace(
                    cache=grow(slots.cache, length), undo=grow(slots.undo, length)
                )
            if tally.steps >= max_steps:  # ran its full length: aim the next one at _CHUNK_S
                aim = max_steps * _CHUNK_S / max(ended - began, 1e-3)
                max_steps = int(np.clip(aim, 1, 4 * max_steps))
    finally:
        deliver()  # whatever ended the loop: what is finished is not lost
    stats.wall_s = time.perf_counter() - started
    return stats


def count_prefix_rows(requests: Sequence[Request], num_slots: int) -> int:
    """Prompts the device's queue must hold: it is refilled to num_slots + a batch of chains."""
    groups = collections.Counter(r.prompt_index for r in requests)
    wanted = num_slots + min(_PREFILL_ROWS, num_slots)
    return min(len(groups), -(-wanted // min(groups.values())) + 1)


class _Feed:
    """The host's side of the admission queue: prompts prefilled ahead of the slots."""

    def __init__(self, lm, model, prompts, requests, num_slots, rows, home):
        self._lm, self._model, self._prompts = lm, model, prompts
        self._requests, self._room = requests, max(8, 2 * num_slots)
        groups = collections.defaultdict(list)
        for number, request in enumerate(requests):
            groups[request.prompt_index].append(number)
        self._groups = collections.deque(groups.items())
        self._low = num_slots  # refill when fewer chains than this wait
        self._batch = min(_PREFILL_ROWS, num_slots)
        self.prompt_bucket = _bucket(max(map(len, prompts)))
        self._prefix = init_cache(lm.config, rows, self.prompt_bucket, lm.dtype, home.cache)
        self._free = list(range(rows))
        self._uses = collections.Counter()  # row -> chains that wait for it
        self._waiting = collections.deque()  # (request number, row)

    @property
    def has_more(self) -> np.bool_:
        """The host holds chains that the device's queue does not."""
        return np.bool_(bool(self._groups) or len(self._waiting) > self._room)

    @property
    def is_empty(self) -> bool:
        return not self._groups and not self._waiting

    def refill(self) -> int:
        """Prefills prompts until enough chains wait; how many prompt tokens that took."""
        batches, tokens = collections.defaultdict(list), 0
        while self._groups and self._free and len(self._waiting) < self._low + self._batch:
            prompt, numbers = self._groups.popleft()
            row = self._free.pop()
            self._uses[row] = len(numbers)
            self._waiting.extend((number, row) for number in numbers)
            ids = self._prompts[prompt]
            batches[_bucket(len(ids))].append((row, ids))
            tokens += len(ids)
        for width, members in batches.items():
            # A function of the width alone, so that no neighbour changes a prompt's K/V by a bit.
            batch = min(self._batch, prefill_shape(width)[0])
            for start in range(0, len(members), batch):
                self._prefill(width, batch, members[start : start + batch])
        return tokens

    def _prefill(self, width, batch, members):
        ids = np.full((batch, width), -1, np.int32)
        rows = np.full(batch, self._prefix.k[0].shape[0], np.int32)  # past the end: dropped
        for i, (row, prompt) in enumerate(members):
            ids[i, : len(prompt)], rows[i] = prompt, row
        self._prefix = _prefill(self._model, self._lm.variables, self._prefix, ids, rows)

    def queue(self) -> slots_lib.Queue:
        """The first of the waiting chains, as the device sees them."""
        entries = [self._waiting[i] for i in range(min(self._room, len(self._waiting)))]
        pad = self._room - len(entries)
        requests = [self._requests[number] for number, _ in entries]
        prompts = [self._prompts[r.prompt_index] for r in requests]

        def column(values, dtype=np.int32):
            return np.array([*values, *[0] * pad], dtype)

        return slots_lib.Queue(
            prefix=self._prefix,
            prefix_row=column(row for _, row in entries),
            prompt_length=column(len(p) for p in prompts),
            prompt_last=column(p[-1] for p in prompts),
            key=np.concatenate(
                [
                    np.array([r.key for r in requests], np.uint32).reshape(-1, 2),
                    np.zeros((pad, 2), np.uint32),
                ]
            ),
            request=column(number for number, _ in entries),
            size=np.int32(len(entries)),
        )

    def taken(self, count: int) -> None:
        """Forgets the entries that slots took; a prompt's row is free once all its chains began."""
        for _ in range(count):
            _, row = self._waiting.popleft()
            self._uses[row] -= 1
            if not self._uses[row]:
                self._free.append(row)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _prefill(model, variables, prefix: KVCache, tokens, rows) -> KVCache:
    """K/V of prompts [B,T], -1 past their ends, written into `rows` of the prefix cache."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    fresh = model.apply(variables, jnp.maximum(tokens, 0), positions)[1]
    values = tuple(_finite(v, tokens >= 0) for v in fresh.v)
    prefix = write_prompts(prefix, rows, fresh._replace(v=values))
    if model.mesh is None:
        return prefix
    place = cache_sharding(model.config, model.mesh)
    return jax.lax.with_sharding_constraint(prefix, place)


def _finite(v: jax.Array, is_prompt: jax.Array) -> jax.Array:
    """Values v[B,K,T,H] of prompts is_prompt[B,T], with no NaN and no infinity but at position 0.

    There a NaN stands for all that the prompt had, and every token of its chains sees it. Left
    where they were, such values would outlive the prompt in its row of the cache, out of sight of
    the chains that come after it, but not without effect (`slots._restore`).
    """
    fine = jnp.isfinite(v)
    fails = jnp.any(~fine & is_prompt[:, None, :, None], axis=(2, 3))  # [B,K]
    v = jnp.where(fine & is_prompt[:, None, :, None], v, 0)
    return v.at[:, :, 0].set(jnp.where(fails[..., None], jnp.nan, v[:, :, 0]))


def _ends(results: slots_lib.Results, count: int, requests) -> list[Finished | Failed]:
    """What became of the chains that the call has ended."""
    if not count:
        return []
    host = jax.device_get(results)
    return [
        Failed(requests[host.request[i]])
        if host.failed[i]
        else Finished(
            request=requests[host.request[i]],
            tokens=host.tokens[i, : host.length[i]],
            log_p=host.log_p[i, : host.length[i]],
            ended=bool(host.ended[i]),
            num_forward_tokens=int(host.forward_tokens[i]),
            num_moves=int(host.moves[i]),
            num_accepted=int(host.accepted[i]),
            num_rejected_early=int(host.rejected_early[i]),
        )
        for i in range(count)
    ]


def _tally(stats: Stats, tally: slots_lib.Tally) -> None:
    stats.model_steps += int(tally.steps)
    stats.num_forward_tokens += int(tally.busy)
    stats.slot_steps_waiting += int(tally.waiting_slots)
    stats.slot_steps_waiting_busy += int(tally.waiting_busy)
    stats.tokens_proposed += int(tally.proposed)
    stats.tokens_accepted += int(tally.accepted)
    stats.moves_rejected_early += int(tally.rejected_early)
    stats.moves += int(tally.stage_moves.sum())
    stats.moves_accepted += int(tally.stage_accepted.sum())
    for name in ("stage_moves", "stage_accepted"):
        new = getattr(tally, name)[: int(np.max(np.nonzero(tally.stage_moves)[0], initial=-1)) + 1]
        old = np.array(getattr(stats, name), int)
        width = max(len(new), len(old))
        total = np.pad(old, (0, width - len(old))) + np.pad(new, (0, width - len(new)))
        setattr(stats, name, total.tolist())


def _bucket(length: int) -> int:
    return max(16, _power_of_two(length))


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
