"""Rows from a model: how problems are asked, what is kept, graded and learnt from."""

import dataclasses
import json

import pytest

from powerjax import distill, models, records, runs
from powerjax.models import text
from powerjax.plan.workload import Workload
from powerjax.runs import Row, grading
from powerjax.sample import spec
from powerjax.tasks import Problem, Task, arithmetic, registry
from powerjax.tasks.base import Graded, grade_each
from tests import tokenizer_folder

PLAIN = {"max_new_tokens": 16, "seed": 0, "num_samples": 2}
TASK = registry.get("arithmetic")


@pytest.fixture(scope="module")
def lm():
    return models.load("tiny", dtype="float32")


def _secret_task() -> Task:
    """A grader with two rules; no record holds the text that the second one reads."""

    def grade_all(problems, completions, **_):
        return [
            Graded(*arithmetic.grade(problem, said), {"boxed": True, "long": len(said) > 20})
            for problem, said in zip(problems, completions, strict=True)
        ]

    return dataclasses.replace(TASK, name="hidden", secret=True, grade_all=grade_all)


def _secret(problems):
    return [dataclasses.replace(problem, secret=True) for problem in problems]


@pytest.fixture(scope="module")
def measured(lm, tmp_path_factory):
    """(folder, row, problems, result) of a power row of secret problems."""
    folder = tmp_path_factory.mktemp("run")
    problems = _secret(arithmetic.problems(num=3))
    moves = {"alpha": 4.0, "block_size": 8, "num_mcmc_steps": 2}
    row = Row("Base", "Power", "power", {**PLAIN, **moves})
    result, stats = runs.measure(
        lm, problems, row, folder, task=_secret_task(), progress=False, grade=True
    )
    assert stats is not None
    return folder, row, problems, result


def test_a_row_that_is_whole_is_kept_without_the_model(measured):
    folder, row, problems, result = measured
    kept = runs.kept(problems, row, folder, task=_secret_task())
    assert kept == result and row.lacking(folder, problems) == 0
    assert all(record["grade_detail"]["boxed"] for record in kept.records)
    assert kept.stages and sum(moves for moves, _ in kept.stages) > 0
    assert row.lacking(folder, _secret(arithmetic.problems(num=5))) == 4
    more = dataclasses.replace(row, settings={**row.settings, "num_samples": 3})
    assert more.lacking(folder, problems) == 3
    assert runs.kept(problems, more, folder, task=_secret_task()) is None


def test_a_smaller_run_looks_at_its_own_records_alone(measured):
    folder, row, problems, _ = measured
    fewer = dataclasses.replace(row, settings={**row.settings, "num_samples": 1})
    found = runs.kept(problems[:2], fewer, folder, task=_secret_task())
    asked = {problem.id for problem in problems[:2]}
    assert {(r["problem_id"], r["sample_index"]) for r in found.records} == {(p, 0) for p in asked}
    assert found.stages == []  # the counts are of more chains


def test_what_is_to_do_goes_into_the_plan(measured):
    folder, row, problems, _ = measured
    assert row.to_do(folder, problems) == Workload("Base Power", spec.of("power", row.settings), 0)
    random = Row("RandW", "Standard", "standard", {**PLAIN, "num_samples": 3})
    assert random.to_do(folder, problems) == Workload(
        "RandW Standard", spec.Standard(max_new_tokens=16), 9, is_endless=True
    )


def test_a_row_without_all_its_verdicts_is_not_kept(measured, tmp_path):
    folder, row, problems, _ = measured
    for path in (row.path, row.verdicts):
        path(tmp_path).parent.mkdir()
        path(tmp_path).write_bytes(path(folder).read_bytes())
    assert runs.kept(problems, row, tmp_path, task=_secret_task()) is not None
    lines = row.verdicts(tmp_path).read_text().splitlines(keepends=True)
    row.verdicts(tmp_path).write_text("".join(lines[:-1]))
    assert runs.kept(problems, row, tmp_path, task=_secret_task()) is None


def test_secret_records_teach_what_open_ones_do(lm, measured):
    folder, row, problems, _ = measured
    made = records.read(row.path(folder))
    assert all(record["prompt"] is None and record["completion"] is None for record in made)
    by_id = {problem.id: problem.prompt for problem in problems}
    shown = [{**record, "prompt": by_id[record["problem_id"]]} for record in made]
    filled = runs.with_prompts(row.path(folder), problems)
    assert distill.load(lm, filled).fingerprint == distill.load(lm, shown).fingerprint


def test_a_secret_record_of_other_problems_is_refused(measured):
    folder, row, _, _ = measured
    others = _secret(arithmetic.problems("train", 3))
    with pytest.raises(ValueError, match="not made with that of these problems"):
        runs.with_prompts(row.path(folder), others)


def test_open_records_are_read_from_their_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "completion": "c"}) + "\n")
    assert runs.with_prompts(path, []) == path


def test_programs_are_graded_after_sampling(lm, tmp_path):
    asked_with = []

    def grade_all(problems, completions, *, num_workers=None, unsafe_exec=False, progress=False):
        asked_with.append(unsafe_exec)
        return grade_each(arithmetic.grade)(problems, completions)

    task = dataclasses.replace(TASK, quick=False, grade_all=grade_all, name="programs")
    problems = arithmetic.problems(num=2)
    row = Row("Base", "Standard", "standard", PLAIN)
    result, _ = runs.measure(
        lm, problems, row, tmp_path, task=task, progress=False, unsafe_exec=True
    )
    assert all(record["correct"] is None for record in records.read(row.path(tmp_path)))
    assert all(isinstance(record["correct"], bool) for record in result.records)
    assert asked_with == [True] and result.summary.accuracy is not None


class _Chatty:
    chat_template = "x"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return f"<{messages[0]['content']}>"


@pytest.mark.parametrize(
    "name, chat, template, asked",
    [
        ("Phi-3.5-mini-instruct", True, "auto", "<p>"),
        ("Phi-3.5-mini-instruct", False, "auto", "p"),
        ("Qwen2.5-7B", True, "auto", "p"),
        ("Qwen2.5-7B", True, "on", "<p>"),
        ("Phi-3.5-mini-instruct", True, "off", "p"),
    ],
)
def test_problems_are_asked_as_the_paper_asks(lm, name, chat, template, asked):
    chatty = dataclasses.replace(lm, tokenizer=_Chatty(), name=name)
    task = dataclasses.replace(TASK, chat=chat)
    problems = [Problem("a", "p", None), Problem("b", [1, 2], None)]
    found = runs.asked(chatty, task, problems, template)
    assert [problem.prompt for problem in found] == [asked, [1, 2]]
    assert [problem.style for problem in found] == ["chat" if asked == "<p>" else "raw", "raw"]


@pytest.mark.parametrize(
    ("template", "num_bos"),
    [("{{ bos_token }}Q:{{ messages[0].content }} A:", 1), ("Q:{{ messages[0].content }} A:", 0)],
)
def test_sampling_scoring_and_the_student_read_a_rendered_prompt_alike(
    template, num_bos, tiny_qwen, tmp_path
):
    """The tokenizer adds BOS to a raw prompt; a rendered one has its own or, as meant, none."""
    tokenizer = text.load_tokenizer(tokenizer_folder.write(tmp_path, chat_template=template))
    lm = dataclasses.replace(tiny_qwen, tokenizer=tokenizer, name="tiny-it", stop_ids=(1,))
    problems = runs.asked(lm, TASK, [Problem("a", "2+2=", "4")])
    assert [type(problem.prompt) for problem in problems] == [text.Rendered]
    row = Row("Base", "Standard", "standard", PLAIN)
    runs.measure(lm, problems, row, tmp_path, task=TASK, progress=False)
    ids = [0] * num_bos + lm.encode("Q:2+2= A:", special=False)
    made = records.read(row.path(tmp_path))
    for record in made:
        assert record["prompt_style"] == "chat" and record["prompt"].endswith("Q:2+2= A:")
        (scores,) = lm.score([ids], [record["tokens"]])
        assert record["log_probs"] == pytest.approx(scores.tolist(), abs=1e-4)
    corpus = distill.load(lm, row.path(tmp_path))
    assert [example.prompt for example in corpus.examples] == [ids, ids]
    texts = [{key: r[key] for key in ("prompt", "prompt_style", "completion")} for r in made]
    assert [example.prompt for example in distill.load(lm, texts).examples] == [ids, ids]
    scored = grading.rescore(lm, made, problems, tmp_path / "scores.jsonl", progress=False)
    for record in scored:
        assert record["evaluated_self_reward"] == pytest.approx(record["self_reward"], abs=1e-4)


def test_the_manifest_says_how_each_task_is_asked_and_why(lm, tmp_path):
    chatty = dataclasses.replace(lm, tokenizer=_Chatty(), name="org/Phi-3.5-mini-instruct")
    tasks = [registry.get("math500"), registry.get("humaneval")]
    for name, told in (("auto", "auto"), ("off", "off")):
        folder = records.open_run(tmp_path / name, {})
        runs.note_prompts(folder, chatty, tasks, told)
    noted = {
        name: json.loads((tmp_path / name / "manifest.json").read_text())["prompts"]
        for name in ("auto", "off")
    }
    assert noted["auto"]["math500"]["style"] == "chat"
    assert "'Phi-3.5-mini-instruct' says instruct" in noted["auto"]["math500"]["why"]
    assert noted["auto"]["humaneval"]["style"] == "raw"
    assert noted["off"]["math500"] == {"style": "raw", "why": "--chat_template=off"}


def test_losses_are_those_of_the_students_metrics(tmp_path):
    rows = [{"step": i, "loss": 3.0 - i} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert runs.losses(tmp_path) == (2, 2.0, 1.0)
