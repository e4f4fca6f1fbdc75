"""What a reproduction of each task consists of: data, settings and the rows of its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax.evaluation import paper
from powerjax.runs.row import Row

TEACHER = "Teacher"  # the name of the row whose records the student learns from


@dataclasses.dataclass(frozen=True)
class Setup:
    """The data and the settings of one reproduction.

    Full runs of math, code and gpqa follow the paper, except that its 500 training problems of MATH
    are not published: `math_train` draws others. The sizes of quick runs and all of arithmetic are
    this project's choice.

    Attributes:
      test: what is measured: (name of a task, keywords of its `load`).
      train: what the teacher's records are drawn from, in the same form.
      sizes: the numbers of test and of train problems; None: all.
      quick_sizes: the same for a quick run, which is only a look.
      quick_max_new_tokens: the longest completion in a quick run.
      max_new_tokens: the longest completion otherwise.
      block_size: tokens that a stage of power sampling adds.
      num_mcmc_steps: moves per stage.
      alphas: the exponents of further rows of power sampling.
    """

    test: tuple[str, dict[str, Any]]
    train: tuple[str, dict[str, Any]]
    sizes: tuple[int | None, int | None] = (None, None)
    quick_sizes: tuple[int, int] = (50, 100)
    quick_max_new_tokens: int = 1024
    max_new_tokens: int = paper.MAX_NEW_TOKENS
    block_size: int = paper.BLOCK_SIZE
    num_mcmc_steps: int = paper.NUM_MCMC_STEPS
    alphas: tuple[float, ...] = ()


SETUPS = {
    "math": Setup(("math500", {}), ("math_train", {})),
    "code": Setup(("humaneval", {}), ("mbpp", {})),
    "gpqa": Setup(("gpqa_diamond", {}), ("gpqa_rest", {})),
    # One stage, so that stop="eos" tends to pi^alpha itself as moves grow, and enough moves for it.
    "arithmetic": Setup(
        ("arithmetic", {"split": "test"}),
        ("arithmetic", {"split": "train"}),
        sizes=(1000, 2000),
        quick_sizes=(200, 1000),
        quick_max_new_tokens=64,
        max_new_tokens=64,
        block_size=64,
        num_mcmc_steps=30,
        alphas=(2.0,),
    ),
}


def rows(
    *,
    max_new_tokens: int,
    block_size: int,
    num_mcmc_steps: int,
    alpha: float,
    alphas: Sequence[float] = (),
    stop: str = "eos",
    seeds: int = paper.NUM_SEEDS,
    seed: int = 0,
    num_slots: int | None = None,
) -> list[Row]:
    """Returns what to sample for a table: its rows and the teacher's, in the order of measuring.

    Random weights get the paper's fewer moves and shorter completions.

    Args:
      max_new_tokens, block_size, num_mcmc_steps, stop: settings of the samplers (`sample.spec`).
      alpha: the exponent of power sampling; temperature sampling gets temperature 1 / alpha.
      alphas: the exponents of further rows of power sampling.
      seeds: how many passes through the problems each row makes, in place of the paper's seeds. All
        are drawn from the one `seed`, as its samples 0, 1, ...
      seed: the seed of all passes.
      num_slots: chains that advance at a time; None: as many as free memory holds.
    """
    plain = {
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "num_samples": seeds,
        "num_slots": num_slots,
    }
    chain = {
        **plain,
        "block_size": block_size,
        "num_mcmc_steps": num_mcmc_steps,
        "stop": stop,
    }
    power, cool = {**chain, "alpha": alpha}, {"temperature": 1 / alpha}
    random = {"max_new_tokens": min(max_new_tokens, paper.RANDW_MAX_NEW_TOKENS)}
    moves = {"num_mcmc_steps": paper.RANDW_NUM_MCMC_STEPS}
    return [
        Row("Base", "Standard", "standard", plain),
        Row("Base", "Temperature", "temperature", {**plain, **cool}),
        *(Row("Base", f"Power, alpha {a:g}", "power", {**power, "alpha": a}) for a in alphas),
        Row("Base", "Power", "power", power),
        Row("Base", "Power(inf)", "power_inf", {**chain, **cool}),
        Row("Base", TEACHER, "power", {**power, "num_samples": 1}),
        Row("Distilled", "Standard", "standard", plain),
        Row("Distilled", "Temperature", "temperature", {**plain, **cool}),
        Row("RandW", "Standard", "standard", {**plain, **random}),
        Row("RandW", "Power", "power", {**power, **random, **moves}),
    ]


def record_files(folder: Path) -> list[Path]:
    """Returns the record files that a run folder has: records.jsonl, and one per row of its table.

    The teacher's file is left out, because its records are of the training problems.
    """
    files = [folder / "records.jsonl", *sorted((folder / "records").glob("*.jsonl"))]
    teacher = Row("Base", TEACHER, "power", {}).path(folder)
    return [path for path in files if path.is_file() and path != teacher]
