"""What a call of the slots did, counted on the device."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from powerjax.sample import mh


class Tally(NamedTuple):
    """What one call did, counted over all slots. int32 [] unless marked."""

    steps: Array  # model steps
    busy: Array  # slot-steps that moved a chain by a token
    waiting_slots: Array  # slot-steps that happened while prompts waited
    waiting_busy: Array  # how many of these moved a chain
    proposed: Array  # tokens drawn in MH moves
    accepted: Array  # how many of these belong to accepted moves
    rejected_early: Array  # moves rejected before their end
    stage_moves: Array  # [M], MH moves finished, by stage
    stage_accepted: Array  # [M], how many of these were accepted


def empty(max_tokens: int) -> Tally:
    """A tally of nothing, with room for M = max_tokens stages."""
    zero, stages = jnp.int32(0), jnp.zeros(max_tokens, jnp.int32)
    return Tally(*[zero] * 7, *[stages] * 2)


def added(tally: Tally, info: mh.Info, busy: Array, waiting: Array) -> Tally:
    """The tally with one model step more.

    Args:
      tally: of the call so far.
      info: of the step, of all slots.
      busy: bool [S], whether the slot served a chain in it.
      waiting: bool [], whether prompts waited.
    """
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
