"""Compiles the project's programs for TPUs without a TPU: do they fit, and what do they cost?

    pip install --target=LIBTPU "libtpu==0.0.42.*"  # as jax[tpu] of JAX 0.10.2 has it
    PYTHONPATH=LIBTPU python -m benchmarks.tpu_compile [--only=distill,sample,memory] [--quick]

It compiles three programs for Qwen2.5-7B and Phi-3.5-mini on v5e 2x4, v6e 2x4 and v4 2x2x1:

the training step: rank 16, all seven targets, float32 adapters over bfloat16 weights, dropout, rows
  of 1,024 tokens, 8 rows per batch, one row at a time on each row of the mesh;
the slot loop at its longest cache: 512 + 3,072 tokens, as many slots as the engine takes by itself;
prefill.

Then it prints where the memory of a training step goes on one device. It exits with 1 if a program
does not fit. --quick cuts models to two layers.

Columns. A mesh is data x model, with "f" where weights are split over "data" too. Sampling has one
engine per data row, and a line is about one engine. Arguments, temporaries, operations and bytes
are those of one device. Operations (TFLOP) and bytes (GB) are those of one turn of the program's
loop: an accumulation step, or a token for every slot. Without a loop they are those of one call.
The bytes are the compiler's count, which is far above what goes to memory. us/token is the roofline
of a turn divided by the tokens that it serves. The roofline is the larger of operations over the
chip's rate, and the bytes that must be read (weights, twice in training, and the slots' cache) over
its bandwidth. Collectives are counted in one turn, with MiB of their results on one device.

libtpu has a folder of its own because JAX, where it finds libtpu, looks for a TPU at every start
that JAX_PLATFORMS=cpu does not forbid.
"""

import dataclasses
import importlib.metadata
import os
import sys
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from absl import app, flags

from benchmarks import collectives as collectives_lib
from benchmarks import programs
from powerjax.models import lora
from powerjax.parallel import mesh as mesh_lib
from powerjax.plan.hardware import CHIPS

PARTS = ("distill", "sample", "memory")
_ONLY = flags.DEFINE_list("only", list(PARTS), "Parts to run.")
_QUICK = flags.DEFINE_bool("quick", False, "Two layers instead of all.")

_GIB, _MIB = 2**30, 2**20
_QWEN, _PHI = programs.MODELS


class Job(NamedTuple):
    """A model on a mesh of a topology. fsdp: whether weights are split over "data" too."""

    model: str
    topology: str
    data: int
    model_axis: int
    fsdp: bool = False

    @property
    def mesh_name(self) -> str:
        return f"{self.data}x{self.model_axis}{'f' if self.fsdp else ''}"

    def config(self):
        """Returns the model's shape, of two layers with --quick."""
        config = programs.MODELS[self.model]
        return dataclasses.replace(config, num_layers=2) if _QUICK.value else config

    def mesh(self):
        """Returns the mesh over the topology's devices. Raises programs.Unavailable."""
        devices = programs.devices(self.topology)
        return mesh_lib.make_mesh(self.model_axis, self.data, devices)


DISTILL = (
    Job(_QWEN, "v5e:2x4", 2, 4),
    Job(_QWEN, "v5e:2x4", 8, 1, fsdp=True),
    Job(_QWEN, "v6e:2x4", 2, 4),
    Job(_QWEN, "v4:2x2x1", 1, 4),
    Job(_QWEN, "v4:2x2x1", 4, 1, fsdp=True),
    Job(_PHI, "v5e:2x4", 8, 1, fsdp=True),
    Job(_PHI, "v6e:2x4", 8, 1),
    Job(_PHI, "v4:2x2x1", 4, 1),
)
SAMPLE = (
    Job(_QWEN, "v5e:2x4", 2, 4),
    Job(_QWEN, "v6e:2x4", 2, 4),
    Job(_QWEN, "v6e:2x4", 8, 1),
    Job(_QWEN, "v4:2x2x1", 1, 4),
    Job(_PHI, "v5e:2x4", 1, 8),
    Job(_PHI, "v6e:2x4", 2, 4),
    Job(_PHI, "v4:2x2x1", 1, 4),
)


def main(_):
    for part in _ONLY.value:
        if part not in PARTS:
            sys.exit(f"--only={part}: choose among {', '.join(PARTS)}")
    try:
        programs.devices("v5e:2x4")
    except programs.Unavailable as error:
        sys.exit(f"no TPU compiler ({error}): pip install libtpu, see this file's first lines")
    print(
        f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"
        + ("; models cut to two layers" if _QUICK.value else "")
    )
    fits = True
    if "distill" in _ONLY.value or "sample" in _ONLY.value:
        print(
            f"{'model':13s}{'program':32s}{'chips':9s}{'mesh':5s}{'arg.':>6s}{'temp.':>6s}"
            f"{'of GiB':>7s} {'fits':4s}{'TFLOP':>8s}{'GB':>7s}{'us/token':>9s}{'s':>5s}"
            "  collectives"
        )
    if "distill" in _ONLY.value:
        for job in DISTILL:
            fits &= report(job, "step", programs.distill(job.config(), job.mesh(), fsdp=job.fsdp))
    if "sample" in _ONLY.value:
        for job in SAMPLE:
            config, mesh = job.config(), job.mesh()
            loop = programs.slot_loop(config, mesh, programs.chip(job.topology))
            fits &= report(job, "slots", loop)
            fits &= report(job, "prefill", programs.prefill(config, mesh))
    if "memory" in _ONLY.value:
        memory()
    if not fits:
        sys.exit("not everything fits")


def report(job: Job, name: str, program: programs.Program) -> bool:
    """Compiles a program and prints its line; returns whether it fits."""
    chip = programs.chip(job.topology)
    what = f"{job.model:13s}{name + ' ' + program.about:32s}{job.topology:9s}{job.mesh_name:5s}"
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"{what}does not fit: {str(error).splitlines()[0]}", flush=True)
        return False
    arguments, temporaries = compiled.argument_bytes / _GIB, compiled.temporary_bytes / _GIB
    fits = arguments + temporaries <= chip.memory_bytes / _GIB
    floor = chip.roofline_s(compiled.flops, program.least_bytes) / program.tokens
    collectives = "; ".join(
        f"{count} {kind} {size / _MIB:.1f}"
        for kind, (count, size) in collectives_lib.summarize(compiled.collectives()).items()
    )
    print(
        f"{what}{arguments:6.2f}{temporaries:6.2f}{chip.memory_bytes / _GIB:7.2f} "
        f"{'yes' if fits else 'NO':4s}{compiled.flops / 1e12:8.3f}{compiled.moved_bytes / 1e9:7.1f}"
        f"{floor * 1e6:9.1f}{compiled.seconds:5.0f}  {collectives or 'none'}",
        flush=True,
    )
    return fits


def memory() -> None:
    """Prints where a training step's memory goes on one device, with and without recomputation."""
    room = CHIPS["a100-40gb"].memory_bytes / _GIB
    print(
        f"\nGiB of the step on one device, 1 x 1,024 tokens at a time, against {room:.0f}:\n"
        f"{'model':13s}{'remat':6s}{'weights':>8s}{'adapter':>8s}{'AdamW':>8s}{'rest':>8s}{'all':>8s}"
    )
    for name in programs.MODELS:
        job = Job(name, "v5p:1x1x1", 1, 1)
        config, mesh = job.config(), job.mesh()
        adapter = sum(x.size * 4 for x in jax.tree.leaves(lora.shapes(config, lora.LoraConfig())))
        for remat in (True, False):
            compiled = programs.distill(config, mesh, remat=remat).compile()
            parts = (
                compiled.argument_bytes - 3 * adapter,
                adapter,
                2 * adapter,
                compiled.temporary_bytes,
            )
            cells = "".join(f"{part / _GIB:8.2f}" for part in (*parts, sum(parts)))
            print(f"{name:13s}{'yes' if remat else 'no':6s}{cells}", flush=True)


if __name__ == "__main__":
    app.run(main)
