"""The student of a run: which prompts it learns from, and what its training left."""

import json

import jax
import pytest

from powerjax import distill, models, records, runs
from powerjax.runs import Row
from powerjax.tasks import arithmetic, registry
from tests.runs import hidden


def test_secret_records_teach_what_open_ones_do(lm, measured):
    folder, row, problems, _ = measured
    drawn = records.read(row.path(folder))
    assert all(record["prompt"] is None and record["completion"] is None for record in drawn)
    by_id = {problem.id: problem.prompt for problem in problems}
    shown = [{**record, "prompt": by_id[record["problem_id"]]} for record in drawn]
    filled = runs.with_prompts(row.path(folder), problems)
    assert distill.load(lm, filled).fingerprint == distill.load(lm, shown).fingerprint


def test_a_secret_record_of_other_problems_is_refused(measured):
    folder, row, _, _ = measured
    others = hidden.secret(arithmetic.problems("train", 3))
    with pytest.raises(ValueError, match="not made with that of these problems"):
        runs.with_prompts(row.path(folder), others)


def test_open_records_are_read_from_their_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "completion": "c"}) + "\n")
    assert runs.with_prompts(path, []) == path


def test_losses_are_those_of_the_students_metrics(tmp_path):
    rows = [{"step": i, "loss": 3.0 - i} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert runs.losses(tmp_path) == (2, 2.0, 1.0)


@pytest.mark.full
def test_random_weights_learn_nothing_of_the_task(tmp_path):
    base = models.load("tiny", dtype="float32", random_weights=True)
    plain = {"max_new_tokens": 64, "seed": 0}
    moves = {"block_size": 64, "alpha": 4.0, "num_mcmc_steps": 2}

    def measured(lm, row, split, limit):
        problems, task = arithmetic.load(split, limit), registry.get("arithmetic")
        result, _ = runs.measure(lm, problems, row, tmp_path, task=task, progress=False)
        return result.summary.accuracy.mean

    teacher = Row("RandW", "Teacher", "power", {**plain, **moves, "num_samples": 1})
    taught = measured(base, teacher, "train", 64)
    student, trained = runs.train_student(
        base,
        teacher.path(tmp_path),
        tmp_path / "student",
        learning_rate=5e-4,
        remat=False,
        progress=False,
    )
    assert trained.last_loss < trained.first_loss
    row = Row("Distilled", "Standard", "standard", {**plain, "num_samples": 4})
    assert taught == measured(student, row, "test", 50) == 0


def test_a_student_is_sampled_by_the_programs_of_its_base(lm, tmp_path):
    """A fresh student lies on its device as its base does, so that nothing is compiled for it."""
    rows = [{"id": "a", "prompt": "1 + 1 =", "completion": " 2"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    student, _ = runs.train_student(
        lm, path, tmp_path / "student", learning_rate=1e-3, epochs=1, remat=False, progress=False
    )
    leaves = [jax.tree.leaves(model.params) for model in (lm, student.merged())]
    for base, own in zip(*leaves, strict=True):
        assert (own.sharding, own.committed) == (base.sharding, base.committed)
