"""Grades completions of HumanEval and MBPP by running the code in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from powerjax.tasks import sandbox
from powerjax.tasks.base import Graded, Problem
from powerjax.tasks.code import assembly, extraction, fences


def extract(problem: Problem, completion: str) -> str | None:
    """Returns the code in a completion: a body for the problem's stub, or a whole program.

    None if the completion holds no code.
    """
    name, stub = problem.detail("entry_point"), problem.detail("stub")
    parts = fences.pieces(completion)
    if stub is None:
        stub, code = "", None
    else:
        code = extraction.body(parts, assembly.docstring_columns(stub), name, stub)
    if code is None:
        code = extraction.whole(parts, name, stub)
    return extraction.block(parts, name, stub) if code is None else code


def program(problem: Problem, completion: str) -> sandbox.Program | None:
    """Returns the program that a completion makes, with the problem's tests.

    None if the completion holds no code.
    """
    code = extract(problem, completion)
    if code is None:
        return None
    name, stub = problem.detail("entry_point"), problem.detail("stub")
    if stub is None:
        source = code
    elif extraction.defines(code, name):
        head = re.search(rf"^def\s+{re.escape(name)}\b", stub, re.M)
        helpers = stub[: head.start()] if head else stub  # the stub's imports and functions
        source = helpers + code
    else:
        source = stub + assembly.fitted(code, assembly.docstring_columns(stub))
    source = assembly.lifted(source)
    return sandbox.Program(source, problem.detail("tests"), name, problem.detail("setup"))


def grade(
    problem: Problem, completion: str, *, unsafe_exec: bool = False
) -> tuple[bool, str | None]:
    """Returns (whether the code passed its tests, the code). Raises as `sandbox.require` does."""
    (verdict,) = grade_all([problem], [completion], unsafe_exec=unsafe_exec)
    return bool(verdict.correct), verdict.extracted


def grade_all(
    problems: Sequence[Problem],
    completions: Sequence[str],
    *,
    num_workers: int | None = None,
    progress: bool = False,
    unsafe_exec: bool = False,
    limits: sandbox.Limits | None = None,
) -> list[Graded]:
    """Returns the verdicts of the sandbox. Raises as `sandbox.require` does.

    Each `detail` holds `status` (that of a `sandbox.Verdict`, or "no code"), `message` and
    `isolation`: "bubblewrap", or "rlimits" with `unsafe_exec`.

    Args:
      problems: the problem of each completion.
      completions: the completions.
      num_workers: how many programs run at a time; None for the number of cores.
      progress: whether a progress bar is shown.
      unsafe_exec: run the programs with resource limits alone (see `sandbox.programs`).
      limits: what each program may use; None for the default `sandbox.Limits`.
    """
    programs = [program(*pair) for pair in zip(problems, completions, strict=True)]
    verdicts = iter(
        sandbox.run_all(
            [each for each in programs if each is not None],
            limits=limits,
            unsafe_exec=unsafe_exec,
            num_workers=num_workers,
            progress=progress,
        )
    )
    isolation = sandbox.RLIMITS if unsafe_exec else sandbox.BUBBLEWRAP
    no_code = sandbox.Verdict("no code", "no code was found in the completion", isolation)
    graded = []
    for problem, completion, each in zip(problems, completions, programs, strict=True):
        verdict = no_code if each is None else next(verdicts)
        detail = {
            "status": verdict.status,
            "message": verdict.message,
            "isolation": verdict.isolation,
        }
        graded.append(Graded(verdict.passed, extract(problem, completion), detail))
    return graded
