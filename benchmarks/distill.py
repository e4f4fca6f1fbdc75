"""Speed of the training step and of adapters, as ratios measured side by side in one run.

    python -m benchmarks.distill [--only=a,b,c,d]

(a) tokens per second of the step against PEFT + torch, a Qwen2 of 25 M parameters, the same rows
and settings, ours accumulated as `batches.grid` divides them, theirs in whichever way is fastest
(needs torch and peft); (b) step time against sequence length; (c) what dropout and recomputation
cost and save; (d) what an adapter costs in sampling, merged and not. About twenty minutes on two
cores. What fits which chip is benchmarks/tpu_compile.py's to say.
"""

import dataclasses
import functools
import os
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.lora_steps import Ours, Peft
from benchmarks.shapes import QWEN_HALF_B
from powerjax import models, sample
from powerjax.distill import batches
from powerjax.models import checkpoint, lora
from powerjax.sample import workers

_ONLY = flags.DEFINE_list("only", list("abcd"), "Parts to run.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Passes; the median counts.", lower_bound=1)

SMALL = models.ModelConfig(
    vocab_size=8192,
    hidden_size=512,
    intermediate_size=1408,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    initializer_range=0.02,
)
ROWS = ((8, 1024), (8, 128))  # of a global batch, and tokens of each: the paper's, and short


def main(_):
    print(
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}, load "
        f"{os.getloadavg()[0]:.1f} before the start"
    )
    print(f"{'what':66s} {'measured':>12s}  against")
    for part in _ONLY.value:
        PARTS[part]()


def row(what: str, measured: str, against: str = "") -> None:
    print(f"{what:66s} {measured:>12s}  {against}", flush=True)


def medians(runs: dict) -> dict[str, float]:
    """Seconds of each run, the median of passes that take turns; a first pass compiles."""
    seconds = {name: [] for name in runs}
    for i in range(_REPEATS.value + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def torch_copy(lm):
    """The same model in transformers, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder, lm.config, lm.params)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def small_model(config=SMALL, dtype="float32"):
    return models.LM(config, checkpoint.random_params(config, dtype, seed=1), stop_ids=(0,))


def against_peft() -> None:
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
            row(
                f"(a) step tokens/s, 25M, {rows} rows of {length} as {ours[0]} x {ours[1]}"
                f"{', recomputation' if remat else ''}",
                f"{speed['ours']:,.0f}",
                f"{speed['ours'] / speed[best]:.2f}x PEFT + torch, {speed[best]:,.0f} as"
                f" {best[0]} x {best[1]} (wanted: 1.5x)",
            )


def against_length() -> None:
    lm = small_model()
    took = {}
    for length in (128, 256, 512, 1024, 2048):
        shape = (*batches.grid(length, batch_size=2048 // length, data_size=1), length)
        took[length] = medians({"": Ours(lm, shape)})[""]
        row(
            f"(b) microseconds a token, 25M, {2048 // length} rows of {length}",
            f"{took[length] / 2048 * 1e6:.0f}",
            f"{took[length] / took[128]:.2f}x that of rows of 128",
        )


def dropout_and_recomputation() -> None:
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
        row(
            f"(c) step milliseconds, 25M, 2 rows of 512, {name}",
            f"{1e3 * seconds:.0f}",
            f"{seconds / took['neither']:.2f}x neither",
        )
    kept = {remat: Ours(lm, (1, 8, 128), remat=remat).temporary_bytes() for remat in (False, True)}
    for remat, size in kept.items():
        row(
            f"(c) MB of temporaries, 25M, 8 rows of 128 at once{', recomputation' * remat}",
            f"{size / 1e6:.0f}",
            f"{size / kept[False]:.2f}x without",
        )


def adapters_in_sampling() -> None:
    tiny = models.load("tiny", dtype="float32")
    cases = (
        ("tiny, 64 slots", tiny, 64, 512, 64),
        ("25M, 16 slots", small_model(), 16, 32, 48),
        ("25M, 1 slot", small_model(), 1, 2, 48),
        ("0.5B shape, 8 slots", small_model(QWEN_HALF_B), 8, 8, 24),
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
        if workers._without_adapter(student) is not student:
            lms["by the sampler's choice, merged"] = student
        # No stop token, so that all draw the same number of tokens.
        lms = {kind: dataclasses.replace(lm, stop_ids=(-1,)) for kind, lm in lms.items()}

        def draw(kind, lms=lms, prompts=prompts, num_slots=num_slots, new_tokens=new_tokens):
            options = dict(max_new_tokens=new_tokens, num_slots=num_slots, progress=False)
            choice = (lambda x: x) if kind == "unmerged" else workers._without_adapter
            with mock.patch.object(workers, "_without_adapter", choice):
                sample.standard(lms[kind], prompts, **options)

        took = medians({kind: functools.partial(draw, kind) for kind in lms})
        for kind in list(lms)[1:]:
            row(
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
