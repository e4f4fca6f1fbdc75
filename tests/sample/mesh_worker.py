"""Samples one job on several meshes of eight CPU devices; writes what test_mesh.py compares.

A process of its own: eight host devices would change threading for every other test.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.sample.mesh_worker FILE
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np

from powerjax import models, sample
from powerjax.models import checkpoint
from powerjax.parallel import mesh
from powerjax.tasks import arithmetic

# Eight heads and kv heads, so that a model axis of eight splits attention too.
CONFIG = models.ModelConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=64,
    num_layers=2,
    num_heads=8,
    num_kv_heads=8,
    head_dim=8,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    initializer_range=0.3,
)
MESHES = {
    "eight_heads": {"8x1": 1, "1x8": 8, "2x4": 4},
    "tiny": {"1x8": 8, "2x4": 4},
}
SLOTS = 8  # of an engine
OPTIONS = {
    "eight_heads": {"alpha": 2.0, "block_size": 10, "stop": "horizon", "max_new_tokens": 20},
    "tiny": {"alpha": 4.0, "block_size": 64, "max_new_tokens": 64},
}
COMMON = {"num_mcmc_steps": 3, "num_samples": 2, "seed": 3, "progress": False}


def load(name: str, grid=None) -> models.LM:
    """The model, on a mesh or on JAX's default device."""
    if name == "tiny":
        return models.load("tiny", dtype="float32", mesh=grid)
    params = checkpoint.random_params(CONFIG, "float32", seed=1, mesh=grid)
    return models.LM(CONFIG, params, stop_ids=(0,), name=name, mesh=grid)


def prompts(name: str) -> list:
    """Those of the job."""
    if name == "tiny":
        return [problem.prompt for problem in arithmetic.problems(num=12)]
    rng = np.random.default_rng(0)
    return [rng.integers(1, 96, n).tolist() for n in rng.integers(1, 16, 20)]


def draw(name: str, lm: models.LM, num_slots: int) -> list:
    """[id, sample index, tokens, log_probs] of every chain."""
    given = prompts(name)
    ids = [f"problem {i}" for i in range(len(given))]
    options = OPTIONS[name] | COMMON
    out = sample.power(lm, given, ids=ids, num_slots=num_slots, **options)
    return [[c.id, c.sample_index, c.tokens, np.asarray(c.log_probs).tolist()] for c in out]


def main() -> dict:
    found = {}
    for name, meshes in MESHES.items():
        found[f"{name} one"] = draw(name, load(name), SLOTS)
        for shape, model_axis in meshes.items():
            grid = mesh.make_mesh(model=model_axis)
            lm = load(name, grid)
            found[f"{name} {shape}"] = draw(name, lm, SLOTS * grid.shape["data"])
    # Weights that are split over "data" as well are whole in each row's engine.
    grid = mesh.make_mesh(model=4)
    split = models.load("tiny", dtype="float32", mesh=grid, fsdp=True)
    found["tiny fsdp"] = draw("tiny", split, 2 * SLOTS)
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    Path(sys.argv[1]).write_text(json.dumps(main()))
