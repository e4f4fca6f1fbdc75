"""Samples one job on several meshes of eight CPU devices; writes what test_mesh.py compares.

It is a process of its own because eight host devices would change threading for every other test.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.sample.mesh_worker FILE
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np

from powerjax import models, sample
from powerjax.parallel import mesh
from powerjax.tasks import arithmetic
from tests import tiny

MESHES = {
    "eight_heads": {"8x1": 1, "1x8": 8, "2x4": 4},
    "tiny": {"1x8": 8, "2x4": 4},
}
SLOTS = 8  # per engine
OPTIONS = {
    "eight_heads": {"alpha": 2.0, "block_size": 10, "stop": "horizon", "max_new_tokens": 20},
    "tiny": {"alpha": 4.0, "block_size": 64, "max_new_tokens": 64},
}
# Jobs (a move, a proposal model) and their meshes: each job on a split one, each mesh with some
# job. An engine on each of eight devices compiles its programs eight times.
PROPOSED = {
    "restart student": ("8x1", "2x4"),
    "suffix student": ("1x8", "2x4"),
    "suffix other": ("8x1", "2x4"),
}
COMMON = {"num_mcmc_steps": 3, "num_samples": 2, "seed": 3, "progress": False}


def load(name: str, grid=None) -> models.LM:
    """Returns the model on a mesh, or on JAX's default device where `grid` is None."""
    if name == "tiny":
        return models.load("tiny", dtype="float32", mesh=grid)
    return tiny.random_lm(tiny.eight_heads(num_layers=1), mesh=grid, name=name)


def load_proposal(name: str, lm: models.LM) -> models.LM:
    """Returns the proposal model of a job, on the devices of the model."""
    if name == "student":
        return tiny.student(lm)
    return tiny.random_lm(tiny.eight_heads(num_layers=2), seed=2, mesh=lm.mesh, name=name)


def prompts(name: str) -> list:
    """Returns the job's prompts: texts for the embedded model, else lists of token ids."""
    if name == "tiny":
        return [problem.prompt for problem in arithmetic.problems(num=12)]
    rng = np.random.default_rng(0)
    return [rng.integers(1, 96, n).tolist() for n in rng.integers(1, 16, 20)]


def draw(name: str, lm: models.LM, num_slots: int, **of_proposal) -> list:
    """Returns [id, sample index, tokens, log_probs] of every chain.

    of_proposal: keywords of a proposal model.
    """
    questions = prompts(name)
    ids = [f"problem {i}" for i in range(len(questions))]
    options = OPTIONS[name] | COMMON | of_proposal
    out = sample.power(lm, questions, ids=ids, num_slots=num_slots, **options)
    return [[c.id, c.sample_index, c.tokens, np.asarray(c.log_probs).tolist()] for c in out]


def main() -> dict:
    """Returns the chains of every model and mesh, by "model mesh"."""
    drawn = {}
    for name, meshes in MESHES.items():
        drawn[f"{name} one"] = draw(name, load(name), SLOTS)
        for shape, model_axis in meshes.items():
            grid = mesh.make_mesh(model=model_axis)
            lm = load(name, grid)
            drawn[f"{name} {shape}"] = draw(name, lm, SLOTS * grid.shape["data"])
    for job, shapes in PROPOSED.items():
        move, proposal = job.split()
        for shape in ("one", *shapes):
            grid = None if shape == "one" else mesh.make_mesh(model=MESHES["eight_heads"][shape])
            lm = load("eight_heads", grid)
            drawn[f"{job} {shape}"] = draw(
                "eight_heads",
                lm,
                SLOTS * (1 if grid is None else grid.shape["data"]),
                proposal=load_proposal(proposal, lm),
                move=move,
                block_size=OPTIONS["eight_heads"]["max_new_tokens"],
            )
    # Weights that are split over "data" as well are gathered for each row's engine.
    grid = mesh.make_mesh(model=4)
    split = models.load("tiny", dtype="float32", mesh=grid, fsdp=True)
    drawn["tiny fsdp"] = draw("tiny", split, 2 * SLOTS)
    return drawn


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    Path(sys.argv[1]).write_text(json.dumps(main()))
