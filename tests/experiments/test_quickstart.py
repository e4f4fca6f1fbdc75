"""experiments/quickstart.py, smaller: what its table shows, what it leaves, taking a run up again.

The README's table has 200 problems x 4 completions and a student of 1000 answers. Here are 80 x 2
and 320, with the README's numbers of moves, and its claims are held to 95 % intervals.
"""

import json

import pytest

from powerjax import evaluation, records
from tests.experiments import programs

_FLAGS = [
    *("--num_problems=80", "--num_samples=2", "--num_mcmc_steps=10", "--more_steps=30"),
    *("--num_teacher=320", "--epochs=3"),
    "--noprogress",
]
_MODELS = ("Base  ", "RandW  ", "Distilled Standard", "Distilled Temperature")
_ROWS = ["RandW", "Base"], ["Standard", "Temperature", "Power", "Power(inf)"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")

    def run():
        process = programs.start(
            "experiments.quickstart", *_FLAGS, f"--out={folder / 'run'}", optimized=True
        )
        return programs.end(process, timeout_s=1200)

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
    assert "320 training problems answered by power sampling with 30 moves" in out
    assert "Distilled by standard sampling, minus Base by" in out
    assert "Power, N=30" in out and "Greedy" in out and "(answer: " in out
    report = (folder / "report.md").read_text()
    assert "one stage: exact" in report and "\\boxed" in report and "nan" not in report
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert len(pictures) == 5 and all(name in report for name in pictures)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert "## The student" in report
    assert (folder / "student" / "adapter" / "adapter_model.safetensors").is_file()
    made = [record for path in folder.glob("records/*.jsonl") for record in records.read(path)]
    assert len(made) == len({record["id"] for record in made}) == 80 * (2 * 11 + 1) + 320
    assert all(record["correct"] is not None for record in made)
    assert json.loads((folder / "manifest.json").read_text())["starts"]


@pytest.fixture(scope="module")
def gap(ran):
    """Returns the function gap(ours, theirs, value) of paired differences of two record files."""
    folder, _, _ = ran

    def gap(ours: str, theirs: str, value: str = "correct") -> evaluation.Estimate:
        pair = (records.read(folder / "records" / f"{name}.jsonl") for name in (ours, theirs))
        return evaluation.paired_difference(*pair, value)

    return gap


def test_power_does_far_more_than_temperature_and_thirty_moves_more_than_ten(gap):
    by_temperature = gap("base_temperature", "base_standard")
    by_power = gap("base_power", "base_temperature")
    assert by_temperature.low > 0 and by_power.low > 0.1
    assert by_power.mean > by_temperature.mean
    assert gap("base_power_n_30", "base_power").low > 0


def test_on_random_weights_self_reward_rises_and_nothing_is_right(ran, gap):
    folder, _, _ = ran
    assert gap("randw_temperature", "randw_standard", "self_reward").low > 0
    assert gap("randw_power", "randw_standard", "self_reward").low > 0
    for path in folder.glob("records/randw_*.jsonl"):
        assert not any(record["correct"] for record in records.read(path)), path


def test_the_student_stays_near_its_teacher_at_a_tenth_of_the_cost(ran, gap, record_property):
    near = gap("distilled_standard", "base_power_n_30")
    record_property(
        "student minus power, N=30", f"{near.mean:.3f} [{near.low:.3f}, {near.high:.3f}]"
    )
    assert near.low > -0.1
    assert gap("distilled_standard", "base_power").low > 0
    assert gap("distilled_standard", "base_standard").low > 0.3
    student, teacher = (
        records.read(ran[0] / "records" / f"{name}.jsonl")
        for name in ("distilled_standard", "base_power_n_30")
    )
    assert all(record["num_forward_tokens"] == record["num_tokens"] for record in student)
    cost, price = (sum(r["num_forward_tokens"] for r in drawn) for drawn in (student, teacher))
    assert price > 10 * cost


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
