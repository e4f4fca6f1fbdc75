r"""The problems of HumanEval and MBPP: where they come from, and how models are asked.

HumanEval's stub, a function's head and docstring to be continued, is asked as it is. A chat model
gets the request of the paper's Phi runs around it. The paper does not give its prompt for MBPP.
Here a docstring with the description and the first test asks for it (as in InCoder, Fried et al.
2022), and a chat model gets the request of Austin et al. (2021) with all tests. Neither uses a chat
template.
"""

from __future__ import annotations

import ast
import os
import re
import warnings

from powerjax.tasks import sources
from powerjax.tasks.base import Problem, is_chat_model
from powerjax.tasks.code.assembly import docstring_columns

# How a problem is put to the model: as text to continue, or as a request.
STUB, REQUEST = "stub", "request"

HUMANEVAL = sources.Source(
    name="humaneval",
    files=("humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl"),
    url="https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz",
    hub="openai/openai_humaneval",
    split="test",
    fields=("task_id", "prompt", "entry_point", "canonical_solution", "test"),
    num_rows=164,
)
MBPP = sources.Source(
    name="mbpp",
    files=("mbpp/sanitized-mbpp.json",),
    url="https://github.com/google-research/google-research/raw/master/mbpp/sanitized-mbpp.json",
    hub="google-research-datasets/mbpp",
    config="sanitized",
    split="train+test+validation+prompt",
    fields=("task_id", "prompt", "code", "test_imports", "test_list"),
    num_rows=427,
)
# The tasks that MBPP reserves for prompts: 7 of the 427 rows, so that 420 are left.
MBPP_PROMPT_TASKS = range(1, 11)


def wording(model: str) -> str:
    """Returns STUB or REQUEST: how a model of this name is asked unless the user says otherwise.

    Both are raw text, so the name alone decides, whether or not there is a chat template.
    """
    return REQUEST if is_chat_model(model) else STUB


def load_humaneval(
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    wording: str = STUB,
) -> list[Problem]:
    """Returns the first `limit` of the 164 problems. `answer` is the reference solution's body."""
    _check(wording)
    rows = sources.rows(HUMANEVAL, data_dir)[:limit]
    return [humaneval_problem(row, wording) for row in rows]


def humaneval_problem(row: sources.Row, wording: str = STUB) -> Problem:
    """Returns the problem of a row in the form of HumanEval's file."""
    stub, name = row["prompt"], row["entry_point"]
    # Stub and tests name the helpers (`poly`) that the stub defines, so the tests run after it.
    tests = f"{row['test']}\ncheck({name})\n"
    setup = f"{stub}{' ' * (docstring_columns(stub) or 4)}pass\n"
    meta = {"entry_point": name, "setup": setup, "tests": tests, "stub": stub}
    prompt = stub if wording == STUB else _request(stub, name)
    problem_id = row["task_id"].replace("/", "-")
    return Problem(problem_id, prompt, row["canonical_solution"], meta, style=wording)


def load_mbpp(
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    wording: str = STUB,
) -> list[Problem]:
    """Returns the first `limit` of the 420 problems in the order of their numbers.

    `answer` is the reference solution.
    """
    _check(wording)
    rows = sorted(sources.rows(MBPP, data_dir), key=lambda row: row["task_id"])
    rows = [row for row in rows if row["task_id"] not in MBPP_PROMPT_TASKS]
    return [mbpp_problem(row, wording) for row in rows[:limit]]


def mbpp_problem(row: sources.Row, wording: str = STUB) -> Problem:
    """Returns the problem of a row in the form of MBPP's sanitized file."""
    tests = "\n".join(row["test_list"])
    used = {node.id for node in ast.walk(_parsed(tests)) if isinstance(node, ast.Name)}
    setup, name = list(row["test_imports"]), None
    for node in _parsed(row["code"]).body:
        if isinstance(node, ast.FunctionDef) and node.name in used:
            name = node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            # The tests of task 596 use `sys`, which only the reference solution imports.
            bound = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            setup += [ast.unparse(node)] * bool(bound & used)
    if wording == STUB:
        prompt = f'"""\n{row["prompt"]}\n{row["test_list"][0]}\n"""\n'
    else:
        prompt = (
            f"You are an expert Python programmer, and here is your task: {row['prompt']}"
            f" Your code should pass these tests:\n\n{tests}\n"
        )
    meta = {"entry_point": name, "setup": "\n".join(setup), "tests": tests, "stub": None}
    return Problem(f"MBPP-{row['task_id']}", prompt, row["code"], meta, style=wording)


def _parsed(text: str) -> ast.Module:
    with warnings.catch_warnings():  # MBPP writes "\d" for r"\d"
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _check(wording: str) -> None:
    if wording not in (STUB, REQUEST):
        raise ValueError(f"there is no wording {wording!r}: choose {STUB} or {REQUEST}")


def _request(stub: str, name: str) -> str:
    """Returns the paper's request to Phi. Its description is the first docstring of the stub."""
    signature = re.search(rf"def\s+({re.escape(name)}.*?):\s*\n", stub)
    docstring = re.search(r"(\"\"\"|''')(.*?)\1", stub, re.DOTALL)
    if signature is None or docstring is None:
        raise ValueError(f"the stub of {name} has no head or no docstring: use the wording {STUB}")
    description = "\n".join(line.strip() for line in docstring[2].split("\n"))
    return (
        f"Write a Python function `{signature[1]}` to solve the following problem:\n"
        f"{description}\n{stub}"
    )
