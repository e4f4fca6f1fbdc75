"""experiments/quickstart.py, small: what it prints and leaves, and taking a run up again."""

import json

import pytest

from powerjax import records
from tests.experiments import programs

_FLAGS = [
    *("--num_problems=6", "--num_samples=2", "--num_mcmc_steps=3", "--more_steps=5"),
    *("--num_teacher=16", "--epochs=1"),
    "--noprogress",
]
_MODELS = ("Base  ", "RandW  ", "Distilled Standard", "Distilled Temperature")
_ROWS = ["RandW", "Base"], ["Standard", "Temperature", "Power", "Power(inf)"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")

    def run():
        process = programs.start(
            "experiments.quickstart", *_FLAGS, f"--out={folder / 'run'}",
        )  # fmt: skip
        return programs.end(process)

    return folder / "run", run, run()


def test_it_prints_the_table_and_leaves_a_report(ran):
    folder, _, (code, out, err) = ran
    assert code == 0, err
    lines = [line.split() for line in out.split("\n")]
    for model in _ROWS[0]:
        for sampler in _ROWS[1]:
            assert any(line[:2] == [model, sampler] for line in lines), (model, sampler)
    for sampler in ("Standard", "Temperature"):
        assert any(line[:2] == ["Distilled", sampler] for line in lines), sampler
    assert "16 training problems answered by power sampling with 5 moves" in out
    assert "Distilled by standard sampling, minus Base by" in out
    assert "Power, N=5" in out and "Greedy" in out and "(answer: " in out
    for moves in (1, 3):
        assert f"Base      Power, student {moves} " in out
        cells = next(line for line in lines if line[:4] == f"Base, Power, student {moves}".split())
        decoded, of_base, of_student, total = map(float, cells[4:8])
        assert decoded == of_student == of_base and total == pytest.approx(2 * decoded, abs=0.1)
    report = (folder / "report.md").read_text()
    assert "one stage: exact" in report and "\\boxed" in report and "nan" not in report
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert len(pictures) == 6 and all(name in report for name in pictures)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert "## The student" in report and "power_by_its_proposal.png" in report
    assert (folder / "student" / "adapter" / "adapter_model.safetensors").is_file()
    made = [record for path in folder.glob("records/*.jsonl") for record in records.read(path)]
    assert len(made) == len({record["id"] for record in made}) == 6 * (2 * 14 + 1) + 16
    by_student = records.read(folder / "records" / "base_power_student_3.jsonl")
    assert {(r["move"], r["num_mcmc_steps"]) for r in by_student} == {("restart", 3)}
    assert all(r["proposal_hash"] and r["num_proposal_forward_tokens"] for r in by_student)
    assert all(record["correct"] is not None for record in made)
    assert json.loads((folder / "manifest.json").read_text())["starts"]


def test_it_takes_up_its_run(ran):
    folder, run, (_, before, _) = ran
    path = folder / "records" / "base_power.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    code, out, err = run()
    assert code == 0, err
    took = [line.split()[-1] for line in out.split("\n") if line.startswith(_MODELS)]
    assert sum(word != "kept" for word in took) == 1

    def table(text):
        rows = [line for line in text.split("\n") if line.startswith(_MODELS)]
        return [line.rsplit(maxsplit=1)[0] for line in rows]

    assert table(out) == table(before)
