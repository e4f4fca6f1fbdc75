r"""Made-up word problems of three to five steps of arithmetic below 100, answered in \boxed{}.

    Ann has 44 coins, doubles them, buys 7, gives Gus 5. How many coins?
    A: 44*2=88. 88+7=95. 95-5=90. \boxed{90}

A completion may write any number of the steps before it jumps to the boxed answer. The model cannot
compute the answer in one forward pass, so after an early jump its distribution over answers is
diffuse, while worked steps leave it peaked. The two kinds of completion thus differ in the entropy
of what follows, a difference that by Prop. 1 (Eq. 7) the power distribution sees and sampling with
a token temperature does not.
"""

from __future__ import annotations

import os
import random
import re
import zlib

from powerjax.tasks.base import Problem

NAMES = ("Ann", "Bob", "Eve", "Gus", "Ivy", "Joy", "Kim", "Leo", "Max", "Sam", "Tom", "Zoe")
OBJECTS = ("beads", "books", "cards", "coins", "eggs", "kites", "nuts", "pens", "shells", "stones")
GAINS = ("buys", "earns", "finds", "gets", "wins")
LOSSES = ("drops", "loses", "sells", "gives")
SPLITS = ("train", "test")

# One numeric trace in eight belongs to the test split. This depends on the trace alone, so the
# splits stay disjoint for all seeds and sizes.
TEST_SHARE = 8

# Probability of jumping to the boxed answer before the first step, and before each later one.
FIRST_JUMP = 0.50
LATER_JUMP = 0.15

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")

Step = tuple[str, int]


def problems(split: str = "test", num: int = 200, seed: int = 0) -> list[Problem]:
    """Returns the first `num` problems of an endless stream; a larger `num` only appends.

    No numeric trace (`44*2+7-5`) of one split occurs in the other, whatever the seeds.

    Args:
      split: "train" or "test".
      num: how many problems.
      seed: which of the split's streams.
    """
    if split not in SPLITS:
        raise ValueError(f"arithmetic has no split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"arithmetic/{split}/{seed}")
    return [_problem(f"{split}-{seed}-{index}", split, rng) for index in range(num)]


def load(
    split: str = "test", limit: int | None = None, *, data_dir: str | os.PathLike | None = None
) -> list[Problem]:
    """Returns the first `limit` problems of `split` with seed 0; 200 if no limit is given.

    They are made and not read, so `data_dir` is not used. experiments.evaluate knows that this task
    is endless, and loads as many problems as the records it grades refer to.
    """
    del data_dir
    return problems(split, 200 if limit is None else limit)


def grade(problem: Problem, completion: str) -> tuple[bool, str | None]:
    r"""Returns (whether the last `\boxed{}` holds the reference, the content of that box)."""
    contents = _BOXED.findall(completion)
    if not contents:
        return False, None
    answer = contents[-1].strip()
    return answer == problem.answer, answer


def completion(problem: Problem, rng: random.Random) -> str:
    """Returns a correct completion: worked steps up to a random jump, then the boxed answer."""
    text, value = "", problem.detail("start")
    for index, (operation, operand) in enumerate(problem.detail("steps")):
        if rng.random() < (LATER_JUMP if index else FIRST_JUMP):
            break
        result = apply(value, operation, operand)
        text += f" {value}{operation}{operand}={result}."
        value = result
    return rf"{text} \boxed{{{problem.answer}}}"


def trace(problem: Problem) -> str:
    """Returns the problem's numbers without its words, such as `44*2+7-5`."""
    return _trace(problem.detail("start"), problem.detail("steps"))


def apply(value: int, operation: str, operand: int) -> int:
    """Returns the value after one step."""
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operation]


def _trace(start: int, steps: list[Step]) -> str:
    return str(start) + "".join(f"{operation}{operand}" for operation, operand in steps)


def _problem(name: str, split: str, rng: random.Random) -> Problem:
    while True:
        start = rng.randint(10, 49)
        steps, answer = _draw_steps(start, rng)
        is_of_test = zlib.crc32(_trace(start, steps).encode()) % TEST_SHARE == 0
        if is_of_test == (split == "test"):
            break
    owner, item = rng.choice(NAMES), rng.choice(OBJECTS)
    clauses = [f"{owner} has {start} {item}"]
    clauses += [_clause(step, owner, rng) for step in steps]
    prompt = f"{', '.join(clauses)}. How many {item}?\nA:"
    return Problem(name, prompt, str(answer), {"start": start, "steps": steps})


def _draw_steps(value: int, rng: random.Random) -> tuple[list[Step], int]:
    """Returns three to five steps that keep the value in 2..99, and the value they lead to."""
    steps = []
    for _ in range(rng.randint(3, 5)):
        weights = {"+": 3 * (value <= 94), "-": 3 * (value >= 12), "*": 2 * (6 <= value <= 49)}
        operation = rng.choices(list(weights), list(weights.values()))[0]
        operand = 2 if operation == "*" else rng.randint(2, 9)
        while not 2 <= apply(value, operation, operand) <= 99:
            operand = rng.randint(2, 9)
        steps.append((operation, operand))
        value = apply(value, operation, operand)
    return steps, value


def _clause(step: Step, owner: str, rng: random.Random) -> str:
    operation, operand = step
    if operation == "*":
        return "doubles them"
    verb = rng.choice(GAINS if operation == "+" else LOSSES)
    if verb == "gives":
        return f"gives {rng.choice([name for name in NAMES if name != owner])} {operand}"
    return f"{verb} {operand}"
