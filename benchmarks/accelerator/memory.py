"""What the other parts took of the device's memory, against what experiments.plan says."""

from benchmarks import shapes
from benchmarks.accelerator import decode, timing, training
from powerjax.plan import hardware, roofline
from powerjax.sample import memory


def measure(report, dry_run: bool) -> None:
    """Writes the plan's slots and bytes beside the engine's choice and the measured peaks."""
    config = shapes.TOY if dry_run else shapes.QWEN_7B
    size = decode.TOY if dry_run else decode.FULL
    device = timing.device()
    chip = find_chip(device.device_kind, (device.memory_stats() or {}).get("bytes_limit"))
    if chip is None:
        known = "h100-80gb"
        note = f"planned for {known}: experiments.plan knows no {device.device_kind}"
        chip = hardware.CHIPS[known]
    else:
        note = f"planned for {chip.name}"
    machine = hardware.Hardware(chip, 1)
    longest = size.window - size.max_new_tokens
    layout = roofline.layouts(
        config,
        machine,
        longest_prompt=longest,
        max_new_tokens=size.max_new_tokens,
        num_chains=1 << 20,
    )[0]
    lm = shapes.random_lm(config, "bfloat16")
    chosen = memory.pick_num_slots(lm, longest, size.max_new_tokens, 1 << 20)
    report.add("slots by experiments.plan", layout.num_slots, "slots", note)
    ratio = f"{chosen / max(1, layout.num_slots):.2f}x the plan's"
    report.add("slots that the engine takes here", chosen, "slots", ratio)
    loop = report.row("decode", decode.PEAK) or {"num_slots": size.num_slots[0]}
    planned = layout.weights + loop["num_slots"] * layout.slot
    _compare(report, f"decode, {loop['num_slots']} slots", planned, loop.get("value"))
    step = training.TOY if dry_run else training.FULL
    planned = roofline.training(config, machine, length=step.length, batch_size=step.rows).num_bytes
    peak = report.value("training_cublas", f"{training.PEAK}, cuBLAS alone")
    _compare(report, "LoRA step", planned, report.value("training", training.PEAK) or peak)


def find_chip(kind: str, memory_bytes: int | None) -> hardware.Chip | None:
    """Returns the chip of experiments.plan that a device is; None where no name fits.

    Among the chips whose name is in `kind`, it is the one of nearest memory.

    kind: such as "NVIDIA H100 80GB HBM3" or "TPU v5e".
    memory_bytes: the device's memory; None takes the first chip of that name.
    """
    words = kind.lower().replace("-", " ").split()
    named = [chip for chip in hardware.CHIPS.values() if chip.name.split("-")[0] in words]
    if not named or memory_bytes is None:
        return named[0] if named else None
    return min(named, key=lambda chip: abs(chip.memory_bytes - memory_bytes))


def _compare(report, what: str, planned: int, peak_gib: float | None) -> None:
    """Writes the planned bytes, and their ratio to the measured peak unless that is None."""
    note = "no peak was measured"
    if peak_gib is not None:
        note = f"{planned / 2**30 / peak_gib:.2f}x the measured {peak_gib:.4g} GiB"
    report.add(f"planned memory, {what}", planned / 2**30, "GiB", note)
