"""The student of a run: which prompts it learns from, and what its training left."""

import json

import pytest

from powerjax import distill, records, runs
from powerjax.tasks import arithmetic
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
