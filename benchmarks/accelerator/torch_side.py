"""The same work by torch on the same card: Hugging Face `generate`, and PEFT's training step.

Each part runs in a process in which JAX has only the CPU, so that torch has the card.
"""

import importlib.util
import time

import numpy as np

from benchmarks import shapes
from benchmarks.accelerator import chains as our_chains
from benchmarks.accelerator import decode
from benchmarks.accelerator import training as our_training
from benchmarks.lora_steps import Peft

MISSING = "{} is not installed here"


def generate(report, dry_run: bool) -> None:
    """Writes milliseconds per step of `generate` without prefill, at batches of 1, 16 and 64."""
    if not _has_torch(report, "generate"):
        return
    from benchmarks import hf_baseline

    size = decode.TOY if dry_run else decode.FULL
    model = _model(shapes.TOY if dry_run else shapes.QWEN_7B)
    short, long = size.fills
    batches = (1, *reversed(size.num_slots))
    # The long context is measured at one batch, because prefilling takes most of its time.
    for batch, fill in [*((batch, short) for batch in batches), (size.num_slots[1], long)]:
        few, many = size.steps // 8, size.steps // 2 + size.steps // 8
        prompt = np.random.default_rng(0).integers(1, model.config.vocab_size - 1, (batch, fill))
        what = f"generate, a step, batch {batch} at {fill}"
        took = [hf_baseline.decode_s(model, prompt.tolist(), n) for n in (few, many)]
        ms = 1e3 * (took[1] - took[0]) / (many - few)
        if ms <= 0:  # other processes took the host's time; a card's steps are far longer than that
            report.skip(what, f"{many} tokens took no longer than {few} on this busy machine")
            continue
        names = (decode.step_name(batch, fill, kernel) for kernel in ("triton", "xla"))
        ours = next(filter(None, (report.value("decode", name) for name in names)), None)
        ratio = f"; {ms / ours:.2f}x our step of as many slots" if ours else ""
        report.add(what, ms, "ms", f"{1e3 * batch / ms:,.0f} tokens/s{ratio}")


def chains(report, dry_run: bool) -> None:
    """Writes chains/s of one `generate` call per proposal, all slots' chains in lock-step."""
    if not _has_torch(report, "chains by generate"):
        return
    from benchmarks import hf_baseline

    size = our_chains.TOY if dry_run else our_chains.FULL
    hf = hf_baseline.HuggingFace(_model(size.config), stop_id=size.config.vocab_size - 1)
    prompts = our_chains.prompts(size)
    options = dict(
        alpha=size.alpha, num_mcmc_steps=size.num_mcmc_steps, max_new_tokens=size.max_new_tokens
    )
    ours = report.value("chains", our_chains.RATE)
    batch = size.num_slots
    rate = hf_baseline.chains_per_s(hf, prompts[:batch], batch, **options)
    note = f"ours are {ours / rate:.1f}x as many" if ours else ""
    report.add(f"chains by generate, {batch} in lock-step", rate, "chains/s", note)


def training(report, dry_run: bool) -> None:
    """Writes tokens/s of the step of transformers, peft and torch's AdamW."""
    if not _has_torch(report, our_training.STEP):
        return
    if importlib.util.find_spec("peft") is None:
        report.skip(our_training.STEP, MISSING.format("peft"))
        return
    import torch

    size = our_training.TOY if dry_run else our_training.FULL
    step = Peft(_model(size.config), (size.rows, 1, size.length))
    took = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    seconds = min(took[1:])
    ours = report.value("training_cublas", f"{our_training.STEP}, cuBLAS alone")
    ratio = ""
    if ours:
        ratio = f"; ours is {ours * seconds / (size.rows * size.length):.2f}x as fast"
    our_training.add_rate(report, seconds, size, f"PEFT + torch, recomputation{ratio}")
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
        report.add(our_training.PEAK, peak, "GiB", "torch's own count")


def _has_torch(report, what: str) -> bool:
    """Returns whether torch is installed; writes that `what` was not measured if it is not."""
    is_installed = importlib.util.find_spec("torch") is not None
    if not is_installed:
        report.skip(what, MISSING.format("torch"))
    return is_installed


def _model(config):
    """Returns the shape in torch with random bfloat16 weights, on the card if there is one."""
    import torch

    from benchmarks import hf_baseline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    return hf_baseline.random_model(config, "bfloat16", device)
