"""HumanEval and MBPP: what is asked, what is found in an answer, and what the references score."""

import ast
import gzip
import json

import pytest

from powerjax.tasks import code, sandbox
from powerjax.tasks.base import Problem
from powerjax.tasks.code import extraction


@pytest.fixture(scope="module")
def data(request):
    return request.getfixturevalue("data_dir")


@pytest.fixture(scope="module")
def humaneval(data):
    return code.load_humaneval(data_dir=data)


@pytest.fixture(scope="module")
def mbpp(data):
    return code.load_mbpp(data_dir=data)


@pytest.mark.full
def test_every_humaneval_reference_passes_and_no_empty_body(bubblewrap, humaneval, record_property):
    answers = [problem.answer for problem in humaneval]
    graded = code.grade_all(humaneval * 3, answers + ["    pass\n"] * 164 + [""] * 164)
    failed = {p.id: g.detail for p, g in zip(humaneval, graded[:164], strict=True) if not g.correct}
    assert failed == {}
    assert {g.detail["isolation"] for g in graded} == {"bubblewrap"}
    assert [g.correct for g in graded[164:]] == [False] * 328
    assert {g.detail["status"] for g in graded[164:328]} == {"failed"}
    record_property("HumanEval references that pass", f"{164 - len(failed)} of 164")


@pytest.mark.full
def test_every_mbpp_reference_passes(bubblewrap, mbpp, record_property):
    graded = code.grade_all(mbpp, [problem.answer for problem in mbpp])
    failed = {p.id: g.detail for p, g in zip(mbpp, graded, strict=True) if not g.correct}
    assert failed == {}
    record_property("MBPP references that pass", f"{420 - len(failed)} of 420")


@pytest.mark.parametrize("unsafe_exec", [False, True])
def test_the_published_example_scores_a_half(request, data, unsafe_exec):
    if not unsafe_exec:
        request.getfixturevalue("bubblewrap")
    folder = data / "humaneval"
    row = json.loads((folder / "example_problem.jsonl").read_text())
    problem = code.humaneval_problem(row)
    lines = (folder / "example_samples.jsonl").read_text().splitlines()
    completions = [json.loads(line)["completion"] for line in lines]
    graded = code.grade_all(
        [problem] * 6,
        completions,
        unsafe_exec=unsafe_exec,
        num_workers=6,
        limits=sandbox.Limits(wall_s=3),  # what the file was published for
    )
    assert [g.correct for g in graded] == [False, False, False, True, True, True]
    assert graded[1].detail["status"] == "timeout"
    assert graded[0].detail["isolation"] == ("rlimits" if unsafe_exec else "bubblewrap")


STUB = '''from typing import List

def double(x):
    """ Doubles
    a number """
    return 2 * x

def add(x: List[int], y = 1) -> int:
    """ Adds {y: 1} to x.
      >>> add([1], 2)
      3
    """
'''
ROW = {
    "task_id": "HumanEval/7",
    "prompt": STUB,
    "entry_point": "add",
    "canonical_solution": "    return sum(x) + y\n",
    "test": "def check(candidate):\n    assert candidate([1], 2) == 3\n",
}
MBPP_ROW = {
    "task_id": 11,
    "prompt": "Write a function to add.",
    "code": "import sys\nimport re\ndef same(x): return x\ndef add(x, y):\n    return same(x) + y",
    "test_imports": ["import math"],
    "test_list": ["assert add(1, 2) == math.ceil(2.5)", "assert add(sys.maxsize, 0) > 1"],
}


def test_humaneval_is_asked_by_its_stub_and_phi_by_the_papers_request():
    problem = code.humaneval_problem(ROW)
    assert (problem.id, problem.prompt) == ("HumanEval-7", STUB)
    request = code.humaneval_problem(ROW, code.REQUEST)
    assert request.prompt == (
        "Write a Python function `add(x: List[int], y = 1) -> int` to solve the following"
        " problem:\nDoubles\na number\n" + STUB
    )
    assert request.meta == problem.meta and request.id == problem.id
    assert code.wording("microsoft/Phi-3.5-mini-instruct") == code.REQUEST
    assert code.wording("Qwen/Qwen2.5-Math-7B") == code.STUB


def test_the_request_for_a_published_problem(humaneval, data):
    (problem,) = code.load_humaneval(data_dir=data, limit=1, wording=code.REQUEST)
    assert problem.style == code.REQUEST
    assert code.load_humaneval(data_dir=data, limit=1)[0].style == code.STUB
    signature = "has_close_elements(numbers: List[float], threshold: float) -> bool"
    assert problem.prompt == (
        f"Write a Python function `{signature}` to solve the following problem:\n"
        "Check if in given list of numbers, are any two numbers closer to each other than\n"
        "given threshold.\n"
        ">>> has_close_elements([1.0, 2.0, 3.0], 0.5)\n"
        "False\n"
        ">>> has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3)\n"
        "True\n"
        "\n"
        f"{humaneval[0].prompt}"
    )
    for one in code.load_humaneval(data_dir=data, wording=code.REQUEST):
        assert one.prompt.endswith(one.meta["stub"])


def test_mbpp_is_asked_by_a_docstring_and_chat_models_by_a_request():
    problem = code.mbpp_problem(MBPP_ROW)
    assert problem.id == "MBPP-11"
    assert problem.prompt == (
        '"""\nWrite a function to add.\nassert add(1, 2) == math.ceil(2.5)\n"""\n'
    )
    # What the tests use of the reference's imports is imported for them, and no more.
    assert problem.meta["setup"] == "import math\nimport sys"
    assert problem.meta["entry_point"] == "add"
    assert code.mbpp_problem(MBPP_ROW, code.REQUEST).prompt == (
        "You are an expert Python programmer, and here is your task: Write a function to add. Your"
        " code should pass these tests:\n\nassert add(1, 2) == math.ceil(2.5)\n"
        "assert add(sys.maxsize, 0) > 1\n"
    )
    assert code.grade(problem, MBPP_ROW["code"], unsafe_exec=True) == (True, MBPP_ROW["code"])


def test_the_sets_have_the_published_sizes(humaneval, mbpp, data):
    assert len(humaneval) == 164 and len(mbpp) == 420
    assert len({problem.id for problem in humaneval + mbpp}) == 584
    assert not any("/" in problem.id for problem in humaneval + mbpp)
    assert mbpp[0].id == "MBPP-11"
    assert all(problem.meta["entry_point"] for problem in mbpp)
    assert code.load_mbpp(data_dir=data, limit=3) == mbpp[:3]


def test_data_that_is_missing_or_cut_short_is_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no humaneval/HumanEval.jsonl.gz; put http"):
        code.load_humaneval(data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no mbpp/sanitized-mbpp.json; put http"):
        code.load_mbpp(data_dir=tmp_path)
    (tmp_path / "humaneval").mkdir()
    with gzip.open(data / "humaneval/HumanEval.jsonl.gz", "rt") as file:
        rows = file.readlines()
    (tmp_path / "humaneval/HumanEval.jsonl").write_text("".join(rows[:100]))
    with pytest.raises(ValueError, match="has 100 rows and not 164"):
        code.load_humaneval(data_dir=tmp_path)
    with pytest.raises(ValueError, match="no wording 'chat': choose stub or request"):
        code.load_humaneval(data_dir=data, wording="chat")


BODY = "    y += 0\n    return sum(x) + y\n"
WHOLE = f"def add(x, y=1):\n{BODY}"
HELPED = f"import math\n\nLIMIT = 3\n\n@cache\ndef add(x, y=1):\n{BODY}\ndef tail():\n    pass"
DOCSTRING = f'def add(x, y=1):\n    """Adds.\nAt the margin, say.\n    """\n{BODY}'
CONTINUATIONS = {
    "a_body": (BODY, BODY),
    "then_a_function": (f"{BODY}\ndef main():\n    pass", BODY),
    "then_a_class": (f"{BODY}\nclass A:\n    pass", BODY),
    "then_a_comment": (f"{BODY}\n# Test\n", BODY),
    "then_a_guard": (f"{BODY}\nif __name__ == '__main__':\n    add()", BODY),
    "then_a_print": (f"{BODY}\nprint(add(1))", BODY),
    "then_a_fence": (f"{BODY}```\n\nIt adds.\n```python\n{WHOLE}```", BODY),
    "after_blank_lines": (f"\n\n{BODY}", f"\n\n{BODY}"),
    "after_a_comment": (f"# adds\n{BODY}", f"# adds\n{BODY}"),
    "without_its_first_space": (BODY[1:], BODY),
    "in_tabs": ("\treturn 3\n", "\treturn 3\n"),
    "indented_deeper": ("        return 3", "        return 3"),
}
ANSWERS = {
    "a_fence": (f"Sure!\n\n```python\n{WHOLE}```\nIt adds.", WHOLE),
    "a_fence_at_once": (f"```\n{WHOLE}```", WHOLE),
    "an_open_fence": (f"```python\n{WHOLE}", WHOLE),
    "an_indented_fence": (" Here:\n  ```py\n  def add(x):\n    return x\n  ```", None),
    "tildes": (f"So:\n~~~\n{WHOLE}~~~\n", WHOLE),
    "the_second_fence": (f"```\npip install x\n```\n```python\n{WHOLE}```", WHOLE),
    "an_example_after_it": (f"```python\n{WHOLE}```\n```python\nprint(add(1))\n```", WHOLE),
    "no_fence": (f"Here it is.\n\n{WHOLE}\nIt adds.\ndef add(): wrong", WHOLE),
    "no_fence_and_tests": (f"{WHOLE}\nassert add(1) == 2\n", WHOLE),
    "no_fence_and_helpers": (f"So, as asked:\n{HELPED}\n\nprint(add(1))\n", HELPED),
    "no_fence_and_a_wide_docstring": (f"{DOCSTRING}\nThat is all.", DOCSTRING),
}


@pytest.mark.parametrize("case", CONTINUATIONS)
def test_a_continuation_of_the_stub_is_found(case):
    completion, expected = CONTINUATIONS[case]
    problem = code.humaneval_problem(ROW)
    assert code.extract(problem, completion).rstrip("\n") == expected.rstrip("\n")
    assert code.program(problem, completion).source.startswith(STUB)


@pytest.mark.parametrize("kind", ["humaneval", "mbpp"])
@pytest.mark.parametrize("case", ANSWERS)
def test_a_whole_function_is_found(case, kind):
    completion, expected = ANSWERS[case]
    if expected is None:
        expected = "def add(x):\n  return x\n"
    problem = code.humaneval_problem(ROW) if kind == "humaneval" else code.mbpp_problem(MBPP_ROW)
    assert code.extract(problem, completion).rstrip("\n") == expected.rstrip("\n")
    source = code.program(problem, completion).source
    if kind == "humaneval":  # with the stub's imports and helpers
        assert source.startswith(STUB[: STUB.index("def add")] + expected[:10])


@pytest.mark.parametrize("completion", ["", "\n\n", "I do not know.", "# todo", "x = 1", "\0"])
def test_where_no_code_is_found_nothing_is_run(completion):
    for problem in (code.humaneval_problem(ROW), code.mbpp_problem(MBPP_ROW)):
        (graded,) = code.grade_all([problem], [completion], unsafe_exec=True)
        assert (graded.correct, graded.extracted) == (False, None)
        assert graded.detail["status"] == "no code" and graded.detail["isolation"] == "rlimits"


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_references_are_found_in_every_dress(humaneval, mbpp):
    def definition(source: str, name: str) -> str:
        found = [n for n in ast.parse(source).body if getattr(n, "name", None) == name]
        return ast.dump(found[-1])

    def check(problem: Problem, whole: str, dressed: list[str]) -> None:
        name = problem.meta["entry_point"]
        for completion in dressed:
            source = code.program(problem, completion).source
            assert definition(source, name) == definition(whole, name), (problem.id, completion)

    for problem in humaneval:
        body, whole = problem.answer, problem.meta["stub"] + problem.answer
        lost = [body[1:]] if body.startswith("    ") else []
        stops = [f"{body}{stop} " for stop in extraction.STOPS]
        fenced = f"Here is the function:\n\n```python\n{whole}\n```\n\nIt works."
        check(problem, whole, [body, *lost, *stops, fenced, f"{whole}\n\nIt works."])
    for problem in mbpp:
        whole = problem.answer
        tested = f"{whole}\n\n{problem.meta['tests']}"
        check(problem, whole, [whole, tested, f"Sure:\n```python\n{tested}\n```"])


def test_every_verdict_stands_with_its_own_completion():
    problem = code.humaneval_problem(ROW)
    right, wrong = "    return sum(x) + y", "    return 0"
    completions = [wrong, right, "", right, wrong]
    graded = code.grade_all([problem] * 5, completions, unsafe_exec=True, num_workers=2)
    assert [g.correct for g in graded] == [False, True, False, True, False]
    assert [g.extracted for g in graded] == [wrong, right, None, right, wrong]
    assert "the program gave 0" in graded[0].detail["message"]
