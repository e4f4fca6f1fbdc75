"""Power self-distillation of the embedded model: what the student gains, keeps and costs."""

import shutil

import pytest

from powerjax import evaluation, models, runs
from powerjax.runs import Row
from powerjax.tasks import arithmetic, registry

pytestmark = pytest.mark.full

PLAIN = {"max_new_tokens": 64, "seed": 0, "num_samples": 4}
POWER = {**PLAIN, "block_size": 64, "alpha": 4.0}


def _records(lm, row, folder, split="test", limit=200):
    problems = arithmetic.load(split, limit)
    result, _ = runs.measure(
        lm, problems, row, folder, task=registry.get("arithmetic"), progress=False
    )
    return result


@pytest.fixture(scope="module")
def results(quick_run, optimized, tmp_path_factory):
    """Held-out results by name. The student has learnt from 1000 answers of 30 moves each.

    They are of the run's 200 problems and 200 more, because with 200 the interval of a difference
    is as wide as the difference that is claimed.
    """
    folder = tmp_path_factory.mktemp("more")
    shutil.copytree(quick_run[0] / "records", folder / "records")
    base = models.load("tiny", dtype="float32")
    student = models.load("tiny", dtype="float32", adapter=quick_run[0] / "student" / "adapter")
    rows = {
        "student": (student.merged(), Row("Distilled", "Standard", "standard", PLAIN)),
        "power 30": (base, Row("Base", "Power", "power", {**POWER, "num_mcmc_steps": 30})),
        "power 10": (base, Row("Base", "Power 10", "power", {**POWER, "num_mcmc_steps": 10})),
    }
    return {name: _records(lm, row, folder, limit=400) for name, (lm, row) in rows.items()}


def _in_points(gap) -> str:
    return f"{100 * gap.mean:.1f} [{100 * gap.low:.1f}, {100 * gap.high:.1f}]"


def _gap(results, name):
    """Returns the student's accuracy minus another's, with its interval."""
    return evaluation.paired_difference(results["student"].records, results[name].records)


def test_the_student_comes_within_five_points_of_its_teacher(results, record_property):
    gap = _gap(results, "power 30")
    record_property("accuracy", f"{100 * results['student'].summary.accuracy.mean:.1f} %")
    record_property("minus the teacher's", _in_points(gap))
    assert gap.low > -0.05


def test_plain_sampling_of_the_student_beats_ten_moves_of_power_sampling(results, record_property):
    gap = _gap(results, "power 10")
    record_property("minus power's", _in_points(gap))
    assert gap.low > 0


def test_the_student_costs_plain_decoding_and_stops_as_its_teacher_does(results, record_property):
    student, teacher = results["student"].summary, results["power 30"].summary
    record_property("ended in EOS", f"{student.finished:.3f}, teacher {teacher.finished:.3f}")
    assert student.num_problems == teacher.num_problems == 400
    assert student.forward_tokens == student.num_tokens
    assert teacher.forward_tokens > 10 * student.forward_tokens
    assert abs(student.finished - teacher.finished) <= 0.01
    assert abs(student.num_tokens / teacher.num_tokens - 1) < 0.1
