"""The plan of a run as lines of text: memory, tokens and hours."""

import math
from collections.abc import Sequence

from powerjax.plan.probe import Memory, Probe
from powerjax.plan.workload import Workload, duration


def describe(
    workloads: Sequence[Workload],
    probe: Probe,
    memory: Memory,
    *,
    steps: int = 0,
    step_s: float = 0.0,
) -> list[str]:
    """Returns the lines of a plan: memory, the probe, a line per workload, and the sum.

    Args:
      workloads: what there is to draw.
      probe: what a few seconds of sampling showed.
      memory: what the run takes of one device's memory.
      steps: optimizer steps of the student; 0 leaves its line out.
      step_s: seconds per optimizer step.
    """
    num_slots = -(-probe.num_slots // memory.rows)
    at_most = _bytes(memory.weights + num_slots * memory.slot)
    free = "" if memory.free is None else f"; {_bytes(memory.free)} are free now"
    lines = [
        f"memory on each device: weights {_bytes(memory.weights)}, and {_bytes(memory.slot)} for"
        f" each of {num_slots} slots (two caches of up to {memory.positions:,} positions, logits, a"
        f" share of the queue of prompts): at most {at_most}{free}",
        f"probe: {probe.tokens_per_s:,.0f} tokens/s ({probe.num_tokens:,} tokens in"
        f" {probe.seconds:.1f} s); {_lengths(probe)}",
        f"{'still to do':28}{'chains':>9}{'forward tokens':>18}{'at most':>18}{'time':>10}",
    ]
    tokens = most = seconds = 0.0
    for work in workloads:
        longest = work.max_new_tokens
        length = longest if work.is_endless else probe.length_within(longest)
        expected, bound = work.forward_tokens(length), work.forward_tokens(longest)
        time = duration(expected / probe.tokens_per_s)
        lines.append(
            f"{work.name:28}{work.num_chains:>9,}{expected:>18,.0f}{bound:>18,.0f}{time:>10}"
        )
        tokens, most = tokens + expected, most + bound
        seconds += expected / probe.tokens_per_s
    if steps:
        count, each, time = f"{steps:,} steps", f"{step_s:.2g} s each", duration(steps * step_s)
        lines.append(f"{'student':28}{'':>9}{count:>18}{each:>18}{time:>10}")
        seconds += steps * step_s
    lines.append(f"{'in all':28}{'':>9}{tokens:>18,.0f}{most:>18,.0f}{duration(seconds):>10}")
    return lines


def _lengths(probe: Probe) -> str:
    if math.isinf(probe.mean_length):
        return "no completion ended, so all are expected to be as long as they may"
    return f"completions are expected to have {probe.mean_length:,.0f} tokens"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"
