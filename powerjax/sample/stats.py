"""What an engine takes (Request), hands back (Finished, Failed), and counts (Stats)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from powerjax.sample.tallies import Tally
from powerjax.sample.traces import Trace


@dataclasses.dataclass(frozen=True)
class Request:
    """One chain to run.

    Attributes:
      prompt_index, sample_index: whose chain it is.
      key: of its randomness (uint32 [2]).
      step: the MH step of that chain whose draws the extension uses, 0 for those of an extension.
        Restart moves are drawn so, each in a slot of its own.
    """

    prompt_index: int
    sample_index: int
    key: np.ndarray
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Finished:
    """A chain that ended with its completion.

    Attributes:
      request: the chain.
      tokens: int32 [length], EOS included if `ended`.
      log_p: float32 [length], their base log-probabilities.
      ended: whether the completion ends in a stop token.
      num_forward_tokens: model steps that the chain took.
      num_moves, num_accepted, num_rejected_early: MH moves that it finished, and how.
      log_weight: float64 [], the sum of its tokens' log-weights (for power_inf: of log p); [2] with
        a proposal model, against the base's proposal and against the proposal model.
      scored: float32 [length], the tokens' log-probabilities under a model that scored them after
        they were drawn; None where no other model did.
      num_proposal_forward_tokens: tokens fed to the proposal model; None where there is none.
      trace: arrays [num_moves], where the run is traced.
    """

    request: Request
    tokens: np.ndarray
    log_p: np.ndarray
    ended: bool
    num_forward_tokens: int
    num_moves: int
    num_accepted: int
    num_rejected_early: int
    log_weight: np.ndarray
    scored: np.ndarray | None = None
    num_proposal_forward_tokens: int | None = None
    trace: Trace | None = None


@dataclasses.dataclass(frozen=True)
class Failed:
    """A chain that ended without a completion, because its logits were not finite."""

    request: Request


@dataclasses.dataclass
class Stats:
    """What a run did. A slot-step is one model step of one slot."""

    num_slots: int = 0
    slots_an_engine: int = 0  # slots of one engine, all of which a model step advances
    model_steps: int = 0
    num_forward_tokens: int = 0  # tokens fed to the model by decoding, which are busy slot-steps
    num_proposal_forward_tokens: int = 0  # tokens fed to the proposal model
    prefill_tokens: int = 0  # prompt tokens, padding left out
    tokens_proposed: int = 0  # tokens drawn in MH moves
    tokens_accepted: int = 0  # how many of them belong to accepted moves
    moves: int = 0  # MH moves finished
    moves_accepted: int = 0
    moves_rejected_early: int = 0
    num_failed: int = 0  # chains without a completion, because their logits were not finite
    stage_moves: list[int] = dataclasses.field(default_factory=list)
    stage_accepted: list[int] = dataclasses.field(default_factory=list)
    slot_steps_waiting: int = 0  # slot-steps that happened while prompts waited
    slot_steps_waiting_busy: int = 0  # how many of them moved a chain
    wall_s: float = 0.0
    first_completion_s: float | None = None  # wall time until the first chain was handed out
    host_s: float = 0.0  # wall time between two calls of the slots, prefilling left out
    prefill_s: float = 0.0  # wall time of prefilling; an accelerator prefills in its next call

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
        moves, accepted = np.asarray(tally.stage_moves), np.asarray(tally.stage_accepted)
        self.stage_moves = _sum_by_stage(self.stage_moves, moves[:reached])
        self.stage_accepted = _sum_by_stage(self.stage_accepted, accepted[:reached])

    @property
    def slot_occupancy(self) -> float | None:
        """Busy slot-steps over all slot-steps while prompts waited; None if none ever waited.

        It is near 1 by design: the loop returns to the host before it makes a step with an idle
        slot. What these returns cost is in host_s and prefill_s.
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
