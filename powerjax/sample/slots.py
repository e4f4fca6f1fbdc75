"""The jitted loop: S slots, each one chain, all advanced by one token per model step.

A slot that finishes its chain writes it to the results and takes the next prompt from an on-device
queue of prefilled prompts, inside the loop. One working K/V cache serves all: a proposal overwrites
its slots in place, what it overwrites goes to an undo cache, and a rejected move copies its own
length back. (Two full caches cost a copy per accepted move as well; two buffers with a selector
cost a second read of everything in every step.)

Over the "model" axis of a mesh the caches are split by kv heads and everything else is whole on
each device, so that all of them take the same decisions and speak only in the model's products:
twice a layer, for the embedding and for the logits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax.models.cache import (
    KVCache,
    cache_sharding,
    copy_row,
    init_cache,
    restore_slots,
    save_slots,
)
from powerjax.models.decoder import CausalLM
from powerjax.sample import draws, mh
from powerjax.sample.placement import Home

_RESTORE_WIDTH = 32  # slots copied back at a time


class Slots(NamedTuple):
    """State of all slots. [S] arrays: S counts chains here, not cache slots."""

    chain: mh.Chain  # every leaf with a leading [S]
    key: Array  # uint32 [S, 2], the chain's
    prompt_length: Array  # int32
    prompt_last: Array  # int32, the prompt's last token, fed to draw a completion's first
    request: Array  # int32, which request the slot serves
    busy: Array  # bool
    forward_tokens: Array  # int32, model steps this chain has used
    moves: Array  # int32, MH moves finished
    accepted: Array  # int32
    rejected_early: Array  # int32
    failed: Array  # bool, the chain met logits that are not finite
    cache: KVCache  # [S,K,W,H] a layer
    undo: KVCache


class Queue(NamedTuple):
    """Chains that wait with their prompts prefilled. [R] arrays, valid below `size`."""

    prefix: KVCache  # [Q,K,P,H] a layer: prompts
    prefix_row: Array  # int32, row of `prefix`
    prompt_length: Array  # int32
    prompt_last: Array  # int32
    key: Array  # uint32 [R, 2]
    request: Array  # int32
    size: Array  # int32 []


class Results(NamedTuple):
    """Finished chains, valid below `count`. Made anew by each call: never in a donated buffer."""

    tokens: Array  # int32 [O, M]
    log_p: Array  # [O, M]
    length: Array  # int32 [O]
    ended: Array  # bool [O]
    request: Array  # int32 [O]
    forward_tokens: Array  # int32 [O]
    moves: Array  # int32 [O]
    accepted: Array  # int32 [O]
    rejected_early: Array  # int32 [O]
    failed: Array  # bool [O], the chain ended without its completion
    count: Array  # int32 []


class Tally(NamedTuple):
    """What one call did, over all slots. int32."""

    steps: Array  # model steps
    busy: Array  # slot-steps that moved a chain
    waiting_slots: Array  # slot-steps while prompts waited
    waiting_busy: Array  # of these, the ones that moved a chain
    proposed: Array  # tokens drawn in MH moves
    accepted: Array  # of these, the ones whose move was accepted
    rejected_early: Array  # moves
    stage_moves: Array  # [M] MH moves finished, by stage
    stage_accepted: Array  # [M]


def init(
    config, num_slots: int, length: int, max_tokens: int, settings, dtype, home: Home | None = None
) -> Slots:
    """Empty slots with `length` cache slots each and room for `max_tokens` new tokens."""
    home = home or Home()
    one = mh.init(settings, max_tokens)
    # Done chains stay as they are, so an idle slot is one that is done.
    one = one._replace(done=jnp.asarray(True))
    spread = lambda x: jnp.tile(x[None], (num_slots,) + (1,) * x.ndim)  # noqa: E731
    zero = lambda: jnp.zeros(num_slots, jnp.int32)  # noqa: E731
    caches = [init_cache(config, num_slots, length, dtype, home.cache) for _ in range(2)]
    slots = Slots(
        chain=jax.tree.map(spread, one),
        key=jnp.zeros((num_slots, 2), jnp.uint32),
        prompt_length=zero() + 1,
        prompt_last=zero(),
        request=zero() - 1,
        busy=jnp.zeros(num_slots, bool),
        forward_tokens=zero(),
        moves=zero(),
        accepted=zero(),
        rejected_early=zero(),
        failed=jnp.zeros(num_slots, bool),
        cache=(),
        undo=(),
    )
    if home.rest is not None:
        slots = jax.device_put(slots, home.rest)
    return slots._replace(cache=caches[0], undo=caches[1])


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def run(
    model: CausalLM,
    variables: dict,
    slots: Slots,
    queue: Queue,
    settings: mh.Settings,
    max_steps: Array,
    more_waiting: Array,
) -> tuple[Slots, Results, Tally, Array]:
    """Advances the slots until there is something for the host to do.

    That is: max_steps are over; no chain is left; a slot idles, the queue is empty and more_waiting
    says that the host has more; or a slot needs a longer cache.

    Args:
      model: the module (static); one compilation per shape of slots and queue.
      variables: its weights, and its adapter if any (`LM.variables`).
      slots: donated.
      queue: waiting chains, taken from the front.
      settings: of the run.
      max_steps: int32 [], at most so many model steps.
      more_waiting: bool [], the host has prompts that are not in the queue.

    Returns:
      (slots, results, tally, entries taken from the queue).
    """
    num_slots, max_tokens = slots.chain.state.tokens.shape
    window = slots.cache.k[0].shape[2]
    results = _empty_results(num_slots + queue.request.shape[0], max_tokens, slots)
    zero = jnp.int32(0)
    stages = jnp.zeros(max_tokens, jnp.int32)
    tally = Tally(*([zero] * 7), stage_moves=stages, stage_accepted=stages)

    def goes_on(carry):
        slots, _, tally, head = carry
        room = jnp.all(~slots.busy | (write_position(slots) < window))
        starved = more_waiting & (head >= queue.size) & ~jnp.all(slots.busy)
        return (tally.steps < max_steps) & jnp.any(slots.busy) & room & ~starved

    def body(carry):
        slots, results, tally, head = carry
        waiting, was_busy = more_waiting | (head < queue.size), slots.busy
        slots, info = _step(model, variables, slots, settings)
        tally = _count(tally, info, was_busy, waiting)
        slots = _restore(slots, info)
        return _serve(slots, results, tally, queue, head, settings)

    carry = _serve(slots, results, tally, queue, jnp.int32(0), settings)
    slots, *rest = lax.while_loop(goes_on, body, carry)
    return _at_home(slots, model), *_whole(rest, model)


def _at_home(slots: Slots, model: CausalLM) -> Slots:
    """Over several devices: laid out as `init` does it."""
    if model.mesh is None:
        return slots
    caches = lax.with_sharding_constraint(
        (slots.cache, slots.undo), cache_sharding(model.config, model.mesh)
    )
    slots = _whole(slots._replace(cache=(), undo=()), model)
    return slots._replace(cache=caches[0], undo=caches[1])


def _whole(tree, model: CausalLM):
    """Over several devices: every array whole on each."""
    if model.mesh is None:
        return tree
    return lax.with_sharding_constraint(tree, NamedSharding(model.mesh, P()))


def write_position(slots: Slots) -> Array:
    """Where the K/V of the token to be fed are written: int32 [S]."""
    return slots.prompt_length + slots.chain.position - 1


def _step(model, variables, slots: Slots, settings: mh.Settings) -> tuple[Slots, mh.Info]:
    """One model step and one `advance` for every slot; idle slots compute and change nothing."""
    chain, position = slots.chain, write_position(slots)
    tokens = jnp.where(chain.token < 0, slots.prompt_last, chain.token)
    place = cache_sharding(model.config, model.mesh) if model.mesh is not None else None
    undo, position = save_slots(slots.undo, slots.cache, position, place)
    with jax.named_scope("model"):
        hidden, cache = model.apply(variables, tokens[:, None], position[:, None], slots.cache)
        logits = _whole(model.apply(variables, hidden[:, 0], method="unembed"), model)
    with jax.named_scope("advance"):
        uniforms = jax.vmap(lambda k, c: draws.draw(k, c, settings, logits.dtype.type))(
            slots.key, chain
        )
        chain, info = jax.vmap(mh.advance, in_axes=(0, 0, 0, None))(
            chain, logits, uniforms, settings
        )
    moved = slots.busy & info.is_proposal & info.finished
    return slots._replace(
        chain=chain,
        cache=cache,
        undo=undo,
        forward_tokens=slots.forward_tokens + slots.busy,
        moves=slots.moves + moved,
        accepted=slots.accepted + (moved & info.accepted),
        rejected_early=slots.rejected_early + (moved & info.rejected_early),
        failed=slots.busy & info.failed,
    ), info


def _restore(slots: Slots, info: mh.Info) -> Slots:
    """Gives rejected slots their old K/V back: what this move wrote, and no more.

    And failed ones, so that no NaN outlives its chain: attention multiplies values that a query
    does not see by zero, which NaN survives.
    """
    width = min(_RESTORE_WIDTH, slots.cache.k[0].shape[2])
    rejected = slots.busy & ((info.finished & ~info.accepted) | info.failed)
    first = slots.prompt_length + info.cut - 1
    last = jnp.where(rejected, slots.prompt_length + info.position - 1, -1)

    def body(carry):
        cache, first = carry
        row = jnp.argmax(first <= last)
        start = jnp.minimum(first[row], slots.cache.k[0].shape[2] - width)
        cache = restore_slots(cache, slots.undo, row, first[row], last[row], width)
        return cache, first.at[row].set(start + width)

    cache, _ = lax.while_loop(lambda c: jnp.any(c[1] <= last), body, (slots.cache, first))
    return slots._replace(cache=cache)


def _serve(slots: Slots, results: Results, tally: Tally, queue: Queue, head: Array, settings):
    """Writes finished chains to the results and gives idle slots the next of the queue."""

    def needs(slots, head):
        return (slots.busy & slots.chain.done) | (~slots.busy & (head < queue.size))

    def body(carry):
        slots, results, head = carry
        row = jnp.argmax(needs(slots, head))
        results = _collect(results, slots, row)
        entry = jnp.minimum(head, queue.request.shape[0] - 1)
        admits = head < queue.size
        return _admit(slots, row, queue, entry, admits, settings), results, head + admits

    slots, results, head = lax.while_loop(
        lambda c: jnp.any(needs(c[0], c[2])), body, (slots, results, head)
    )
    return slots, results, tally, head


def _collect(results: Results, slots: Slots, row: Array) -> Results:
    """Appends the chain of a slot to the results, where it is a finished one."""
    finished = slots.busy[row]
    chain = slots.chain
    values = dict(
        tokens=chain.state.tokens,
        log_p=chain.state.log_p,
        length=chain.length,
        ended=chain.ended,
        request=slots.request,
        forward_tokens=slots.forward_tokens,
        moves=slots.moves,
        accepted=slots.accepted,
        rejected_early=slots.rejected_early,
        failed=slots.failed,
    )
    at = jnp.where(finished, results.count, results.length.shape[0])  # past the end: dropped
    return Results(
        **{
            name: getattr(results, name).at[at].set(value[row], mode="drop")
            for name, value in values.items()
        },
        count=results.count + finished,
    )


def _admit(slots: Slots, row: Array, queue: Queue, entry: Array, admits: Array, settings) -> Slots:
    """Begins the chain of a queue entry in a slot, or leaves the slot idle."""
    fresh = mh.init(settings, slots.chain.state.tokens.shape[1], slots.chain.sum_hi.dtype)
    fresh = fresh._replace(done=~admits)
    # Only scalars are reset: tokens past the length of a state are never read.
    chain = slots.chain._replace(
        **{
            name: getattr(slots.chain, name).at[row].set(value)
            for name, value in fresh._asdict().items()
            if not isinstance(value, mh.Sequence)
        }
    )
    entry_prefix = queue.prefix_row[entry]

    def put(name, value):
        return {name: getattr(slots, name).at[row].set(value)}

    return slots._replace(
        chain=chain,
        cache=copy_row(slots.cache, row, queue.prefix, entry_prefix),
        **put("key", queue.key[entry]),
        **put("prompt_length", jnp.where(admits, queue.prompt_length[entry], 1)),
        **put("prompt_last", queue.prompt_last[entry]),
        **put("request", jnp.where(admits, queue.request[entry], -1)),
        **put("busy", admits),
        **put("forward_tokens", 0),
        **put("moves", 0),
        **put("accepted", 0),
        **put("rejected_early", 0),
        **put("failed", False),
    )


def _count(tally: Tally, info: mh.Info, busy: Array, waiting: Array) -> Tally:
    num_slots = busy.shape[0]
    num_busy = jnp.sum(busy, dtype=jnp.int32)
    moved = busy & info.is_proposal & info.finished
    accepted = moved & info.accepted
    tokens = info.position + 1 - info.cut
    total = functools.partial(jnp.sum, dtype=jnp.int32)
    return Tally(
        steps=tally.steps + 1,
        busy=tally.busy + num_busy,
        waiting_slots=tally.waiting_slots + jnp.where(waiting, num_slots, 0),
        waiting_busy=tally.waiting_busy + jnp.where(waiting, num_busy, 0),
        proposed=tally.proposed + total(busy & info.is_proposal),
        accepted=tally.accepted + total(jnp.where(accepted, tokens, 0)),
        rejected_early=tally.rejected_early + total(moved & info.rejected_early),
        stage_moves=tally.stage_moves.at[info.stage].add(moved, mode="drop"),
        stage_accepted=tally.stage_accepted.at[info.stage].add(accepted, mode="drop"),
    )


def _empty_results(room: int, max_tokens: int, slots: Slots) -> Results:
    zero = jnp.zeros(room, jnp.int32)
    return Results(
        tokens=jnp.zeros((room, max_tokens), jnp.int32),
        log_p=jnp.zeros((room, max_tokens), slots.chain.state.log_p.dtype),
        length=zero,
        ended=jnp.zeros(room, bool),
        request=zero,
        forward_tokens=zero,
        moves=zero,
        accepted=zero,
        rejected_early=zero,
        failed=jnp.zeros(room, bool),
        count=jnp.int32(0),
    )
