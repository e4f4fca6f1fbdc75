"""The flywheel's rounds and their comparison, with teachers and students that cost nothing."""

import dataclasses
from pathlib import Path

import pytest

from powerjax import evaluation
from powerjax.report import flywheel as report
from powerjax.runs import flywheel
from powerjax.tasks import arithmetic, registry

TASK = registry.get("arithmetic")
PRICE = {"Teacher": 100, "Teacher, round 2": 10}  # tokens per answer, by row


@pytest.fixture
def job(monkeypatch):
    """A job whose sampler and trainer are replaced; `job.lm` is the list of calls."""
    calls = []

    def measure(lm, problems, row, folder, *, proposal=None, **_):
        calls.append((row.name, [p.id for p in problems], proposal))
        price = PRICE.get(row.name, 1)
        drawn = [
            {
                "problem_id": problem.id,
                "seed": 0,
                "sample_index": 0,
                "self_reward": -1.0,
                "num_tokens": 5,
                "finish_reason": "eos",
                "correct": i % 2 == 0,
                "num_forward_tokens": price,
                "num_proposal_forward_tokens": None if proposal is None else price,
            }
            for i, problem in reversed(list(enumerate(problems)))  # as chains finish: in any order
        ]
        result = evaluation.Result(row.model, row.name, drawn, evaluation.summarize(drawn))
        return result, None

    def train(lm, lessons, folder, **_):
        return f"student of {len(lessons)}", None

    monkeypatch.setattr(flywheel, "measure", measure)
    monkeypatch.setattr(flywheel, "train_student", train)
    monkeypatch.setattr(
        flywheel,
        "_weighed",
        lambda job, lm, path: [flywheel.Weighed(p.id, 0.5, None, 0.1) for p in job.problems],
    )
    settings = {"max_new_tokens": 64, "block_size": 32, "num_mcmc_steps": 30, "alpha": 4.0}
    return flywheel.Job(
        lm=calls,
        folder=Path("nowhere"),
        test=TASK,
        problems=arithmetic.problems("test", 4),
        train=TASK,
        lessons=arithmetic.problems("train", 12),
        slices=(2, 10),
        teacher={**settings, "seed": 0, "num_samples": 1},
        num_student_moves=1,
        plain={"max_new_tokens": 64, "seed": 0, "num_samples": 1},
        num_importance=8,
        training={},
    )


def test_each_round_is_proposed_by_the_student_before_it(job):
    first, second = flywheel.rounds(job)
    drawn = [call for call in job.lm if call[0].startswith("Teacher")]
    assert [(name, len(ids), proposal) for name, ids, proposal in drawn] == [
        ("Teacher", 2, None),
        ("Teacher, round 2", 10, "student of 2"),
    ]
    assert [r["problem_id"] for r in second.lessons] == [p.id for p in job.lessons]
    assert (first.forward_tokens, second.forward_tokens) == (200, 200 + 10 * 20)
    assert (first.num_by_student, second.num_by_student) == (0, 100)
    row = job.student_teacher(1)
    assert row.settings["block_size"] == 64 and row.settings["move"] == "restart"
    assert (first.taught_by, second.taught_by) == ("base, 30 moves", "round 1's student, 1 move")


def test_equal_cost_is_not_exceeded(job):
    student = flywheel.algorithm_1(job, 450)
    assert student.forward_tokens == 400
    assert [r["problem_id"] for r in student.lessons] == [p.id for p in job.lessons[:4]]
    assert len(flywheel.algorithm_1(job, None).lessons) == 12


def test_the_page_and_the_figure_have_every_student(job, tmp_path):
    told = []
    students = flywheel.run(job, compares_all=True, on_student=told.append)
    assert students == told and [s.name for s in students] == [
        "round 1", "round 2", "Algorithm 1, equal cost", "Algorithm 1, all",
    ]  # fmt: skip
    cells = dict(zip(report.HEAD, report.cells(students[1]), strict=True))
    assert cells["answers"] == "12" and cells["k-hat > .7"] == "0 of 0" and cells["KL"] == "0.100"
    report.write(tmp_path, job, students[:2], students[2:])
    page = (tmp_path / "report.md").read_text()
    assert all(f"| {student.name} |" in page for student in students) and "flywheel.png" in page
    assert (tmp_path / "flywheel.png").read_bytes().startswith(b"\x89PNG")
    assert "(3.00 times ours)" in page


def test_slices_that_the_problems_do_not_fill_are_refused(job):
    with pytest.raises(ValueError, match="13 problems in all, and the task arithmetic has 12"):
        dataclasses.replace(job, slices=(3, 10))
    with pytest.raises(ValueError, match="one slice or more"):
        dataclasses.replace(job, slices=())
