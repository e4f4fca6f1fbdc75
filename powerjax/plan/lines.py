"""The plan of a run as lines of text: memory, tokens and hours."""

import math
from collections.abc import Sequence

from powerjax.plan.probe import Memory, Probe
from powerjax.plan.workload import Stage, duration


def describe(
    stages: Sequence[Stage],
    probe: Probe,
    found: Memory,
    *,
    steps: int = 0,
    step_s: float = 0.0,
) -> list[str]:
    """The plan's lines: memory, a line a stage, and the whole."""
    num_slots = -(-probe.num_slots // found.rows)
    size = _bytes(found.weights + num_slots * found.slot)
    lines = [
        f"memory on each device: weights {_bytes(found.weights)}, and {_bytes(found.slot)} for each"
        f" of {num_slots} slots (two caches of up to {found.positions:,} positions, logits, a share"
        f" of the queue of prompts):"
        f" at most {size}" + ("" if found.free is None else f"; {_bytes(found.free)} are free now"),
        f"probe: {probe.tokens_per_s:,.0f} tokens/s ({probe.num_tokens:,} tokens in"
        f" {probe.seconds:.1f} s); " + _lengths(probe),
        f"{'still to do':28}{'chains':>9}{'forward tokens':>18}{'at most':>18}{'time':>10}",
    ]
    total = most = whole = 0.0
    for stage in stages:
        most_tokens = stage.max_new_tokens
        length = most_tokens if stage.endless else probe.length_within(most_tokens)
        expected, longest = map(stage.forward_tokens, (length, most_tokens))
        took = expected / probe.tokens_per_s
        tokens = f"{expected:>18,.0f}{longest:>18,.0f}"
        lines.append(f"{stage.name:28}{stage.num_chains:>9,}{tokens}{duration(took):>10}")
        total, most, whole = total + expected, most + longest, whole + took
    if steps:
        took, each = steps * step_s, f"{step_s:.2g} s each"
        lines.append(f"{'student':28}{'':>9}{f'{steps:,} steps':>18}{each:>18}{duration(took):>10}")
        whole += took
    lines.append(f"{'in all':28}{'':>9}{total:>18,.0f}{most:>18,.0f}{duration(whole):>10}")
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
