"""Trains small models on meshes of eight CPU devices; test_mesh.py asserts what it writes.

It is a process of its own with eight devices, or two processes with four each, because JAX counts
host devices only when it starts.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.distill.mesh_worker OUT
    XLA_FLAGS=--xla_force_host_platform_device_count=4 \
      python -m tests.distill.mesh_worker OUT ADDRESS PROCESS_ID
"""

import functools
import logging
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from powerjax import distill, models
from powerjax.distill import batches, checkpoints, loop, loss, step
from powerjax.models import causal, checkpoint, lora
from powerjax.models import sharding as sharding_lib
from powerjax.parallel import mesh, processes
from tests import tiny

LORA = lora.LoraConfig(rank=4, alpha=8, dropout=0.05)
BATCH_SIZE = 8
NUM_EXAMPLES = 20  # the last batch of an epoch is half empty
NUM_STEPS = 4
SETTINGS = step.Settings(learning_rate=5e-3, num_steps=NUM_STEPS, warmup=0.0, seed=3)

_SHORT = dict(intermediate_size=96, max_position_embeddings=64, initializer_range=0.2)
EVEN = tiny.eight_heads(num_layers=1, tie_word_embeddings=False, **_SHORT)
# Neither heads nor vocabulary divide by 4 or 8, so every device has all of both.
ODD = tiny.config(hidden_size=48, num_layers=1, num_heads=6, num_kv_heads=3, **_SHORT)
# name: model, "data" axis, "model" axis, whether weights are split over "data" too
RUNS = {
    "even 2x4": (EVEN, 2, 4, False),
    "even 8x1": (EVEN, 8, 1, False),
    "even 1x8": (EVEN, 1, 8, False),
    "even 2x4 fsdp": (EVEN, 2, 4, True),
    "odd 2x4 fsdp": (ODD, 2, 4, True),
    "odd 1x8": (ODD, 1, 8, False),
}
OF_TWO_PROCESSES = {
    "even 4x2 fsdp": (EVEN, 4, 2, True),
    "even 1x8": (EVEN, 1, 8, False),  # each layer lies across both processes
}
RESUMED = {"whole": (2, 4, False), "elsewhere": (8, 1, True)}  # of EVEN


def corpus(config) -> distill.Corpus:
    """Returns prompts and completions of many lengths, all in the bucket of 32 tokens."""
    rng = np.random.default_rng(7)
    examples = []
    for i in range(NUM_EXAMPLES):
        prompt, completion = rng.integers(2, 10), rng.integers(15, 22)
        draw = rng.integers(1, config.vocab_size, prompt + completion).tolist()
        examples.append(distill.Example(str(i), draw[:prompt], draw[prompt:]))
    return distill.Corpus(examples, max_length=32)


@functools.cache
def weights(config) -> dict[str, np.ndarray]:
    """Returns random weights by path."""
    params = checkpoint.random_params(config, "float32", seed=1)
    return jax.device_get(traverse_util.flatten_dict(params, sep="/"))


def language_model(config, grid, fsdp: bool) -> models.LM:
    """Returns the model with its weights on the mesh `grid`."""
    params = {}
    for path, x in weights(config).items():
        sharding = sharding_lib.param_sharding(path, x.shape, config, grid, fsdp=fsdp)
        params[path] = jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
    params = traverse_util.unflatten_dict(params, sep="/")
    return models.LM(config, params, stop_ids=(0,), name="random", mesh=grid)


def train(config, grid, fsdp: bool, tokens_per_device: int) -> dict[str, np.ndarray]:
    """Returns "losses" [steps], and the adapter after the last step by path."""
    lm, examples = language_model(config, grid, fsdp), corpus(config)
    take_step = step.make_step(lm, LORA, SETTINGS, grid)
    state, losses = step.init_state(config, LORA, SETTINGS, grid), []
    for number in range(NUM_STEPS):
        epoch, place = divmod(number, batches.num_batches(examples, BATCH_SIZE))
        order = batches.epoch_batches(examples, batch_size=BATCH_SIZE, seed=3, epoch=epoch)
        batch = batches.make_batch(
            examples,
            order[place],
            batch_size=BATCH_SIZE,
            data_size=grid.shape["data"],
            tokens_per_device=tokens_per_device,
            sharding=step.batch_sharding(grid),
        )
        state, metrics = take_step(state, lm.params, batch)
        losses.append(metrics.loss)
    return {"losses": np.array([float(x) for x in losses]), **flat(state.adapter)}


def flat(adapter) -> dict[str, np.ndarray]:
    """Returns an adapter by path, gathered from all processes."""
    whole = multihost_utils.process_allgather(adapter, tiled=True)
    return traverse_util.flatten_dict(whole, sep="/")


def on_eight_devices(out: Path) -> None:
    """Writes what each run gives on one device, on every mesh, and when it is resumed."""
    for name, config in (("even", EVEN), ("odd", ODD)):
        one = mesh.make_mesh(devices=jax.devices()[:1])
        # One device takes two steps of four rows. On a mesh each device takes a row at a time.
        np.savez(out / f"{name} one.npz", **train(config, one, False, 128))
        start = step.init_state(config, LORA, SETTINGS, one)
        np.savez(out / f"{name} start.npz", **flat(start.adapter))
    split_lengths()
    for name, (config, data_axis, model_axis, fsdp) in RUNS.items():
        grid = mesh.make_mesh(data=data_axis, model=model_axis)
        np.savez(out / f"{name}.npz", **train(config, grid, fsdp, 32))
    resume(out)


def split_lengths() -> None:
    """Makes every mesh take two blocks of queries for 32 tokens, and four chunks of logits or more.

    The single device has taken all at once.
    """
    causal._BLOCK = 16
    loss._TOKENS = 2


def resume(out: Path) -> None:
    """Trains on one mesh, then finishes the run on another after its last checkpoint is lost."""
    for name, (data_axis, model_axis, fsdp) in RESUMED.items():
        if name != "whole":
            shutil.copytree(out / "whole", out / name)
            shutil.rmtree(out / name / checkpoints.CHECKPOINTS / str(NUM_STEPS))
        lm = language_model(EVEN, mesh.make_mesh(data=data_axis, model=model_axis), fsdp)
        trained = loop.train(
            lm,
            corpus(EVEN),
            LORA,
            SETTINGS,
            out / name,
            batch_size=BATCH_SIZE,
            tokens_per_device=32,
            save_steps=2,
            resume=name != "whole",
            progress=False,
        )
        assert trained.num_done == (NUM_STEPS if name == "whole" else 2)
        np.savez(out / f"resumed {name}.npz", **flat(trained.adapter.params))


def on_two_processes(out: Path, address: str, process_id: int) -> None:
    """Writes what each run gives in this process of two."""
    processes.start(address, 2, process_id, timeout_s=60)
    split_lengths()
    for name, (config, data_axis, model_axis, fsdp) in OF_TWO_PROCESSES.items():
        arrays = train(config, mesh.make_mesh(data=data_axis, model=model_axis), fsdp, 32)
        np.savez(out / f"{name} process {process_id}.npz", **arrays)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if len(sys.argv) == 2:
        on_eight_devices(Path(sys.argv[1]))
    else:
        on_two_processes(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
