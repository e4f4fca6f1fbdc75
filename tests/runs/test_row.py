"""A row of a table: what is still to draw, when it is finished, and when it is graded."""

import dataclasses

from powerjax import records, runs
from powerjax.plan.workload import Workload
from powerjax.runs import Row
from powerjax.sample import spec
from powerjax.tasks import arithmetic, registry
from powerjax.tasks.base import grade_each
from tests.runs import hidden

PLAIN = {"max_new_tokens": 16, "seed": 0, "num_samples": 2}


def test_a_row_that_is_whole_is_finished_without_the_model(measured):
    folder, row, problems, result = measured
    finished = runs.finished_result(problems, row, folder, task=hidden.task())
    assert finished == result and row.lacking(folder, problems) == 0
    assert all(record["grade_detail"]["boxed"] for record in finished.records)
    assert finished.stages and sum(moves for moves, _ in finished.stages) > 0
    assert row.lacking(folder, hidden.secret(arithmetic.problems(num=5))) == 4
    another = dataclasses.replace(row, settings={**row.settings, "num_samples": 3})
    assert another.lacking(folder, problems) == 3
    assert runs.finished_result(problems, another, folder, task=hidden.task()) is None


def test_a_smaller_run_looks_at_its_own_records_alone(measured):
    folder, row, problems, _ = measured
    fewer = dataclasses.replace(row, settings={**row.settings, "num_samples": 1})
    result = runs.finished_result(problems[:2], fewer, folder, task=hidden.task())
    ids = {problem.id for problem in problems[:2]}
    assert {(r["problem_id"], r["sample_index"]) for r in result.records} == {(p, 0) for p in ids}
    assert result.stages == []  # the counts are of more chains


def test_what_is_to_do_goes_into_the_plan(measured):
    folder, row, problems, _ = measured
    assert row.to_do(folder, problems) == Workload("Base Power", spec.of("power", row.settings), 0)
    random = Row("RandW", "Standard", "standard", {**PLAIN, "num_samples": 3})
    assert random.to_do(folder, problems) == Workload(
        "RandW Standard", spec.Standard(max_new_tokens=16), 9, is_endless=True
    )


def test_a_row_without_all_its_verdicts_is_not_finished(measured, tmp_path):
    folder, row, problems, _ = measured
    for path in (row.path, row.verdicts):
        path(tmp_path).parent.mkdir()
        path(tmp_path).write_bytes(path(folder).read_bytes())
    assert runs.finished_result(problems, row, tmp_path, task=hidden.task()) is not None
    lines = row.verdicts(tmp_path).read_text().splitlines(keepends=True)
    row.verdicts(tmp_path).write_text("".join(lines[:-1]))
    assert runs.finished_result(problems, row, tmp_path, task=hidden.task()) is None


def test_programs_are_graded_after_sampling(lm, tmp_path):
    unsafe = []

    def grade_all(problems, completions, *, num_workers=None, unsafe_exec=False, progress=False):
        unsafe.append(unsafe_exec)
        return grade_each(arithmetic.grade)(problems, completions)

    task = dataclasses.replace(
        registry.get("arithmetic"), quick=False, grade_all=grade_all, name="programs"
    )
    problems = arithmetic.problems(num=2)
    row = Row("Base", "Standard", "standard", PLAIN)
    result, _ = runs.measure(
        lm, problems, row, tmp_path, task=task, progress=False, unsafe_exec=True
    )
    assert all(record["correct"] is None for record in records.read(row.path(tmp_path)))
    assert all(isinstance(record["correct"], bool) for record in result.records)
    assert unsafe == [True] and result.summary.accuracy is not None
