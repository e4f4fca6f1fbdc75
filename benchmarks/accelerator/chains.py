"""Whole power-sampling chains of the Qwen2.5-0.5B shape, and how soon the first one ends."""

import time
from typing import NamedTuple

import numpy as np

from benchmarks import shapes
from benchmarks.accelerator import timing
from powerjax import sample
from powerjax.models import LM, ModelConfig

FIRST = "seconds to the first completion, nothing compiled"
RATE = "power chains"


class Size(NamedTuple):
    """Settings that both sides share. Chains have one stage, since `generate` knows no stages."""

    config: ModelConfig = shapes.QWEN_HALF_B
    num_chains: int = 128
    num_slots: int = 64
    prompt: int = 200
    alpha: float = 4.0
    num_mcmc_steps: int = 4
    max_new_tokens: int = 128


FULL = Size()
TOY = Size(shapes.TOY_TIED, num_chains=4, num_slots=2, prompt=8, num_mcmc_steps=2, max_new_tokens=8)


def prompts(size: Size) -> list[list[int]]:
    """Returns prompts of random token ids, the same for both sides."""
    shape = (size.num_chains, size.prompt)
    return np.random.default_rng(0).integers(1, size.config.vocab_size - 1, shape).tolist()


def measure(report, dry_run: bool) -> None:
    """Writes the seconds to the first completion, then chains/s with everything compiled."""
    size = TOY if dry_run else FULL
    lm = shapes.random_lm(size.config, "bfloat16")
    _write_first(report, FIRST, lm, size)
    _write_rate(report, RATE, lm, size)
    if timing.device().platform == "gpu":
        _sample(plain := shapes.with_attention(lm, "xla"), size)
        _write_rate(report, f"{RATE}, xla attention", plain, size)


def _write_rate(report, what: str, lm: LM, size: Size) -> None:
    """Writes chains/s and the time of a model step, of programs that are compiled."""
    began = time.perf_counter()
    out = _sample(lm, size)
    took = time.perf_counter() - began
    stats = out.stats
    note = (
        f"alpha {size.alpha:g}, {size.num_mcmc_steps} moves, {size.max_new_tokens} tokens,"
        f" {size.num_slots} slots; {stats.num_forward_tokens / took:,.0f} forward tokens/s,"
        f" accepted {stats.acceptance_rate:.2f}"
    )
    report.add(what, size.num_chains / took, "chains/s", note)
    ms = 1e3 * took / stats.model_steps
    note = f"{stats.model_steps} steps; {what}"
    report.add("a model step, everything included", ms, "ms", note)


def warm_start(report, dry_run: bool) -> None:
    """Writes the seconds to the first completion where an earlier process compiled the programs."""
    size = TOY if dry_run else FULL
    lm = shapes.random_lm(size.config, "bfloat16")
    cold = report.value("chains", FIRST)
    _write_first(report, "seconds to the first completion, warm cache", lm, size, cold)


def _write_first(report, what: str, lm: LM, size: Size, cold: float | None = None) -> None:
    """Writes the seconds from the start of the process to the first completion.

    They include importing, making weights, and compiling. cold: what they were with nothing
    compiled; None leaves the ratio out.
    """
    ended = []
    _sample(lm, size, on_finish=lambda completion: ended.append(time.time()))
    took = ended[0] - report.started
    note = f"{took / cold:.2f}x of nothing compiled" if cold else ""
    report.add(what, took, "s", note)


def _sample(lm: LM, size: Size, **options) -> sample.Completions:
    return sample.power(
        lm,
        prompts(size),
        alpha=size.alpha,
        num_mcmc_steps=size.num_mcmc_steps,
        block_size=size.max_new_tokens,
        max_new_tokens=size.max_new_tokens,
        num_slots=size.num_slots,
        progress=False,
        **options,
    )
