r"""HumanEval and MBPP: functions to write, graded by running them.

HumanEval's stub is asked as it is, a function's head and docstring to be continued; a chat model
gets the request of the paper's Phi runs around it. MBPP, whose prompt the paper does not give, is
asked by a docstring of the description and its first test (InCoder's, Fried et al. 2022), a chat
model by the request of Austin et al. (2021) with all tests. No chat template in either.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Sequence

from powerjax.tasks import sandbox, sources
from powerjax.tasks.answers import extraction
from powerjax.tasks.base import Graded, Problem, is_chat_model

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
# The tasks of MBPP that are kept for prompts (7 of the 427, so that 420 are left).
MBPP_PROMPT_TASKS = range(1, 11)


def wording(model: str) -> str:
    """STUB or REQUEST: how a model of this name is asked, unless the user says otherwise.

    Either is raw text, so that the name alone decides, whether there is a chat template or not.
    """
    return REQUEST if is_chat_model(model) else STUB


def load_humaneval(
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    wording: str = STUB,
) -> list[Problem]:
    """The first `limit` of the 164 problems; `answer` is the reference solution's body."""
    _check(wording)
    rows = sources.rows(HUMANEVAL, data_dir)[:limit]
    return [humaneval_problem(row, wording) for row in rows]


def humaneval_problem(row: sources.Row, wording: str = STUB) -> Problem:
    """A problem from a row in the form of HumanEval's file."""
    stub, name = row["prompt"], row["entry_point"]
    # Stub and tests name the helpers (`poly`) that the stub defines, so the tests run after it.
    tests = f"{row['test']}\ncheck({name})\n"
    setup = f"{stub}{' ' * (_docstring_indent(stub) or 4)}pass\n"
    meta = {"entry_point": name, "setup": setup, "tests": tests, "stub": stub}
    prompt = stub if wording == STUB else _request(stub, name)
    name = row["task_id"].replace("/", "-")
    return Problem(name, prompt, row["canonical_solution"], meta, style=wording)


def load_mbpp(
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    wording: str = STUB,
) -> list[Problem]:
    """The first `limit` of the 420 problems by number; `answer` is the reference solution."""
    _check(wording)
    rows = sorted(sources.rows(MBPP, data_dir), key=lambda row: row["task_id"])
    kept = [row for row in rows if row["task_id"] not in MBPP_PROMPT_TASKS]
    return [mbpp_problem(row, wording) for row in kept[:limit]]


def mbpp_problem(row: sources.Row, wording: str = STUB) -> Problem:
    """A problem from a row in the form of MBPP's sanitized file."""
    tests = "\n".join(row["test_list"])
    used = {node.id for node in ast.walk(_parsed(tests)) if isinstance(node, ast.Name)}
    setup, name = list(row["test_imports"]), None
    for node in _parsed(row["code"]).body:
        if isinstance(node, ast.FunctionDef) and node.name in used:
            name = node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            # Of task 596 the tests use `sys`, which only the reference solution imports.
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


def extract(problem: Problem, completion: str) -> str | None:
    """The code in a completion: a body for the problem's stub, or a whole program; None if none."""
    name, stub = problem.meta["entry_point"], problem.meta["stub"]
    parts = extraction.pieces(completion)
    if stub is None:
        found = extraction.whole(parts, name)
        return extraction.block(parts, name) if found is None else found
    found = extraction.body(parts, _docstring_indent(stub), name, stub)
    if found is None:
        found = extraction.whole(parts, name, stub)
    return extraction.block(parts, name, stub) if found is None else found


def program(problem: Problem, completion: str) -> sandbox.Program | None:
    """The program that a completion makes, with the problem's tests; None if it holds no code."""
    code, meta = extract(problem, completion), problem.meta
    if code is None:
        return None
    name, stub = meta["entry_point"], meta["stub"]
    if stub is None:
        source = code
    elif extraction.defines(code, name):  # after the stub's imports and helpers
        source = stub[: re.search(rf"^def\s+{re.escape(name)}\b", stub, re.M).start()] + code
    else:
        source = stub + extraction.fitted(code, _docstring_indent(stub))
    source = extraction.lifted(source)
    return sandbox.Program(source, meta["tests"], name, meta["setup"])


def grade(
    problem: Problem, completion: str, *, unsafe_exec: bool = False
) -> tuple[bool, str | None]:
    """(passed its tests, code). Raises as `sandbox.require` does."""
    (found,) = grade_all([problem], [completion], unsafe_exec=unsafe_exec)
    return found.correct, found.extracted


def grade_all(
    problems: Sequence[Problem],
    completions: Sequence[str],
    *,
    num_workers: int | None = None,
    progress: bool = False,
    unsafe_exec: bool = False,
    limits: sandbox.Limits | None = None,
) -> list[Graded]:
    """The verdicts of the sandbox, `num_workers` programs at a time (the number of cores).

    `detail` holds `status` (of `sandbox.Verdict`, or "no code"), `message` and `isolation`:
    "bubblewrap", or "rlimits" with `unsafe_exec`. Raises as `sandbox.require` does.
    """
    programs = [program(*pair) for pair in zip(problems, completions, strict=True)]
    verdicts = iter(
        sandbox.run_all(
            [one for one in programs if one is not None],
            limits=limits,
            unsafe_exec=unsafe_exec,
            num_workers=num_workers,
            progress=progress,
        )
    )
    isolation = sandbox.RLIMITS if unsafe_exec else sandbox.BUBBLEWRAP
    none = sandbox.Verdict("no code", "no code was found in the completion", isolation)
    graded = []
    for problem, completion, one in zip(problems, completions, programs, strict=True):
        verdict = none if one is None else next(verdicts)
        detail = {
            "status": verdict.status,
            "message": verdict.message,
            "isolation": verdict.isolation,
        }
        graded.append(Graded(verdict.passed, extract(problem, completion), detail))
    return graded


def _parsed(text: str) -> ast.Module:
    with warnings.catch_warnings():  # MBPP writes "\d" for r"\d"
        warnings.simplefilter("ignore")
        return ast.parse(text)


def _check(wording: str) -> None:
    if wording not in (STUB, REQUEST):
        raise ValueError(f"there is no wording {wording!r}: choose {STUB} or {REQUEST}")


def _request(stub: str, name: str) -> str:
    """The paper's request to Phi. The description is the first docstring of the stub."""
    signature = re.search(rf"def\s+({re.escape(name)}.*?):\s*\n", stub)[1]
    docstring = re.search(r"(\"\"\"|''')(.*?)\1", stub, re.DOTALL)[2]
    description = "\n".join(line.strip() for line in docstring.split("\n"))
    return (
        f"Write a Python function `{signature}` to solve the following problem:\n"
        f"{description}\n{stub}"
    )


def _docstring_indent(stub: str) -> int:
    """Columns of the stub's last line, which its docstring ends; 0 if it has no docstring."""
    last = stub.rstrip().split("\n")[-1]
    return len(last) - len(last.lstrip()) if last.endswith(('"""', "'''")) else 0
