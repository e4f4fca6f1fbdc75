"""What an engine is asked for, what it hands back, and what it counts on the way."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from powerjax.sample.slots import Tally


@dataclasses.dataclass(frozen=True)
class Request:
    """One chain to run: tokens of its prompt, and the key of its randomness (uint32 [2])."""

    prompt_index: int
    sample_index: int
    key: np.ndarray


@dataclasses.dataclass(frozen=True)
class Finished:
    """One chain's end. tokens int32 [length], EOS included if `ended`; log_p float32 [length]."""

    request: Request
    tokens: np.ndarray
    log_p: np.ndarray
    ended: bool
    num_forward_tokens: int
    num_moves: int
    num_accepted: int
    num_rejected_early: int


@dataclasses.dataclass(frozen=True)
class Failed:
    """A chain that ended without a completion, because its logits were not finite."""

    request: Request


@dataclasses.dataclass
class Stats:
    """What a run did. Counts are of tokens unless named otherwise."""

    num_slots: int = 0
    slots_an_engine: int = 0  # of these; a model step moves so many
    model_steps: int = 0
    num_forward_tokens: int = 0  # tokens fed to the model by decoding: busy slot-steps
    prefill_tokens: int = 0  # prompt tokens, padding left out
    tokens_proposed: int = 0  # drawn in MH moves
    tokens_accepted: int = 0
    moves: int = 0
    moves_accepted: int = 0
    moves_rejected_early: int = 0
    num_failed: int = 0  # chains whose logits were not finite; they have no completion
    stage_moves: list[int] = dataclasses.field(default_factory=list)
    stage_accepted: list[int] = dataclasses.field(default_factory=list)
    slot_steps_waiting: int = 0  # slot-steps while prompts waited, and the busy ones of them
    slot_steps_waiting_busy: int = 0
    wall_s: float = 0.0
    first_completion_s: float | None = None
    # Wall time in which no call of the slots was under way: host_s, and prefill_s for prefilling,
    # which a CPU computes and an accelerator is only given before its next call.
    host_s: float = 0.0
    prefill_s: float = 0.0

    def add_call(self, tally: Tally) -> None:
        """Adds what one call of the slots did."""
        self.model_steps += int(tally.steps)
        self.num_forward_tokens += int(tally.busy)
        self.slot_steps_waiting += int(tally.waiting_slots)
        self.slot_steps_waiting_busy += int(tally.waiting_busy)
        self.tokens_proposed += int(tally.proposed)
        self.tokens_accepted += int(tally.accepted)
        self.moves_rejected_early += int(tally.rejected_early)
        self.moves += int(tally.stage_moves.sum())
        self.moves_accepted += int(tally.stage_accepted.sum())
        reached = int(np.max(np.nonzero(tally.stage_moves)[0], initial=-1)) + 1
        self.stage_moves = _sum_by_stage(self.stage_moves, tally.stage_moves[:reached])
        self.stage_accepted = _sum_by_stage(self.stage_accepted, tally.stage_accepted[:reached])

    @property
    def slot_occupancy(self) -> float | None:
        """Busy slot-steps over all slot-steps while prompts waited; None if none ever waited.

        Near 1 by design: the loop goes back to the host rather than step with an idle slot. What
        that costs is in host_s and prefill_s.
        """
        if not self.slot_steps_waiting:
            return None
        return self.slot_steps_waiting_busy / self.slot_steps_waiting

    @property
    def acceptance_by_stage(self) -> list[float]:
        """Accepted over finished MH moves, stage by stage."""
        return [a / m for a, m in zip(self.stage_accepted, self.stage_moves, strict=True) if m]

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over finished MH moves; None where there were none."""
        return self.moves_accepted / self.moves if self.moves else None

    @property
    def tokens_per_s(self) -> float:
        """Forward tokens per second of wall time, compilation included."""
        return self.num_forward_tokens / self.wall_s if self.wall_s else 0.0

    def __add__(self, other: "Stats") -> "Stats":
        total = Stats()
        for field in dataclasses.fields(Stats):
            a, b = getattr(self, field.name), getattr(other, field.name)
            if isinstance(a, list):
                setattr(total, field.name, _sum_by_stage(a, b))
            elif field.name == "first_completion_s":
                total.first_completion_s = a if a is not None else b
            elif field.name in ("num_slots", "slots_an_engine"):
                setattr(total, field.name, max(a, b))
            else:
                setattr(total, field.name, a + b)
        return total


def _sum_by_stage(a: Sequence[int], b: Sequence[int] | np.ndarray) -> list[int]:
    """Counts by stage added up; the shorter list counts zero for the stages that it lacks."""
    width = max(len(a), len(b))
    padded = [np.pad(np.array(x, int), (0, width - len(x))) for x in (a, b)]
    return (padded[0] + padded[1]).tolist()
