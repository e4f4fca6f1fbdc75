"""Peak memory and time of loading a checkpoint, above an idle process with JAX started.

    python -m benchmarks.loading [--folder=CHECKPOINT]

Without --folder it writes a bfloat16 checkpoint of the Qwen2.5-0.5B shape (1 GB) to a temporary
folder. Each load runs in a process of its own. The bound is 1.2 x the loaded bytes + 0.2 GB.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

_FOLDER = flags.DEFINE_string("folder", None, "Checkpoint to load; by default a random one.")
_MEASURE = flags.DEFINE_string("measure", None, "Load in this dtype, print JSON (own use).")


def write_checkpoint(folder: Path) -> None:
    """Writes a bfloat16 checkpoint of the 0.5B shape, in one file as the published one is."""
    from benchmarks.shapes import QWEN_HALF_B as config
    from powerjax.models import checkpoint

    checkpoint.save(folder, config, checkpoint.random_params(config, "bfloat16"))


def resident_bytes(which: str) -> int:
    """Returns the resident bytes of this process: VmRSS is the present, VmHWM the peak.

    getrusage's peak is no use here, since a process inherits it over exec.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def measure(folder: str, dtype: str) -> dict:
    """Loads the checkpoint in this process; returns bytes loaded, peak bytes, and seconds."""
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
    """Yields (dtype, measurement) for each dtype, measured in a fresh process."""
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
        for dtype, measured in rows(folder):
            bound = 1.2 * measured["loaded"] + 0.2e9
            print(
                f"{dtype:10}{measured['loaded'] / 1e9:11.3f}{measured['above'] / 1e9:15.3f}"
                f"{bound / 1e9:10.3f}{measured['wall_s']:7.1f}"
                f"  {'within' if measured['above'] <= bound else 'ABOVE'} the bound"
            )


if __name__ == "__main__":
    app.run(main)
