"""The jitted loop: S slots, each one chain, all advanced by one token per model step.

A slot is a row of the batch. A slot that finishes its chain writes it to the results and takes the
next chain from an on-device queue of prefilled prompts, inside the loop.

All slots share one working K/V cache. A proposal overwrites its part of it in place; what it
overwrites goes to an undo cache, and a rejected move copies back as much as it overwrote. (Two full
caches would cost a copy for each accepted move as well; two buffers with a selector would cost a
second read of everything in each step.)

Over the "model" axis of a mesh the caches are split by kv heads, and each device holds everything
else whole. All devices then take the same decisions, and they exchange data only in the model's own
products: twice per layer, for the embedding, and for the logits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from powerjax.models.cache import KVCache, copy_row, restore_slots
from powerjax.sample import draws, mh, pair, tallies, traces
from powerjax.sample.placement import Home
from powerjax.sample.tallies import Tally
from powerjax.sample.traces import Trace

_RESTORE_WIDTH = 32  # cache slots copied back at a time
_NO_CACHE = KVCache((), ())


class Slots(NamedTuple):
    """The state of all slots. Arrays are [S] unless marked: S is the number of slots here."""

    chain: mh.Chain  # every leaf has a leading axis [S]
    key: Array  # uint32 [S, 2], the key of the chain's randomness
    prompt_length: Array  # int32
    prompt_last: Array  # int32, the prompt's last token, which is fed to draw the first new one
    request: Array  # int32, the number of the request that the slot serves; -1: none
    first_step: Array  # int32, the MH step whose draws the extension uses, 0 for its own
    busy: Array  # bool, whether the slot serves a chain
    forward_tokens: Array  # int32, model steps that this chain has used
    moves: Array  # int32, MH moves that this chain has finished
    accepted: Array  # int32, how many of them were accepted
    rejected_early: Array  # int32, how many were rejected before their end
    failed: Array  # bool, whether the chain met logits that are not finite
    trace: Trace
    cache: KVCache  # [S,K,W,H] per layer, W cache slots; with a proposal model see `pair`
    undo: KVCache  # what the move under way has overwritten in `cache`


class Queue(NamedTuple):
    """Chains that wait, prompts prefilled. Arrays are [R] unless marked, valid below `size`."""

    prefix: KVCache  # [Q,K,P,H] per layer: Q prompts of at most P tokens
    prefix_row: Array  # int32, the row of `prefix` that holds the chain's prompt
    prompt_length: Array  # int32
    prompt_last: Array  # int32
    key: Array  # uint32 [R, 2]
    request: Array  # int32
    first_step: Array  # int32, see `Slots`
    size: Array  # int32 []


class Results(NamedTuple):
    """Chains that ended in a call, valid below `size`. Each call makes new arrays for them."""

    tokens: Array  # int32 [O, M]
    log_p: Array  # [O, M]
    length: Array  # int32 [O]
    sum_hi: Array  # [O], or [O, 2] with a proposal model: sum_hi + sum_lo is the completion's sum
    sum_lo: Array  # of log-weights (for power_inf: of log p)
    ended: Array  # bool [O], whether the completion ends in a stop token
    request: Array  # int32 [O]
    forward_tokens: Array  # int32 [O]
    moves: Array  # int32 [O]
    accepted: Array  # int32 [O]
    rejected_early: Array  # int32 [O]
    failed: Array  # bool [O], whether the chain ended without a completion
    trace: Trace  # [O, R]
    size: Array  # int32 []


def init(
    model: pair.Model,
    num_slots: int,
    length: int,
    max_tokens: int,
    settings: mh.Settings,
    home: Home | None = None,
    trace: int = 0,
) -> Slots:
    """Idle slots.

    Args:
      model: the module, or the pair.
      num_slots: S.
      length: W, cache slots of each slot.
      max_tokens: M, room for new tokens.
      settings: of the run.
      home: where the arrays lie; None: on JAX's default device.
      trace: R, how many moves of a chain are traced.
    """
    home = home or Home()
    one = mh.init(settings, max_tokens)
    # Done chains stay as they are, so an idle slot is one that is done.
    one = one._replace(done=jnp.asarray(True))
    spread = lambda x: jnp.tile(x[None], (num_slots,) + (1,) * x.ndim)  # noqa: E731
    zero = lambda: jnp.zeros(num_slots, jnp.int32)  # noqa: E731
    caches = [pair.empty_cache(model, num_slots, length, home.caches) for _ in range(2)]
    slots = Slots(
        chain=jax.tree.map(spread, one),
        key=jnp.zeros((num_slots, 2), jnp.uint32),
        prompt_length=zero() + 1,
        prompt_last=zero(),
        request=zero() - 1,
        first_step=zero(),
        busy=jnp.zeros(num_slots, bool),
        forward_tokens=zero(),
        moves=zero(),
        accepted=zero(),
        rejected_early=zero(),
        failed=jnp.zeros(num_slots, bool),
        trace=traces.empty(num_slots, trace, one.sum_hi.dtype),
        cache=_NO_CACHE,
        undo=_NO_CACHE,
    )
    if home.rest is not None:
        slots = jax.device_put(slots, home.rest)
    return slots._replace(cache=caches[0], undo=caches[1])


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def run(
    model: pair.Model,
    variables: dict,
    slots: Slots,
    queue: Queue,
    settings: mh.Settings,
    max_steps: Array,
    more_waiting: Array,
) -> tuple[Slots, Results, Tally, Array]:
    """Advances the slots until there is something for the host to do.

    That is the case when max_steps are over, when no chain is left, when a slot needs a longer
    cache, and when a slot idles with the queue empty and more_waiting True.

    Args:
      model: the module, or the pair (static); one compilation per shape of slots and queue.
      variables: its weights, and its adapter if any (`LM.variables`).
      slots: donated.
      queue: waiting chains, taken from the front.
      settings: of the run.
      max_steps: int32 [], the most model steps that this call may take.
      more_waiting: bool [], whether the host has prompts that are not in the queue.

    Returns:
      (slots, results, tally, entries taken from the queue).
    """
    num_slots, max_tokens = slots.chain.state.tokens.shape
    window = slots.cache.k[0].shape[2]
    results = _empty_results(num_slots + queue.request.shape[0], max_tokens, slots)
    tally = tallies.empty(max_tokens)

    def goes_on(carry):
        slots, _, tally, head = carry
        room = jnp.all(~slots.busy | (write_position(slots) < window))
        starved = more_waiting & (head >= queue.size) & ~jnp.all(slots.busy)
        return (tally.steps < max_steps) & jnp.any(slots.busy) & room & ~starved

    def body(carry):
        slots, results, tally, head = carry
        waiting, was_busy = more_waiting | (head < queue.size), slots.busy
        slots, info = _step(model, variables, slots, settings)
        tally = tallies.added(tally, info, was_busy, waiting)
        slots = _restore(model, slots, info)
        return _serve(model, slots, results, tally, queue, head, settings)

    carry = _serve(model, slots, results, tally, queue, jnp.int32(0), settings)
    slots, *rest = lax.while_loop(goes_on, body, carry)
    return _at_home(slots, model), *pair.whole(rest, model.mesh)


def _at_home(slots: Slots, model: pair.Model) -> Slots:
    """The slots laid out over the devices as `init` lays them out."""
    if model.mesh is None:
        return slots
    places = pair.shardings(model)
    caches = lax.with_sharding_constraint((slots.cache, slots.undo), (places, places))
    slots = pair.whole(slots._replace(cache=_NO_CACHE, undo=_NO_CACHE), model.mesh)
    return slots._replace(cache=caches[0], undo=caches[1])


def write_position(slots: Slots) -> Array:
    """The cache slot in which the K/V of the next fed token are written: int32 [S]."""
    return slots.prompt_length + slots.chain.position - 1


def _step(model, variables, slots: Slots, settings: mh.Settings) -> tuple[Slots, mh.Info]:
    """One model step and one `advance` for every slot; idle slots compute and change nothing."""
    chain, position = slots.chain, write_position(slots)
    tokens = jnp.where(chain.token < 0, slots.prompt_last, chain.token)
    position = pair.every_row(model, position)
    undo, position = pair.save(model, slots.undo, slots.cache, position)
    with jax.named_scope("model"):
        logits, proposal_logits, cache = pair.decode(
            model, variables, tokens, position, slots.cache
        )
    with jax.named_scope("advance"):
        # A draw of step i of a chain is the extension of a chain of its own, with i's randomness.
        steps = chain._replace(step=chain.step + slots.first_step)
        uniforms = jax.vmap(lambda k, c: draws.draw(k, c, settings, logits.dtype.type))(
            slots.key, steps
        )
        chain, info = jax.vmap(mh.advance, in_axes=(0, 0, 0, None, 0))(
            chain, logits, uniforms, settings, proposal_logits
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
        trace=traces.added(slots.trace, slots.moves, chain, info, moved),
    ), info


def _restore(model: pair.Model, slots: Slots, info: mh.Info) -> Slots:
    """Gives slots whose move was rejected their old K/V back, as far as it overwrote them.

    Slots of failed chains get theirs back too, so that no NaN outlives its chain: attention
    multiplies the values that a query does not see by zero, and zero times NaN is NaN.
    """
    width = min(_RESTORE_WIDTH, slots.cache.k[0].shape[2])
    rejected = slots.busy & ((info.finished & ~info.accepted) | info.failed)
    first = slots.prompt_length + info.cut - 1
    last = jnp.where(rejected, slots.prompt_length + info.position - 1, -1)
    first, last = pair.every_row(model, first), pair.every_row(model, last)

    def body(carry):
        cache, first = carry
        row = jnp.argmax(first <= last)
        start = jnp.minimum(first[row], slots.cache.k[0].shape[2] - width)
        cache = restore_slots(cache, slots.undo, row, first[row], last[row], width)
        return cache, first.at[row].set(start + width)

    cache, _ = lax.while_loop(lambda c: jnp.any(c[1] <= last), body, (slots.cache, first))
    return slots._replace(cache=cache)


def _serve(
    model: pair.Model,
    slots: Slots,
    results: Results,
    tally: Tally,
    queue: Queue,
    head: Array,
    settings: mh.Settings,
) -> tuple[Slots, Results, Tally, Array]:
    """Writes chains that are done to the results, and gives idle slots the queue's next chains."""

    def needs(slots, head):
        return (slots.busy & slots.chain.done) | (~slots.busy & (head < queue.size))

    def body(carry):
        slots, results, head = carry
        row = jnp.argmax(needs(slots, head))
        results = _collect(results, slots, row)
        entry = jnp.minimum(head, queue.request.shape[0] - 1)
        admits = head < queue.size
        slots = _admit(model, slots, row, queue, entry, admits, settings)
        return slots, results, head + admits

    slots, results, head = lax.while_loop(
        lambda c: jnp.any(needs(c[0], c[2])), body, (slots, results, head)
    )
    return slots, results, tally, head


def _collect(results: Results, slots: Slots, row: Array) -> Results:
    """Appends a slot's chain to the results if the slot is busy, and so its chain done."""
    finished = slots.busy[row]
    chain = slots.chain
    names = ("request", "forward_tokens", "moves", "accepted", "rejected_early", "failed", "trace")
    values = {name: getattr(slots, name) for name in names}
    values |= {"tokens": chain.state.tokens, "log_p": chain.state.log_p}
    last = jnp.maximum(chain.length[row] - 1, 0)
    sums = {"sum_hi": chain.state.cum_hi, "sum_lo": chain.state.cum_lo}
    values |= {"length": chain.length, "ended": chain.ended}
    at = jnp.where(finished, results.size, results.length.shape[0])  # past the end: dropped
    rows = {name: jax.tree.map(lambda x: x[row], value) for name, value in values.items()}
    rows |= {name: value[row, last] for name, value in sums.items()}
    put = lambda old, new: old.at[at].set(new, mode="drop")  # noqa: E731
    return Results(
        **{name: jax.tree.map(put, getattr(results, name), new) for name, new in rows.items()},
        size=results.size + finished,
    )


def _admit(
    model: pair.Model,
    slots: Slots,
    row: Array,
    queue: Queue,
    entry: Array,
    admits: Array,
    settings: mh.Settings,
) -> Slots:
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
    num_slots = slots.busy.shape[0]
    num_prompts = queue.prefix.k[0].shape[0] // pair.cache_rows(model, 1)
    cache = slots.cache
    for to, source in zip(
        pair.same_rows(model, row, num_slots),
        pair.same_rows(model, queue.prefix_row[entry], num_prompts),
        strict=True,
    ):
        cache = copy_row(cache, to, queue.prefix, source)

    def put(name, value):
        return {name: getattr(slots, name).at[row].set(value)}

    return slots._replace(
        chain=chain,
        cache=cache,
        **put("key", queue.key[entry]),
        **put("prompt_length", jnp.where(admits, queue.prompt_length[entry], 1)),
        **put("prompt_last", queue.prompt_last[entry]),
        **put("request", jnp.where(admits, queue.request[entry], -1)),
        **put("first_step", queue.first_step[entry]),
        **put("busy", admits),
        **put("forward_tokens", 0),
        **put("moves", 0),
        **put("accepted", 0),
        **put("rejected_early", 0),
        **put("failed", False),
    )


def _empty_results(room: int, max_tokens: int, slots: Slots) -> Results:
    zero = jnp.zeros(room, jnp.int32)
    return Results(
        tokens=jnp.zeros((room, max_tokens), jnp.int32),
        log_p=jnp.zeros((room, max_tokens), slots.chain.state.log_p.dtype),
        length=zero,
        sum_hi=jnp.zeros((room, *slots.chain.sum_hi.shape[1:]), slots.chain.sum_hi.dtype),
        sum_lo=jnp.zeros((room, *slots.chain.sum_lo.shape[1:]), slots.chain.sum_lo.dtype),
        ended=jnp.zeros(room, bool),
        request=zero,
        forward_tokens=zero,
        moves=zero,
        accepted=zero,
        rejected_early=zero,
        failed=jnp.zeros(room, bool),
        trace=traces.empty(room, slots.trace.log_p.shape[1], slots.trace.log_p.dtype),
        size=jnp.int32(0),
    )
