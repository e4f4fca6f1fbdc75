"""Verdicts on records that exist: what is filled in, what is kept, what is refused."""

import dataclasses
import json

import pytest

from powerjax import records
from powerjax.runs import grading
from powerjax.tasks import Graded, Problem, Task, registry
from powerjax.tasks.base import without_text
from tests.runs import sums

PROBLEMS = [Problem(f"p{i}", f"{i}+{i}=", str(2 * i)) for i in range(5)]


class _Grader:
    """Grades by equality with the answer, counts its calls, and stops before call `stop_at`."""

    def __init__(self):
        self.calls, self.graded, self.stop_at = 0, 0, None

    def __call__(self, problems, completions, *, num_workers=None, progress=False):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.graded += len(problems)
        return [
            Graded(p.answer == c, c, {"rules": p.answer == c, "other": True})
            for p, c in zip(problems, completions, strict=True)
        ]


@pytest.fixture
def grader():
    return _Grader()


@pytest.fixture
def task(grader):
    return Task("sums", load=None, grade=None, grade_all=grader)


def _many(num=200):
    return [sums.record(f"p{i % 5}", i, str(i % 7)) for i in range(num)]


def test_records_get_verdicts_and_keep_what_they_have(task):
    drawn = [sums.record("p2", 0, "4", strange=7), sums.record("p3", 1, "4", correct=True)]
    graded = grading.grade_records(drawn, task, PROBLEMS, progress=False)
    assert [r["correct"] for r in graded] == [True, False]
    assert [r["extracted_answer"] for r in graded] == ["4", "4"]
    assert graded[1]["grade_detail"] == {"rules": False, "other": True}
    assert graded[0]["strange"] == 7 and "correct" not in drawn[0]


def test_a_run_that_stopped_goes_on_and_a_torn_line_is_made_again(task, grader, tmp_path):
    drawn, path = _many(), tmp_path / "inside" / "verdicts.jsonl"
    whole = grading.grade_records(drawn, task, PROBLEMS, progress=False)
    grader.calls, grader.graded, grader.stop_at = 0, 0, 3
    with pytest.raises(KeyboardInterrupt):
        grading.grade_records(drawn, task, PROBLEMS, path, progress=False)
    num_written = len(records.read(path))
    assert num_written == grader.graded and 0 < num_written < len(drawn)
    text = path.read_bytes()
    path.write_bytes(text[:-9])  # as if it had been killed in the middle of its last line
    grader.graded, grader.stop_at = 0, None
    assert grading.grade_records(drawn, task, PROBLEMS, path, progress=False) == whole
    assert grader.graded == len(drawn) - num_written + 1
    grader.graded = 0
    longer = [*drawn, sums.record("p1", 777, "2")]  # the sampler went on in the meantime
    assert grading.grade_records(longer, task, PROBLEMS, path, progress=False)[:-1] == whole
    assert grader.graded == 1


def test_verdicts_on_other_completions_are_refused(task, tmp_path):
    path = tmp_path / "verdicts.jsonl"
    grading.grade_records([sums.record("p1", 0)], task, PROBLEMS, path, progress=False)
    others = [
        ([sums.record("p1", 0, tokens=[9, 0])], PROBLEMS),
        ([sums.record("p1", 0, "5")], PROBLEMS),
        ([sums.record("p1", 0)], [dataclasses.replace(PROBLEMS[1], answer="3")]),
    ]
    for drawn, problems in others:
        with pytest.raises(ValueError, match=r"verdicts.jsonl holds a result for another") as error:
            grading.grade_records(drawn, task, problems, path, progress=False)
        assert "\n" not in str(error.value)


def test_records_that_cannot_be_graded_are_named_in_one_line(task):
    good = sums.record("p1", 0)
    cases = [
        ([good, {**good, "id": None}], "record 2 of 2 has no id"),
        ([good, good], "two records have the id 'sums/p1/m/standard/0/0'"),
        ([{**good, "task": "math500"}], "is of the task math500, and not of sums"),
        ([{**good, "problem_id": "p9"}], "of the problem 'p9', which is not among the 5 of sums"),
        ([{**good, "completion": None}], "give --model, whose tokenizer reads them"),
        ([{**good, "completion": None, "tokens": None}], "neither a completion nor tokens"),
    ]
    for drawn, expected in cases:
        with pytest.raises(ValueError, match=expected) as error:
            grading.grade_records(drawn, task, PROBLEMS, progress=False)
        assert "\n" not in str(error.value)


def test_record_files_are_read_together_and_faults_name_the_place(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = [json.dumps(sums.record("p1", i)) for i in range(3)]
    a.write_text("\n".join(lines[:2]) + "\n")
    b.write_text(lines[2] + "\n" + lines[1][:20])  # half a line: the writer was killed
    assert [r["id"][-1] for r in grading.load([a, b])] == ["0", "1", "2"]
    b.write_text(lines[2] + "\n" + lines[0] + "\n")
    with pytest.raises(ValueError, match=r"b.jsonl, line 2: .* is that of .*a.jsonl, line 1"):
        grading.load([a, b])
    b.write_text('{"task": "sums"}\n')
    with pytest.raises(ValueError, match=r"b.jsonl, line 1: the record has no id"):
        grading.load([a, b])
    with pytest.raises(FileNotFoundError, match="no record file"):
        grading.load([tmp_path / "c.jsonl"])


def test_problems_named_by_numbers_are_those_of_the_file_of_prompts(tmp_path):
    """The samplers name problems as the caller does; a file of prompts names them by text."""
    path, prompts = tmp_path / "records.jsonl", tmp_path / "prompts.jsonl"
    rows = [sums.record(name, 0, task="prompts") for name in (0, 2**64 - 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [{"prompt": "2+2=", "answer": 4, "problem_id": row["problem_id"]} for row in rows]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in lines))
    task = dataclasses.replace(registry.get(str(prompts)), name="prompts")
    graded = grading.grade_records(grading.load([path]), task, task.load(), progress=False)
    assert [record["correct"] for record in graded] == [True, True]


def test_secret_text_is_graded_and_not_kept(tmp_path):
    task = registry.get("gpqa_diamond")
    secret = Problem("rec0", "zorbs?", "B", secret=True)
    drawn = [
        without_text(secret, {**sums.record("rec0", i), "task": task.name, "prompt": secret.prompt})
        for i in range(2)
    ]
    texts = {0: r"zorbs: \boxed{B}", 1: "zorbs, so A \\boxed{A} B"}
    decoded = []

    def decode(tokens):
        decoded.append(tokens)
        return texts[tokens[0]]

    path = tmp_path / "verdicts.jsonl"
    graded = grading.grade_records(drawn, task, [secret], path, decode=decode, progress=False)
    assert [r["correct"] for r in graded] == [True, False]
    assert [r["extracted_answer"] for r in graded] == ["B", "A"]
    assert graded[1]["grade_detail"] == {"boxed": False, "last_letter": True}
    assert decoded == [[0], [1]]  # the end of the completion is no text
    assert "zorbs" not in path.read_text() and "zorbs" not in json.dumps(graded)
    # Without a tokenizer the verdict that was given in sampling stands.
    sampled = [{**drawn[0], "correct": False, "extracted_answer": "A"}]
    (record,) = grading.grade_records(sampled, task, [secret], progress=False)
    assert record == {**sampled[0], "grade_detail": None}
