"""The host's side of the admission queue: prompts prefilled ahead of the slots that take them."""

import collections
import functools
from collections.abc import Iterable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.models.cache import KVCache, write_prompts
from powerjax.sample import pair, shapes
from powerjax.sample import slots as slots_lib
from powerjax.sample.placement import Home
from powerjax.sample.stats import Request


def count_prefix_rows(num_slots: int) -> int:
    """How many prompts the device's queue holds.

    It is enough for num_slots chains of as many prompts and a batch of prompts more, which is what
    `Feed.refill` fills the queue up to. The number of prompts and of their chains has no part in
    it, so that jobs of other sizes run in the same compiled programs.
    """
    return num_slots + min(shapes.PREFILL_ROWS, num_slots)


class Feed:
    """The chains that wait, and the prompts that are prefilled for them.

    Args:
      model: the module, or the pair, as the engine applies it.
      variables: its weights.
      prompts: token ids, by prompt index.
      requests: the chains; those of one prompt share one prefill.
      num_slots: of the engine.
      rows: how many prompts the device holds at a time (`count_prefix_rows`).
      home: where the engine's arrays lie.
    """

    def __init__(
        self,
        model: pair.Model,
        variables: dict,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        num_slots: int,
        rows: int,
        home: Home,
    ) -> None:
        self._model, self._variables, self._prompts = model, variables, prompts
        self._requests, self._room = requests, max(8, 2 * num_slots)
        groups: dict[int, list[int]] = collections.defaultdict(list)  # prompt -> its requests
        for number, request in enumerate(requests):
            groups[request.prompt_index].append(number)
        self._groups = collections.deque(groups.items())
        self._low = num_slots  # prompts are prefilled when fewer chains than this wait
        self._batch = min(shapes.PREFILL_ROWS, num_slots)
        self.prompt_bucket = shapes.prompt_bucket(max(map(len, prompts)))
        self._prefix = pair.empty_cache(model, rows, self.prompt_bucket, home.caches)
        self._num_rows, self._free = rows, list(range(rows))
        self._uses: dict[int, int] = {}  # row -> how many chains wait for it
        self._waiting: collections.deque[tuple[int, int]] = collections.deque()  # (request, row)

    @property
    def has_more(self) -> np.bool_:
        """Whether the host holds chains that the device's queue does not."""
        return np.bool_(bool(self._groups) or len(self._waiting) > self._room)

    @property
    def is_empty(self) -> bool:
        """Whether no chain waits any more."""
        return not self._groups and not self._waiting

    def refill(self) -> int:
        """Prefills prompts until enough chains wait. Returns the number of prompt tokens."""
        batches: dict[int, list[tuple[int, Sequence[int]]]] = collections.defaultdict(list)
        tokens = 0
        while self._groups and self._free and len(self._waiting) < self._low + self._batch:
            prompt, numbers = self._groups.popleft()
            row = self._free.pop()
            self._uses[row] = len(numbers)
            self._waiting.extend((number, row) for number in numbers)
            ids = self._prompts[prompt]
            batches[shapes.prompt_bucket(len(ids))].append((row, ids))
            tokens += len(ids)
        for width, members in batches.items():
            # The shape depends on the width alone: no neighbour changes a prompt's K/V by a bit.
            batch = min(self._batch, shapes.prefill_shape(width)[0])
            for start in range(0, len(members), batch):
                self._prefill(width, batch, members[start : start + batch])
        return tokens

    def _prefill(
        self, width: int, batch: int, members: Sequence[tuple[int, Sequence[int]]]
    ) -> None:
        """Prefills (row, prompt) pairs in a batch [batch, width]."""
        ids = np.full((batch, width), -1, np.int32)
        rows = np.full(batch, self._num_rows, np.int32)  # past the end: not written
        for i, (row, prompt) in enumerate(members):
            ids[i, : len(prompt)], rows[i] = prompt, row
        self._prefix = _prefill(self._model, self._variables, self._prefix, ids, rows)

    def queue(self) -> slots_lib.Queue:
        """The first of the waiting chains, as arrays for the device."""
        entries = [self._waiting[i] for i in range(min(self._room, len(self._waiting)))]
        pad = self._room - len(entries)
        requests = [self._requests[number] for number, _ in entries]
        prompts = [self._prompts[r.prompt_index] for r in requests]

        def column(values: Iterable[int]) -> jax.Array:
            return cast(
                jax.Array, np.array([*values, *[0] * pad], np.int32)
            )  # a leaf of a jit call

        keys = np.array([r.key for r in requests], np.uint32).reshape(-1, 2)
        return slots_lib.Queue(
            prefix=self._prefix,
            prefix_row=column(row for _, row in entries),
            prompt_length=column(len(p) for p in prompts),
            prompt_last=column(p[-1] for p in prompts),
            key=cast(jax.Array, np.concatenate([keys, np.zeros((pad, 2), np.uint32)])),
            request=column(number for number, _ in entries),
            first_step=column(request.step for request in requests),
            size=cast(jax.Array, np.int32(len(entries))),
        )

    def taken(self, count: int) -> None:
        """Forgets the first `count` chains of the queue, which slots have taken.

        A prompt's row is free again once all chains of the prompt have begun.
        """
        for _ in range(count):
            _, row = self._waiting.popleft()
            self._uses[row] -= 1
            if not self._uses[row]:
                self._free.append(row)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _prefill(
    model: pair.Model, variables: dict, prefix: KVCache, tokens: jax.Array, rows: jax.Array
) -> KVCache:
    """The prefix cache with the K/V of prompts in some of its rows.

    Args:
      model: the module, or the pair (static).
      variables: its weights and adapter.
      prefix: donated.
      tokens: int32 [B,T], the prompts, -1 past their ends.
      rows: int32 [B], the rows to write; a row past the end is not written.
    """
    fresh = pair.prefill(model, variables, jnp.maximum(tokens, 0))
    is_prompt = pair.every_row(model, tokens) >= 0
    values = tuple(_finite(v, is_prompt) for v in fresh.v)
    num_rows = prefix.k[0].shape[0] // pair.cache_rows(model, 1)
    copies = pair.same_rows(model, jnp.asarray(rows), num_rows)
    # A row past the end stays past the end in each copy.
    copies = [jnp.where(rows < num_rows, copy, prefix.k[0].shape[0]) for copy in copies]
    prefix = write_prompts(prefix, jnp.concatenate(copies), fresh._replace(v=values))
    if model.mesh is None:
        return prefix
    return jax.lax.with_sharding_constraint(prefix, pair.shardings(model))


def _finite(v: jax.Array, is_prompt: jax.Array) -> jax.Array:
    """Returns values v[B,K,T,H] with NaN and infinity replaced by 0.

    If a prompt had any, its position 0 is NaN instead, so that its chains, which all see that
    position, still fail. Left in their places, such values would stay in the row of the cache after
    the prompt is gone, and spoil later chains: attention multiplies positions that a query does not
    see by zero, and zero times NaN is NaN (`slots._restore`).

    is_prompt: bool [B,T], False past a prompt's end.
    """
    fine = jnp.isfinite(v)
    fails = jnp.any(~fine & is_prompt[:, None, :, None], axis=(2, 3))  # [B,K]
    v = jnp.where(fine & is_prompt[:, None, :, None], v, 0)
    return v.at[:, :, 0].set(jnp.where(fails[..., None], jnp.nan, v[:, :, 0]))
