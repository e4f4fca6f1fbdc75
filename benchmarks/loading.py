"""Peak memory and time of loading a checkpoint, above an idle process with JAX started.

    python -m benchmarks.loading [--folder=CHECKPOINT]

Without --folder it writes a Qwen2.5-0.5B-shaped bfloat16 checkpoint (1 GB) to a temporary folder.
Each load runs in a process of its own. The bound is 1.2 x the loaded bytes + 0.2 GB.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

_FOLDER = flags.DEFINE_string("folder", None, "checkpoint to load; None writes one of random bits")
_MEASURE = flags.DEFINE_string("measure", None, "internal: load --folder in this dtype, print JSON")

_QWEN_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def write_checkpoint(folder: Path) -> None:
    """A bfloat16 checkpoint of the 0.5B shape, in one file as the published one is."""
    from powerjax.models import ModelConfig, checkpoint

    config = ModelConfig.from_hf(_QWEN_05B)
    checkpoint.save(folder, config, checkpoint.random_params(config, "bfloat16"))


def resident_bytes(which: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process; getrusage's peak is inherited over exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def measure(folder: str, dtype: str) -> dict:
    """Loads the checkpoint in this process."""
    import jax
    import jax.numpy as jnp

    from powerjax import models

    jnp.zeros(1).block_until_ready()
    baseline, start = resident_bytes("VmRSS"), time.perf_counter()
    lm = models.load(folder, dtype=dtype)
    jax.block_until_ready(lm.params)
    wall_s = time.perf_counter() - start
    loaded = sum(x.nbytes for x in jax.tree.leaves(lm.params))
    return {"loaded": loaded, "above": resident_bytes("VmHWM") - baseline, "wall_s": wall_s}


def rows(folder: str):
    """(dtype, measurement) for each dtype, each from a fresh process."""
    for dtype in ("bfloat16", "float32"):
        command = [sys.executable, "-m", "benchmarks.loading", f"--folder={folder}"]
        out = subprocess.run(
            [*command, f"--measure={dtype}"], check=True, capture_output=True, text=True
        ).stdout
        yield dtype, json.loads(out.splitlines()[-1])


def main(_):
    if _MEASURE.value:
        print(json.dumps(measure(_FOLDER.value, _MEASURE.value)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = _FOLDER.value
        if folder is None:
            folder = scratch
            write_checkpoint(Path(scratch))
        print(f"{'as':10}{'loaded GB':>11}{'peak above GB':>15}{'bound GB':>10}{'s':>7}")
        for dtype, found in rows(folder):
            bound = 1.2 * found["loaded"] + 0.2e9
            print(
                f"{dtype:10}{found['loaded'] / 1e9:11.3f}{found['above'] / 1e9:15.3f}"
                f"{bound / 1e9:10.3f}{found['wall_s']:7.1f}"
                f"  {'within' if found['above'] <= bound else 'ABOVE'} the bound"
            )


if __name__ == "__main__":
    app.run(main)
