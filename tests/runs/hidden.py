"""A task of secret problems, for tests of what their records show and hide."""

import dataclasses

from powerjax.tasks import Graded, Problem, Task, arithmetic, registry


def task() -> Task:
    """Returns a task whose grader has two rules. The second reads a text that no record holds."""

    def grade_all(problems, completions, **_):
        return [
            Graded(*arithmetic.grade(problem, text), {"boxed": True, "long": len(text) > 20})
            for problem, text in zip(problems, completions, strict=True)
        ]

    return dataclasses.replace(
        registry.get("arithmetic"), name="hidden", secret=True, grade_all=grade_all
    )


def secret(problems: list[Problem]) -> list[Problem]:
    """Returns the problems as secret ones."""
    return [dataclasses.replace(problem, secret=True) for problem in problems]
