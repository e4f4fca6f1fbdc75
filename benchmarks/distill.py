"""Speed of the training step and of adapters, as ratios measured side by side in one run.

    python -m benchmarks.distill [--only=a,b,c,d]

(a) tokens per second of the step against PEFT + torch, for a Qwen2 of 25 M parameters with the same
    rows and settings. Our step accumulates as `batches.grid` divides the batch, theirs in whichever
    way is fastest. Needs torch and peft.
(b) step time against sequence length.
(c) what dropout and recomputation cost and save.
(d) what an adapter costs in sampling, merged and not.

It takes about twenty minutes on two cores. benchmarks/tpu_compile.py says what fits which chip.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import shapes
from benchmarks.lines import Lines
from benchmarks.lora_steps import Ours, Peft
from powerjax import models, sample
from powerjax.distill import batches
from powerjax.models import checkpoint, lora
from powerjax.sample import workers

_ONLY = flags.DEFINE_list("only", list("abcd"), "Parts to run.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Passes; the median counts.", lower_bound=1)

ROWS = ((8, 1024), (8, 128))  # rows per global batch, tokens per row: the paper's, and a short one
_LINES = Lines(66, 12)


def main(_):
    _LINES.begin()
    for part in _ONLY.value:
        PARTS[part]()


def medians(runs: dict) -> dict[str, float]:
    """Returns the median seconds of each run. The runs take turns; a first pass compiles."""
    seconds = {name: [] for name in runs}
    for i in range(_REPEATS.value + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def torch_copy(lm):
    """Returns the same model in transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder, lm.config, lm.params)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def small_model(config=shapes.QWEN_25M):
    return shapes.random_lm(config, "float32")


def against_peft() -> None:
    """Part (a)."""
    lm = small_model()
    for rows, length in ROWS:
        for remat in (True, False):
            ours = batches.grid(length, batch_size=rows, data_size=1)
            divisions = sorted({(rows, 1), (1, rows), ours})
            runs = {
                split: Peft(torch_copy(lm), (*split, length), remat=remat) for split in divisions
            }
            took = medians({"ours": Ours(lm, (*ours, length), remat=remat), **runs})
            best = min(divisions, key=took.get)
            speed = {name: rows * length / seconds for name, seconds in took.items()}
            _LINES.add(
                f"(a) step tokens/s, 25M, {rows} rows of {length} as {ours[0]} x {ours[1]}"
                f"{', recomputation' if remat else ''}",
                f"{speed['ours']:,.0f}",
                f"{speed['ours'] / speed[best]:.2f}x PEFT + torch, {speed[best]:,.0f} as"
                f" {best[0]} x {best[1]} (wanted: 1.5x)",
            )


def against_length() -> None:
    """Part (b)."""
    lm = small_model()
    took = {}
    for length in (128, 256, 512, 1024, 2048):
        shape = (*batches.grid(length, batch_size=2048 // length, data_size=1), length)
        took[length] = medians({"": Ours(lm, shape)})[""]
        _LINES.add(
            f"(b) microseconds per token, 25M, {2048 // length} rows of {length}",
            f"{took[length] / 2048 * 1e6:.0f}",
            f"{took[length] / took[128]:.2f}x that of rows of 128",
        )


def dropout_and_recomputation() -> None:
    """Part (c)."""
    lm, shape = small_model(), (1, 2, 512)
    took = medians(
        {
            "neither": Ours(lm, shape, dropout=0.0, remat=False),
            "dropout 0.05": Ours(lm, shape, remat=False),
            "recomputation": Ours(lm, shape, dropout=0.0),
            "both": Ours(lm, shape),
        }
    )
    for name, seconds in took.items():
        _LINES.add(
            f"(c) step milliseconds, 25M, 2 rows of 512, {name}",
            f"{1e3 * seconds:.0f}",
            f"{seconds / took['neither']:.2f}x neither",
        )
    bytes_of = {
        remat: Ours(lm, (1, 8, 128), remat=remat).temporary_bytes() for remat in (False, True)
    }
    for remat, size in bytes_of.items():
        _LINES.add(
            f"(c) MB of temporaries, 25M, 8 rows of 128 at once{', recomputation' * remat}",
            f"{size / 1e6:.0f}",
            f"{size / bytes_of[False]:.2f}x without",
        )


def adapters_in_sampling() -> None:
    """Part (d)."""
    tiny = models.load("tiny", dtype="float32")
    cases = (
        ("tiny, 64 slots", tiny, 64, 512, 64),
        ("25M, 16 slots", small_model(), 16, 32, 48),
        ("25M, 1 slot", small_model(), 1, 2, 48),
        ("0.5B shape, 8 slots", small_model(shapes.QWEN_HALF_B), 8, 8, 24),
    )
    rng = np.random.default_rng(0)
    for name, base, num_slots, num_chains, new_tokens in cases:
        settings = lora.LoraConfig()
        params = jax.tree.map(
            lambda x: jnp.asarray(0.01 * rng.standard_normal(x.shape), x.dtype),
            lora.shapes(base.config, settings),
        )
        student = dataclasses.replace(base, adapter=lora.Adapter(settings, params))
        prompts = rng.integers(1, base.config.vocab_size, (num_chains, 16)).tolist()
        lms = {"base": base, "unmerged": student, "merged": student.merged()}
        if workers._with_small_adapter_merged(student) is not student:
            lms["by the sampler's choice, merged"] = student
        # Without a stop token all models draw the same number of tokens.
        lms = {kind: dataclasses.replace(lm, stop_ids=(-1,)) for kind, lm in lms.items()}

        def draw(kind, lms=lms, prompts=prompts, num_slots=num_slots, new_tokens=new_tokens):
            options = dict(max_new_tokens=new_tokens, num_slots=num_slots, progress=False)
            choice = (lambda x: x) if kind == "unmerged" else workers._with_small_adapter_merged
            with mock.patch.object(workers, "_with_small_adapter_merged", choice):
                sample.standard(lms[kind], prompts, **options)

        took = medians({kind: functools.partial(draw, kind) for kind in lms})
        for kind in list(lms)[1:]:
            _LINES.add(
                f"(d) sampling with a rank 16 adapter, {name}, {kind}",
                f"{100 * (took[kind] / took['base'] - 1):+.1f} %",
                "time over the base's (wanted: at most 10 %, merged 0)",
            )


PARTS = {
    "a": against_peft,
    "b": against_length,
    "c": dropout_and_recomputation,
    "d": adapters_in_sampling,
}

if __name__ == "__main__":
    app.run(main)
