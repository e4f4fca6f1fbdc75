"""A small model, and a row that it was measured on."""

import pytest

from powerjax import models, runs
from powerjax.runs import Row
from powerjax.tasks import arithmetic
from tests.runs import hidden


@pytest.fixture(scope="package")
def lm():
    return models.load("tiny", dtype="float32")


@pytest.fixture(scope="package")
def measured(lm, tmp_path_factory):
    """Returns (folder, row, problems, result) of a power row of secret problems."""
    folder = tmp_path_factory.mktemp("run")
    problems = hidden.secret(arithmetic.problems(num=3))
    plain = {"max_new_tokens": 16, "seed": 0, "num_samples": 2}
    moves = {"alpha": 4.0, "block_size": 8, "num_mcmc_steps": 2}
    row = Row("Base", "Power", "power", {**plain, **moves})
    result, stats = runs.measure(
        lm, problems, row, folder, task=hidden.task(), progress=False, grade=True
    )
    assert stats is not None
    return folder, row, problems, result
