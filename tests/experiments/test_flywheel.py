"""experiments/flywheel.py, small: what it prints and leaves, and taking a run up again."""

import json

import pytest

from powerjax import records
from tests.experiments import programs

pytestmark = pytest.mark.full

# No student learns from more than a batch of 8, so that one compiled step trains all four.
_FLAGS = [
    *("--limit=4", "--num_samples=2", "--slices=4,4", "--num_mcmc_steps=4"),
    *("--epochs=1", "--num_importance=30", "--noprogress"),
]
# As the table's lines begin.
_STUDENTS = ("round 1  ", "round 2  ", "Algorithm 1, equal cost ", "Algorithm 1, all  ")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flywheel") / "run"

    def run(*more):
        process = programs.start("experiments.flywheel", *_FLAGS, *more, f"--out={folder}")
        return programs.end(process, timeout_s=600)

    return folder, run, run()


def _table(text):
    return [line for line in text.split("\n") if line.startswith(_STUDENTS)]


def test_it_prints_a_line_per_student_and_leaves_a_report(ran):
    folder, _, (code, out, err) = ran
    assert code == 0, err
    pairs = zip(_table(out), _STUDENTS, strict=True)
    assert all(line.startswith(name) for line, name in pairs)
    assert "round 2 minus" in out and "Training and measuring students is not among" in out
    report = (folder / "report.md").read_text()
    assert "flywheel.png" in report and "nan" not in report and "exact as moves grow" in report
    assert (folder / "flywheel.png").read_bytes().startswith(b"\x89PNG")
    of_base = records.read(folder / "records" / "base_teacher.jsonl")
    of_student = records.read(folder / "records" / "base_teacher_round_2.jsonl")
    assert (len(of_base), len(of_student)) == (8, 4)
    assert {record["problem_id"] for record in of_student} < {r["problem_id"] for r in of_base}
    assert {(r["move"], r["num_mcmc_steps"]) for r in of_student} == {("restart", 1)}
    assert len(list(folder.glob("students/*/adapter/adapter_model.safetensors"))) == 4
    assert json.loads((folder / "manifest.json").read_text())["settings"]["slices"] == ["4", "4"]


def test_it_takes_up_its_run(ran):
    folder, run, (_, before, _) = ran
    path = folder / "records" / "base_teacher_round_2.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (folder / "importance" / "round_2.jsonl").unlink()
    code, out, err = run()
    assert code == 0, err
    assert _table(out) == _table(before) and len(path.read_bytes()) == len(whole)


def test_another_run_is_refused(ran):
    _, run, _ = ran
    code, _, err = run("--student_moves=2")
    assert code == 1 and "--student_moves=1" in err and err.count("\n") == 1
