"""Tasks by name, where their rows come from, and what is said when they are not there."""

import dataclasses
import gzip
import json
import subprocess
import sys

import pytest

from powerjax.tasks import Problem, arithmetic, registry, sources

FROM_FILES = ("math500", "math_train", "gsm8k", "gpqa_diamond", "gpqa_rest")


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_name_is_a_task(name):
    task = registry.get(name)
    assert task.name == name
    assert task.max_new_tokens >= task.block_size


def test_every_set_loads_from_the_data_folder(data_dir):
    sizes = {"math500": 500, "math_train": 500, "gsm8k": 1319, "humaneval": 164, "mbpp": 420}
    for name, size in {**sizes, "arithmetic": 200}.items():
        task = registry.get(name)
        problems = task.load(data_dir=data_dir)
        assert len(problems) == len({problem.id for problem in problems}) == size
        assert task.load(data_dir=data_dir, limit=2) == problems[:2]
        assert not any(problem.secret for problem in problems)


@pytest.mark.parametrize("name", sorted(set(registry.NAMES) - {"gpqa_diamond", "gpqa_rest"}))
def test_ids_have_the_form_that_records_and_splits_need(data_dir, name):
    task = registry.get(name)
    for split in task.splits or (None,):
        of_split = {} if split is None else {"split": split}
        ids = [problem.id for problem in task.load(data_dir=data_dir, limit=3, **of_split)]
        assert len(ids) == 3 and not any("/" in each for each in ids)
        assert split is None or all(each.startswith(f"{split}-") for each in ids)


def test_a_problem_names_what_it_lacks():
    problem = Problem("p", "", None, {"start": 1})
    assert problem.detail("start") == 1
    with pytest.raises(ValueError, match="no answer to problem p is known"):
        _ = problem.reference
    with pytest.raises(ValueError, match="problem p has no 'stub': it is of another task"):
        problem.detail("stub")


@pytest.mark.parametrize("name", ["math500", "gsm8k", "arithmetic"])
def test_one_by_one_and_all_at_once_agree(data_dir, name):
    task = registry.get(name)
    problems = task.load(data_dir=data_dir, limit=3)
    texts = [f"\\boxed{{{problems[0].answer}}}"] * 3
    graded = task.grade_all(problems, texts)
    assert graded[0].correct is True
    for problem, text, verdict in zip(problems, texts, graded, strict=True):
        assert task.grade(problem, text) == (verdict.correct, verdict.extracted)


def test_chat_models_are_asked_through_their_template_where_the_paper_does():
    styles = {
        (name, model): registry.get(name).prompt_style(model)
        for name in ("math500", "gpqa_diamond", "humaneval")
        for model in ("Qwen/Qwen2.5-Math-7B", "microsoft/Phi-3.5-mini-instruct")
    }
    assert [key for key, style in styles.items() if style == "chat"] == [
        ("math500", "microsoft/Phi-3.5-mini-instruct")
    ]


def test_the_wording_is_that_for_the_model_unless_given(data_dir):
    task = registry.get("humaneval")
    stub = task.load_for("Qwen/Qwen2.5-7B", data_dir=data_dir, limit=1)
    request = task.load_for("microsoft/Phi-3.5-mini-instruct", data_dir=data_dir, limit=1)
    assert stub == task.load(data_dir=data_dir, limit=1)
    assert request[0].prompt.startswith("Write a Python function `has_close_elements(")
    assert task.load_for("Qwen", data_dir=data_dir, limit=1, wording="request") == request
    assert registry.get("arithmetic").load_for("tiny", limit=1) == arithmetic.load(limit=1)


def test_a_file_is_a_task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "6*7=", "answer": "42"}\n{"prompt": "2+2="}\n')
    task = registry.get(str(path))
    assert task.name == "mine"
    problems = task.load(limit=2)
    assert [p.prompt for p in problems] == ["6*7=", "2+2="]
    assert [g.correct for g in task.grade_all(problems, ["42", "4"])] == [True, None]


@pytest.mark.parametrize(
    "name, line",
    [
        ("mat500", "--task=mat500: choose math500, math_train, .*, or a JSONL file that is there"),
        ("mine.jsonl", "--task=mine.jsonl: there is no such file"),
    ],
)
def test_an_unknown_name_ends_in_one_line(name, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        registry.get(name)


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_missing_folder_or_file_says_what_to_fetch(tmp_path, name):
    for folder, says in ((tmp_path / "no", "is not a folder"), (tmp_path, "holds no")):
        with pytest.raises(FileNotFoundError) as raised:
            registry.get(name).load(data_dir=folder)
        line = str(raised.value)
        assert says in line and str(folder) in line and "https://" in line and "\n" not in line


@pytest.mark.parametrize("name", FROM_FILES)
def test_no_hub_ends_in_one_line(monkeypatch, name):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError) as raised:
        registry.get(name).load()
    line = str(raised.value)
    assert "cannot be had from the hub (Couldn't reach the Hub)" in line
    assert "--data_dir" in line and "\n" not in line


def test_rows_from_the_hub_are_asked_for_by_id_and_checked(monkeypatch):
    import datasets

    calls = []

    def load_dataset(hub, config, split):
        calls.append((hub, config, split))
        return datasets.Dataset.from_list([{"question": "q", "answer": "#### 1"}] * 1319)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = registry.get("gsm8k").load(limit=3)
    assert calls == [("openai/gsm8k", "main", "test")]
    assert [problem.answer for problem in problems] == ["1"] * 3
    with pytest.raises(ValueError, match="row 1 of HuggingFaceH4/MATH-500 on the hub has no probl"):
        registry.get("math500").load()


SOURCE = sources.Source("toy", ("toy.json",), "https://x/toy.json", "a/b", "test", ("q",), 2)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ('[{"q": 1}]', "has 1 rows and not 2"),
        ('[{"q": 1}, {"p": 1}]', "row 2 of .* has no q"),
        ('{"q": 1}', "is not a list of rows"),
        ('[{"q": 1}, {"q"', "cannot be read .*: fetch it again"),
    ],
)
def test_a_cut_or_wrong_file_is_noticed(tmp_path, text, complaint):
    (tmp_path / "toy.json").write_text(text)
    with pytest.raises(ValueError, match=complaint) as raised:
        sources.rows(SOURCE, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "row, complaint",
    [
        ('{"prompt": 5}', "row 2 of .*: prompt must be text, and is 5"),
        ('{"prompt": "\\ud800"}', "prompt must be text, and is text with half a surrogate pair"),
        ('{"prompt": "a", "test_list": "b"}', "test_list must be a list of texts, and is text"),
        ('{"prompt": NaN}', "cannot be read .*NaN"),
        ('{"prompt": ' + "[" * 100_000, "cannot be read .*nested too deep"),
    ],
)
def test_a_row_with_a_field_of_the_wrong_kind_is_noticed(tmp_path, row, complaint):
    source = dataclasses.replace(SOURCE, fields=("prompt", "test_list"))
    good = '{"prompt": "a", "test_list": ["b"]}'
    row = row.replace("}", ', "test_list": ["b"]}') if "test_list" not in row else row
    (tmp_path / "toy.json").write_text(f"[{good}, {row}]")
    with pytest.raises(ValueError, match=complaint) as raised:
        sources.rows(source, tmp_path)
    assert "\n" not in str(raised.value)


def test_zipped_lines_are_read(tmp_path):
    path = tmp_path / "toy.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(json.dumps({"q": i}).encode() for i in range(2))))
    assert sources.read(path) == [{"q": 0}, {"q": 1}]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read"):
        sources.read(path)


def test_looking_up_a_task_imports_no_heavy_package():
    heavy = ("sympy", "math_verify", "datasets", "jax", "transformers")
    code = f"""
import sys
from powerjax.tasks import registry
for name in registry.NAMES:
    registry.get(name)
print([name for name in {heavy} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_token_ids_are_a_prompt_too():
    from powerjax.tasks.base import prompt_hash

    assert prompt_hash(Problem("p", [1, 2], None)) != prompt_hash(Problem("p", "[1,2]", None))
