"""What the states of chains were after each of their moves, written while the slots run."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from powerjax.sample import mh

KINDS = {mh.RESTART: "restart", mh.SUFFIX: "suffix", mh.BASE: "base"}  # as records name them


class Trace(NamedTuple):
    """The states of S chains after each of R moves. Arrays [S, R]; R is 0 where nothing is traced.

    A chain that has made fewer moves has zeros behind them. On the host a chain's own arrays are
    [moves].
    """

    log_p: Array | np.ndarray  # float, log p of the completion (nats)
    length: Array | np.ndarray  # int32, its tokens
    accepted: Array | np.ndarray  # bool, whether the move was accepted
    kind: Array | np.ndarray  # int32, the move's kind: mh.RESTART, mh.SUFFIX or mh.BASE


def empty(num_rows: int, num_moves: int, dtype) -> Trace:
    """A trace without moves, of `num_rows` chains with room for `num_moves` each."""
    # An array for each field: slots are donated, and no array can be donated twice.
    kinds = (dtype, jnp.int32, bool, jnp.int32)
    return Trace(*(jnp.zeros((num_rows, num_moves), kind) for kind in kinds))


def added(trace: Trace, moves: Array, chain: mh.Chain, info: mh.Info, moved: Array) -> Trace:
    """The trace with the moves that have just ended.

    Args:
      trace: of all slots.
      moves: int32 [S], how many moves each chain had made.
      chain: the chains after the step.
      info: of the step.
      moved: bool [S], whether a move of the slot ended.
    """
    num_slots, room = trace.log_p.shape
    if not room:
        return trace
    at = jnp.where(moved, moves, room)  # past the end: dropped
    inside = jnp.arange(chain.state.log_p.shape[1]) < chain.length[:, None]
    log_p = jnp.sum(jnp.where(inside, chain.state.log_p, 0), axis=1)
    values = Trace(log_p, chain.length, info.accepted, info.kind)
    rows = jnp.arange(num_slots)
    return Trace(
        *(
            jnp.asarray(old).at[rows, at].set(new, mode="drop")
            for old, new in zip(trace, values, strict=True)
        )
    )


def as_lists(trace: Trace) -> dict[str, list]:
    """One chain's trace as its record has it: four lists, with an entry for each move.

    log_p has six decimals, accepted is 0 or 1, and kind a word of `KINDS`.
    """
    return {
        "log_p": [round(float(x), 6) for x in trace.log_p],
        "length": [int(x) for x in trace.length],
        "accepted": [int(x) for x in trace.accepted],
        "kind": [KINDS[int(x)] for x in trace.kind],
    }
