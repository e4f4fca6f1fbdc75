"""Verdicts and scores for records that exist: what is filled in, what is kept, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import models, records, sample
from powerjax.runs import grading
from powerjax.tasks import Graded, Problem, Task, registry
from powerjax.tasks.base import without_text

PROBLEMS = [Problem(f"p{i}", f"{i}+{i}=", str(2 * i)) for i in range(5)]


class _Grader:
    """Right if the completion is the answer; counts, and stops before a call if told to."""

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


def _record(problem, index, completion="4", **fields):
    name = f"sums/{problem}/m/standard/0/{index}"
    fields = {"completion": completion, "tokens": [index % 90, 0], "finish_reason": "eos", **fields}
    return {"id": name, "task": "sums", "problem_id": problem, **fields}


def _many(num=200):
    return [_record(f"p{i % 5}", i, str(i % 7)) for i in range(num)]


def test_records_get_verdicts_and_keep_what_they_have(task):
    made = [_record("p2", 0, "4", strange=7), _record("p3", 1, "4", correct=True)]
    found = grading.grade_records(made, task, PROBLEMS, progress=False)
    assert [r["correct"] for r in found] == [True, False]
    assert [r["extracted_answer"] for r in found] == ["4", "4"]
    assert found[1]["grade_detail"] == {"rules": False, "other": True}
    assert found[0]["strange"] == 7 and "correct" not in made[0]


def test_a_run_that_stopped_goes_on_and_a_torn_line_is_made_again(task, grader, tmp_path):
    made, path = _many(), tmp_path / "inside" / "verdicts.jsonl"
    whole = grading.grade_records(made, task, PROBLEMS, progress=False)
    grader.calls, grader.graded, grader.stop_at = 0, 0, 3
    with pytest.raises(KeyboardInterrupt):
        grading.grade_records(made, task, PROBLEMS, path, progress=False)
    kept = len(records.read(path))
    assert kept == grader.graded and 0 < kept < len(made)
    text = path.read_bytes()
    path.write_bytes(text[:-9])  # as if it had been killed in the middle of its last line
    grader.graded, grader.stop_at = 0, None
    assert grading.grade_records(made, task, PROBLEMS, path, progress=False) == whole
    assert grader.graded == len(made) - kept + 1
    grader.graded = 0
    more = [*made, _record("p1", 777, "2")]  # the sampler went on in the meantime
    assert grading.grade_records(more, task, PROBLEMS, path, progress=False)[:-1] == whole
    assert grader.graded == 1


def test_verdicts_on_other_completions_are_refused(task, tmp_path):
    path = tmp_path / "verdicts.jsonl"
    grading.grade_records([_record("p1", 0)], task, PROBLEMS, path, progress=False)
    others = [
        ([_record("p1", 0, tokens=[9, 0])], PROBLEMS),
        ([_record("p1", 0, "5")], PROBLEMS),
        ([_record("p1", 0)], [dataclasses.replace(PROBLEMS[1], answer="3")]),
    ]
    for made, problems in others:
        with pytest.raises(ValueError, match=r"verdicts.jsonl holds a result for another") as error:
            grading.grade_records(made, task, problems, path, progress=False)
        assert "\n" not in str(error.value)


def test_records_that_cannot_be_graded_are_named_in_one_line(task):
    good = _record("p1", 0)
    cases = [
        ([good, {**good, "id": None}], "record 2 of 2 has no id"),
        ([good, good], "two records have the id 'sums/p1/m/standard/0/0'"),
        ([{**good, "task": "math500"}], "is of the task math500, and not of sums"),
        ([{**good, "problem_id": "p9"}], "of the problem 'p9', which is not among the 5 of sums"),
        ([{**good, "completion": None}], "give --model, whose tokenizer reads them"),
        ([{**good, "completion": None, "tokens": None}], "neither a completion nor tokens"),
    ]
    for made, expected in cases:
        with pytest.raises(ValueError, match=expected) as error:
            grading.grade_records(made, task, PROBLEMS, progress=False)
        assert "\n" not in str(error.value)


def test_record_files_are_read_together_and_faults_name_the_place(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = [json.dumps(_record("p1", i)) for i in range(3)]
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
    rows = [_record(name, 0, task="prompts") for name in (0, 2**64 - 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"prompt": "2+2=", "answer": 4, "problem_id": row["problem_id"]} for row in rows]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in asked))
    task = dataclasses.replace(registry.get(str(prompts)), name="prompts")
    graded = grading.grade_records(grading.load([path]), task, task.load(), progress=False)
    assert [record["correct"] for record in graded] == [True, True]


def test_secret_text_is_graded_and_not_kept(tmp_path):
    task = registry.get("gpqa_diamond")
    secret = Problem("rec0", "zorbs?", "B", secret=True)
    made = [
        without_text(secret, {**_record("rec0", i), "task": task.name, "prompt": secret.prompt})
        for i in range(2)
    ]
    texts = {0: r"zorbs: \boxed{B}", 1: "zorbs, so A \\boxed{A} B"}
    asked = []

    def decode(tokens):
        asked.append(tokens)
        return texts[tokens[0]]

    path = tmp_path / "verdicts.jsonl"
    found = grading.grade_records(made, task, [secret], path, decode=decode, progress=False)
    assert [r["correct"] for r in found] == [True, False]
    assert [r["extracted_answer"] for r in found] == ["B", "A"]
    assert found[1]["grade_detail"] == {"boxed": False, "last_letter": True}
    assert asked == [[0], [1]]  # the end of the completion is no text
    assert "zorbs" not in path.read_text() and "zorbs" not in json.dumps(found)
    # Without a tokenizer the verdict that was given as it was sampled stands.
    given = [{**made[0], "correct": False, "extracted_answer": "A"}]
    (kept,) = grading.grade_records(given, task, [secret], progress=False)
    assert kept == {**given[0], "grade_detail": None}


@pytest.fixture(scope="module")
def lm():
    return models.load("tiny", dtype="float32")


@pytest.fixture(scope="module")
def sampled(lm):
    task = registry.get("arithmetic")
    problems = task.load(limit=3)
    prompts = [problem.prompt for problem in problems]
    made = sample.standard(
        lm, prompts, ids=[p.id for p in problems], max_new_tokens=32, num_slots=4, progress=False
    ).to_records("arithmetic")
    return problems, [{**r, "prompt": p} for r, p in zip(made, prompts, strict=True)]


def test_a_model_that_scores_its_own_completions_agrees_with_the_sampler(lm, sampled, tmp_path):
    problems, made = sampled
    path = tmp_path / "scores.jsonl"
    found = grading.rescore(lm, made, problems, path, progress=False)
    for record in found:
        assert record["evaluated_self_reward"] == pytest.approx(record["self_reward"], abs=1e-4)
        assert record["evaluated_log_prob"] == pytest.approx(record["log_prob"], abs=1e-3)
        assert (record["evaluated_model"], record["evaluated_as"]) == ("tiny", "tokens")
    before = path.read_bytes()
    assert grading.rescore(lm, made, problems, path, progress=False) == found
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="another completion, answer or model"):
        grading.rescore(lm, made, problems, path, model="another", progress=False)


def test_another_tokenizers_completion_is_scored_by_its_text(lm, sampled):
    problems, made = sampled
    foreign = [{**record, "tokens": [5000 + i for i in record["tokens"]]} for record in made]
    found = grading.rescore(lm, foreign, problems, progress=False)
    own = grading.rescore(lm, made, problems, progress=False)
    for ours, theirs, record in zip(own, found, made, strict=True):
        assert theirs["evaluated_as"] == "text"
        # A text has several spellings in tokens; where it is the model's own, so is the score.
        tokens = lm.encode(record["completion"], special=False)
        if [*tokens, *lm.stop_ids[:1]] == record["tokens"] or tokens == record["tokens"]:
            assert theirs["evaluated_log_prob"] == pytest.approx(ours["evaluated_log_prob"])


def test_secret_prompts_come_from_the_problems(tiny_qwen):
    secret = Problem("rec0", list(range(1, 9)), "B", secret=True)
    record = {**_record("rec0", 5, None, tokens=[7, 8, 0]), "prompt": secret.prompt}
    hidden = without_text(secret, record)
    (found,) = grading.rescore(tiny_qwen, [hidden], [secret], progress=False)
    (direct,) = tiny_qwen.score([secret.prompt], [[7, 8, 0]])
    assert found["evaluated_log_prob"] == pytest.approx(float(np.sum(direct)), rel=1e-6)
    with pytest.raises(ValueError, match="made with another prompt"):
        grading.rescore(tiny_qwen, [{**hidden, "prompt_sha256": "0"}], [secret], progress=False)
    with pytest.raises(ValueError, match="no prompt, and no problem gives it"):
        grading.rescore(tiny_qwen, [hidden], [], progress=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": [1, 97]}, "prompt has token id 97, outside the vocabulary of 97"),
        ({"tokens": [1, -1]}, "tokens has token id -1, outside the vocabulary of 97"),
        ({"prompt": 5}, "prompt is 5: give text"),
        ({"prompt": "text"}, "prompt is text, and tiny_qwen has no tokenizer"),
    ],
)
def test_a_record_that_cannot_be_scored_is_named(tiny_qwen, fields, words):
    made = [_record("p0", 0, None, prompt=[1, 2]), _record("p0", 1, None, prompt=[1, 2])]
    made[1] |= fields
    with pytest.raises(ValueError) as error:
        grading.rescore(tiny_qwen, made, [], progress=False)
    assert str(error.value).startswith(f"the record {made[1]['id']!r}: {words}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (1e5, "float16")])
def test_a_record_whose_score_is_not_finite_is_named_and_no_score_is_written(
    tiny_qwen, tmp_path, value, dtype
):
    params = jax.tree.map(lambda x: x.astype(dtype), tiny_qwen.params)
    table = params["embed_tokens"]["embedding"].at[50].set(value)
    params = {**params, "embed_tokens": {"embedding": table}}
    broken = dataclasses.replace(tiny_qwen, params=params, dtype=jnp.dtype(dtype))
    made = [_record("p0", i, None, prompt=[1, 2], tokens=[3, t, 4]) for i, t in enumerate([5, 50])]
    with pytest.raises(ValueError) as error:
        grading.rescore(broken, made, [], tmp_path / "scores.jsonl", model="m", progress=False)
    line = str(error.value)
    assert "under m are not finite; " in line and "\n" not in line
    assert ("bfloat16 or float32" in line) == (dtype == "float16")
    assert not (tmp_path / "scores.jsonl").read_bytes()


def test_a_text_of_more_tokens_than_the_model_has_is_named_by_its_record(lm):
    narrow = dataclasses.replace(lm, config=dataclasses.replace(lm.config, vocab_size=40))
    record = _record("p0", 0, "z", prompt=[1, 2], finish_reason="length")
    with pytest.raises(ValueError, match=r"/0': completion has token id .* vocabulary of 40"):
        grading.rescore(narrow, [record], [], progress=False)


def test_an_ended_record_without_tokens_is_read_as_text(lm):
    record = _record("p0", 0, "4", prompt=[1, 2], tokens=[])
    (found,) = grading.rescore(lm, [record], [], progress=False)
    assert found["evaluated_as"] == "text"
