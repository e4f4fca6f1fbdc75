"""Speed of one real model on this machine's CPU, beside Hugging Face `generate`, and what holds it.

    python -m benchmarks.real_speed --model=MODEL [--reference=FOLDER] [--only=decode,parts,power]

MODEL is a folder in Hugging Face's format, a GGUF file, or "shape" for random weights of the 0.5B
shape of Qwen2.5. FOLDER is the same model for `generate`; without it, ours is measured alone.

decode: tokens per second at batches of 1, 8 and 32, from the difference of two lengths, so that
        prefill does not count; against `generate` and against the floor (`benchmarks.floor`).
parts:  one step of the largest batch, part by part: the layers' products, attention, the logits,
        and the draw over the whole vocabulary.
power:  a power run of 64 slots: tokens per second, and the share of busy slots.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import shapes
from benchmarks.accelerator import draw, timing
from benchmarks.floor import Floor
from benchmarks.lines import Lines
from powerjax import models, sample
from powerjax.models import LM
from powerjax.models.attention import attention
from powerjax.models.cache import init_cache

_MODEL = flags.DEFINE_string("model", "shape", "A folder, a GGUF file, or shape.")
_REFERENCE = flags.DEFINE_string("reference", None, "The model's folder for transformers.")
_ONLY = flags.DEFINE_list("only", ["decode", "parts", "power"], "Parts to run.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "Number formats of the model.")
_BATCHES = flags.DEFINE_list(
    "batches", ["1", "8", "32"], "Batches of decode; parts takes the last."
)
_LINES = Lines(58, 12)
PROMPT, FEW, MANY = 32, 8, 40  # tokens: of prompts, and of the two lengths of completions


def main(_) -> None:
    _LINES.begin()
    floor = Floor()
    _LINES.add("this machine", str(floor))
    ours = {}
    for dtype in _DTYPES.value:
        lm = _load(dtype)
        if "decode" in _ONLY.value:
            ours |= {(dtype, b): decode(lm, floor, b) for b in map(int, _BATCHES.value)}
        if "parts" in _ONLY.value:
            parts(lm, int(_BATCHES.value[-1]))
        if "power" in _ONLY.value:
            power(lm, dtype)
        lm = None  # frees its weights before the next is loaded
    if _REFERENCE.value is not None:
        for dtype in _DTYPES.value:
            generate(dtype, {b: s for (of, b), s in ours.items() if of == dtype})


def _load(dtype: str) -> LM:
    """Returns the model, which ends no completion, so that all have the same length."""
    if _MODEL.value == "shape":
        return shapes.random_lm(shapes.QWEN_HALF_B, dtype, "0.5B shape")
    return dataclasses.replace(models.load(_MODEL.value, dtype=dtype), stop_ids=(-1,))


def _prompts(vocab_size: int, batch: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(0, vocab_size, (batch, PROMPT)).tolist()


def decode(lm: LM, floor: Floor, batch: int) -> float:
    """Writes the tokens per second of plain sampling; returns the seconds per step."""
    prompts = _prompts(lm.config.vocab_size, batch)

    def seconds(count: int) -> float:
        run = functools.partial(
            sample.standard, lm, prompts, max_new_tokens=count, num_slots=batch, progress=False
        )
        run()  # compiles
        return min(_timed(run) for _ in range(2))

    step_s = (seconds(MANY) - seconds(FEW)) / (MANY - FEW)
    least = floor.step_s(lm.config, batch, PROMPT + MANY // 2, jnp.dtype(lm.dtype).itemsize)
    _LINES.add(
        f"decode, {jnp.dtype(lm.dtype).name}, batch {batch}, tokens/s",
        f"{batch / step_s:.1f}",
        f"{1e3 * step_s:.0f} ms per step, {least / step_s:.0%} of the floor",
    )
    return step_s


def _timed(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def generate(dtype: str, ours: dict[int, float]) -> None:
    """Writes what `generate` takes. ours: batch -> seconds per step."""
    import torch
    import transformers

    from benchmarks import hf_baseline

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        _REFERENCE.value, dtype=getattr(torch, dtype)
    ).eval()
    for batch, step_s in ours.items():
        prompts = _prompts(model.config.vocab_size, batch)
        took = [hf_baseline.decode_s(model, prompts, count) for count in (FEW, MANY)]
        theirs = (took[1] - took[0]) / (MANY - FEW)
        _LINES.add(
            f"generate, {dtype}, batch {batch}, tokens/s",
            f"{batch / theirs:.1f}",
            f"ours is {theirs / step_s:.2f}x as fast",
        )


def parts(lm: LM, batch: int) -> None:
    """Writes the milliseconds of each part of a step alone, and how near it is to the machine."""
    c, name = lm.config, f"{jnp.dtype(lm.dtype).name}, batch {batch}"
    module, variables = lm.model(), lm.variables
    length = 128
    cache = init_cache(c, batch, length, lm.dtype)
    tokens, at = jnp.ones((batch, 1), jnp.int32), jnp.full((batch, 1), PROMPT, jnp.int32)
    hidden = jnp.ones((batch, 1, c.hidden_size), lm.dtype)
    queries = jnp.ones((batch, 1, c.num_heads, c.head_dim), lm.dtype)
    layers = jax.jit(lambda v, t, p, k: module.apply(v, t, p, k)[0])
    unembed = jax.jit(lambda v, x: module.apply(v, x, method="unembed"))

    @jax.jit
    def attend(q, k):
        for i in range(c.num_layers):
            q = attention(q, k.k[i], k.v[i], at)
        return q

    numbers = shapes.matrix_numbers(lm)
    head = c.vocab_size * c.hidden_size
    work = {
        "layers, attention included": (
            lambda: layers(variables, tokens, at, cache),
            numbers - head,
        ),
        f"attention over {length} slots": (lambda: attend(queries, cache), 0),
        "logits": (lambda: unembed(variables, hidden), head),
    }
    for what, (call, weights) in work.items():
        took = timing.seconds(call, repeats=3)
        note = f"{2 * batch * weights / took / 1e9:.0f} GFLOP/s" if weights else ""
        _LINES.add(f"{what}, {name}, ms", f"{1e3 * took:.1f}", note)
    took = draw.draw_ms(c.vocab_size, batch, None, 256)
    _LINES.add(f"draw over {c.vocab_size:,} tokens, {name}, ms", f"{took:.1f}")


def power(lm: LM, dtype: str) -> None:
    """Writes the tokens per second of a power run of 64 slots and 96 chains."""
    options = dict(alpha=4.0, num_mcmc_steps=2, block_size=32, max_new_tokens=32, num_slots=64)
    prompts = _prompts(lm.config.vocab_size, 96)
    run = functools.partial(sample.power, lm, prompts, progress=False, **options)
    sample.power(lm, prompts[:64], progress=False, **options | {"num_mcmc_steps": 1})  # compiles
    began = time.perf_counter()
    stats = run().stats
    took = time.perf_counter() - began
    _LINES.add(
        f"power, {dtype}, 64 slots, 96 chains of 32 tokens, tokens/s",
        f"{stats.num_forward_tokens / took:.1f}",
        f"{1e3 * took / stats.model_steps:.0f} ms per step; slots busy while prompts wait"
        f" {stats.slot_occupancy:.0%}",
    )


if __name__ == "__main__":
    app.run(main)
