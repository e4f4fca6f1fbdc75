"""The host's side of the admission queue: prompts prefilled ahead of the slots that take them."""

import collections
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.models.cache import KVCache, cache_sharding, init_cache, write_prompts
from powerjax.sample import shapes
from powerjax.sample import slots as slots_lib
from powerjax.sample.stats import Request


def count_prefix_rows(requests: Sequence[Request], num_slots: int) -> int:
    """Prompts the device's queue must hold: it is refilled to num_slots + a batch of chains."""
    groups = collections.Counter(r.prompt_index for r in requests)
    wanted = num_slots + min(shapes.PREFILL_ROWS, num_slots)
    return min(len(groups), -(-wanted // min(groups.values())) + 1)


class Feed:
    """The host's side of the admission queue: prompts prefilled ahead of the slots."""

    def __init__(self, lm, model, prompts, requests, num_slots, rows, home):
        self._lm, self._model, self._prompts = lm, model, prompts
        self._requests, self._room = requests, max(8, 2 * num_slots)
        groups = collections.defaultdict(list)
        for number, request in enumerate(requests):
            groups[request.prompt_index].append(number)
        self._groups = collections.deque(groups.items())
        self._low = num_slots  # refill when fewer chains than this wait
        self._batch = min(shapes.PREFILL_ROWS, num_slots)
        self.prompt_bucket = shapes.prompt_bucket(max(map(len, prompts)))
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
            batches[shapes.prompt_bucket(len(ids))].append((row, ids))
            tokens += len(ids)
        for width, members in batches.items():
            # A function of the width alone, so that no neighbour changes a prompt's K/V by a bit.
            batch = min(self._batch, shapes.prefill_shape(width)[0])
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
