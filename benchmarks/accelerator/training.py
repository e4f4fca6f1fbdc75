"""The LoRA step at the Qwen2.5-7B shape: the paper's batch, one row at a time."""

import time
from typing import NamedTuple

from benchmarks import shapes
from benchmarks.accelerator import card, timing
from benchmarks.lora_steps import Ours
from benchmarks.shapes import with_attention
from powerjax.models import LM, ModelConfig


class Size(NamedTuple):
    """The model, and a batch of `rows` rows of `length` tokens each."""

    config: ModelConfig = shapes.QWEN_7B
    rows: int = 8
    length: int = 1024


FULL = Size()
TOY = Size(shapes.TOY, rows=2, length=32)
STEP = "LoRA step"
PEAK = "peak memory of the step"


def measure(report, dry_run: bool) -> None:
    """Writes tokens/s, the share of the matmul rate, and the peak memory, for two attentions.

    cudnn's comes first, because it compiles in less time.
    """
    size = TOY if dry_run else FULL
    lm = shapes.random_lm(size.config, "bfloat16")
    if timing.device().platform == "gpu":
        _measure(report, with_attention(lm, "cudnn"), size, f"{STEP}, cudnn attention")
    else:
        report.skip(f"{STEP}, cudnn attention", "cudnn needs an NVIDIA GPU")
    _measure(report, lm, size, STEP)


def measure_cublas(report, dry_run: bool) -> None:
    """Writes the same for XLA's attention, where XLA has the products of cuBLAS alone."""
    size = TOY if dry_run else FULL
    _measure(report, shapes.random_lm(size.config, "bfloat16"), size, f"{STEP}, cuBLAS alone")


def _measure(report, lm: LM, size: Size, what: str) -> None:
    """Writes the rows of one step. what: the name of the first."""
    step = Ours(lm, (size.rows, 1, size.length))
    began = time.perf_counter()
    step()
    first_s = time.perf_counter() - began
    took = timing.seconds(step, repeats=1)
    note = f"recomputation, dropout 0.05; the first step, with compiling, took {first_s:.0f} s"
    add_rate(report, took, size, note, what)
    flops = model_flops(lm, size)
    rate = report.value("card", card.MATMUL)
    if rate is None:
        report.skip("model FLOP utilisation", "no matmul rate to compare with")
    else:
        note = f"{flops / took / 1e12:.4g} TFLOP/s over the measured matmul rate; {what}"
        report.add("model FLOP utilisation", 100 * flops / took / (1e12 * rate), "%", note)
    timing.add_peak(report, what.replace(STEP, PEAK))


def add_rate(report, took: float, size: Size, note: str, name: str = STEP) -> None:
    """Writes the tokens per second of a step. took: its seconds; name: the row's."""
    tokens = size.rows * size.length
    what = f"{size.rows} x {size.length:,}"
    report.add(name, tokens / took, "tokens/s", f"{what}, {took:.3g} s; {note}", seconds=took)


def model_flops(lm: LM, size: Size) -> float:
    """Returns the operations of one step, without recomputation.

    Each weight of the matrices takes 2 operations per token forward and 2 backward, since frozen
    weights have no gradient. Causal attention takes 2 T N H operations per layer and token forward,
    and twice that backward.
    """
    c, tokens = lm.config, size.rows * size.length
    attention = 6 * c.num_layers * size.length * c.num_heads * c.head_dim
    return tokens * (4 * shapes.matrix_numbers(lm) + attention)
