r"""What power sampling does, on the small model that ships with the project, in a few minutes.

    bash launch/quickstart.sh                 (or python -m experiments.quickstart)

asks a 0.6 M parameter model word problems it was not trained on, with four samplers (standard,
temperature, power, power(inf)) and with the same architecture on random weights (RandW), four
completions a problem. It prints a table as it goes along, one problem's completions side by side,
and writes runs/quickstart/: report.md, the figures, one record a completion (records/*.jsonl) and
manifest.json. Stopped, the same command takes up where it stopped.
"""

import dataclasses
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from powerjax import evaluate, launch, models, plots, records, report
from powerjax.tasks import Problem, arithmetic

_OUT = flags.DEFINE_string("out", "runs/quickstart", "The run folder.")
_NUM_PROBLEMS = flags.DEFINE_integer("num_problems", 200, "Held-out problems.", lower_bound=2)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 4, "Completions a problem: the paper's seeds, and the N of Best-of-N.",
    lower_bound=1,
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "Of every draw.")
_ALPHA = flags.DEFINE_float("alpha", 4.0, "The power's exponent.", lower_bound=1.0)
_NUM_MCMC_STEPS = flags.DEFINE_integer(
    "num_mcmc_steps", 10, "Metropolis-Hastings moves a completion.", lower_bound=1
)
_MORE_STEPS = flags.DEFINE_integer(
    "more_steps", 30, "One more row, power with so many moves; 0 leaves it out.", lower_bound=0
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 64, "The longest completion, and the one stage's length.", lower_bound=1
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
_FREE = ("num_problems", "num_samples", "more_steps")  # may grow when a run is taken up again

launch.define_dtype("float32")  # the model is so small that less would save nothing
flags.adopt_module_key_flags(launch)

FOUR = ("Standard", "Temperature", "Power", "Power(inf)")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: a sampler with its keywords, on one model."""

    model: str
    name: str
    sampler: str
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """The row's name in file names and record ids."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


def rows() -> list[Row]:
    """The table's rows, in the order they are measured."""
    plain = {"max_new_tokens": _MAX_NEW_TOKENS.value, "seed": _SEED.value}
    plain["num_samples"] = _NUM_SAMPLES.value
    # One stage, so that stop="eos" and stop="horizon" coincide and the target is exact.
    chain = {**plain, "block_size": _MAX_NEW_TOKENS.value, "num_mcmc_steps": _NUM_MCMC_STEPS.value}
    power = {**chain, "alpha": _ALPHA.value}
    cool = 1 / _ALPHA.value
    found = [
        row
        for model in ("RandW", "Base")
        for row in (
            Row(model, "Standard", "standard", plain),
            Row(model, "Temperature", "temperature", {**plain, "temperature": cool}),
            Row(model, "Power", "power", power),
            Row(model, "Power(inf)", "power_inf", {**chain, "temperature": cool}),
        )
    ]
    if _MORE_STEPS.value:
        more = {**power, "num_mcmc_steps": _MORE_STEPS.value}
        found.append(Row("Base", f"Power, N={_MORE_STEPS.value}", "power", more))
    greedy = {**plain, "num_samples": 1, "temperature": 1e-3}
    found.append(Row("Base", "Greedy", "temperature", greedy))
    return found


def main(_) -> None:
    began = time.monotonic()
    problems = arithmetic.load("test", _NUM_PROBLEMS.value)
    settings = {"num_problems": len(problems), "dtype": launch.dtype(), "alpha": _ALPHA.value}
    for flag in (_NUM_SAMPLES, _SEED, _NUM_MCMC_STEPS, _MORE_STEPS, _MAX_NEW_TOKENS):
        settings[flag.name] = flag.value
    folder = records.open_run(_OUT.value, settings, free=_FREE)
    (folder / "records").mkdir(exist_ok=True)
    lms = {
        "Base": models.load("tiny", dtype=launch.dtype()),
        "RandW": models.load("tiny", dtype=launch.dtype(), random_weights=True),
    }
    print(f"{lms['Base']}\n{len(problems)} held-out problems x {_NUM_SAMPLES.value} completions\n")
    print(line("model", "sampler", report.header(_NUM_SAMPLES.value), "seconds"), flush=True)
    results = [measure(lms[row.model], problems, row, folder) for row in rows()]
    base = [r for r in results if r.model == "Base" and r.sampler in FOUR]
    shown = example(problems, base[0])
    print(f"\n{shown.prompt}   (answer: {shown.answer})\n")
    print(report.side_by_side(base, shown.id))
    write(folder, shown, results, lms["Base"].config.vocab_size)
    print(f"{folder / 'report.md'}: {time.monotonic() - began:.0f} s in all")


def measure(lm: models.LM, problems: list[Problem], row: Row, folder: Path) -> evaluate.Result:
    """Draws what the row's record file lacks, and prints its line of the table."""
    path = folder / "records" / f"{row.model.lower()}_{row.slug}.jsonl"
    with records.RecordFile(path) as file:
        stats = launch.collect(
            lm,
            problems,
            file,
            task="arithmetic",
            model=launch.model_name(lm, random_weights=row.model == "RandW"),
            sampler=row.sampler,
            label=row.slug,
            grade=arithmetic.grade,
            settings=row.settings,
            progress=_PROGRESS.value,
        )
        made = file.records
    result = evaluate.Result(row.model, row.name, made, evaluate.summarize(made))
    took = "kept" if stats is None else f"{stats.wall_s:.1f}"
    if stats is not None and _PROGRESS.value and sys.stderr.isatty():
        print("\x1b[A\x1b[2K", end="", file=sys.stderr, flush=True)  # the bar has done its work
    print(line(row.model, row.name, report.cells(result.summary), took), flush=True)
    return result


def line(model: str, sampler: str, cells: list[str], took: str) -> str:
    """One line of the printed table."""
    widths = (11, 13, 15, 16, 8, 14, 7, 8, 7)
    shown = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{model:5} {sampler:11} {shown} {took:>7}"


def example(problems: list[Problem], standard: evaluate.Result) -> Problem:
    """The first problem that standard sampling gets right and wrong, else the first of all."""
    for problem in problems:
        correct = [r["correct"] for r in standard.records if r["problem_id"] == problem.id]
        if any(correct) and not all(correct):
            return problem
    return problems[0]


def write(folder: Path, problem: Problem, results: list[evaluate.Result], vocab_size: int) -> None:
    """report.md and its figures."""
    base = [result for result in results if result.model == "Base"]
    four = [result for result in results if result.sampler in FOUR]
    base_four = [result for result in base if result in four]
    chain = [result for result in base if result.sampler.startswith(("Temperature", "Power"))]
    figures = {
        "accuracy_against_self_reward": plots.accuracy_against_self_reward(four),
        "accuracy_against_cost": plots.accuracy_against_cost(base),
        "mixing": plots.mixing([result for result in chain if result.sampler != "Power(inf)"]),
        "lengths": plots.lengths(base_four),
        "acceptance": plots.acceptance(four),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    greedy = next(result for result in base if result.sampler == "Greedy").summary.accuracy
    n, power = _NUM_SAMPLES.value, base_four[2].records[0]
    head = ["model", "sampler", *report.header(n), "ended in EOS", "length"]
    table = [
        [
            *(result.model, result.sampler, *report.cells(result.summary)),
            f"{100 * result.summary.finished:.0f} %",
            f"{result.summary.num_tokens:.1f}",
        ]
        for result in results
    ]
    law = report.law("power", {**power, "max_new_tokens": _MAX_NEW_TOKENS.value})
    text = REPORT.format(
        num_problems=base[0].summary.num_problems,
        n=n,
        seed=_SEED.value,
        alpha=f"{_ALPHA.value:g}",
        temperature=f"{1 / _ALPHA.value:g}",
        max_new_tokens=_MAX_NEW_TOKENS.value,
        steps=_NUM_MCMC_STEPS.value,
        law=law,
        greedy=f"{100 * greedy.mean:.1f}",
        vocab_size=vocab_size,
        uniform=f"{-math.log(vocab_size):.2f}",
        table=report.markdown([head, *table]),
        prompt="\n".join(f"> {row}" for row in problem.prompt.split("\n")),
        answer=problem.answer,
        completions=report.side_by_side_markdown(base_four, problem.id),
        figures="\n\n".join(f"![{name.replace('_', ' ')}]({name}.png)" for name in figures),
    )
    (folder / "report.md").write_text(text, encoding="utf-8")


REPORT = """# Power sampling on the embedded model

{num_problems} held-out problems x {n} completions, seed {seed}; alpha {alpha}, temperature and
proposal temperature {temperature}, at most {max_new_tokens} tokens, {steps} Metropolis-Hastings
moves. Versions, device and commands are in manifest.json, every completion in records/.

{table}

- **accuracy**, **self-reward** (mean log-likelihood per token under the model that drew it, EOS
  counted): mean ± standard deviation over the {n} passes through the problems, a pass being one
  completion of each. They are {n} independent samples of one run, where the paper has {n} seeds.
- **95 %**: bootstrap intervals over problems. Two rows are of the same problems, so overlapping
  intervals do not make them equal.
- **Bo{n}**: Best-of-{n}, the completion of largest self-reward among a problem's {n}. It costs {n}
  times the forward tokens of its row.
- **forward**: tokens fed to the model for one completion, prefill left out.

## Which law this is

Power: {law}.

block_size is max_new_tokens here, so that a chain has one stage; stop="eos" and stop="horizon" are
then the same, and more moves lead to pi^{alpha} itself. With shorter blocks and stop="eos", the
published schedule, they would not, however many.

## What to see

- **Power against temperature.** Both sharpen by the same exponent. Temperature sees the next token
  alone; power sees what follows it. A problem may be answered at once (a guess, whose answer is
  diffuse) or worked out (each step is sure), and only power prefers to work it out (Prop. 1).
- **More moves.** {steps} moves do not reach the limit: see the row with more moves, and the figure
  of accuracy against moves. 0 moves are temperature sampling.
- **Greedy** gets {greedy} %: the likeliest first token is that of the guess. So accuracy does not
  rise steadily as the temperature falls to 0.
- **Best-of-{n}** of a cheap sampler may do as well at the same price: see accuracy against cost.
- **RandW**, the same architecture with random weights: self-reward rises, accuracy cannot. A model
  that scores its own plain samples has mean self-reward of -log V = {uniform} or more
  (V = {vocab_size}). The paper's RandW figures lie below that bound of their model, so they were
  scored in some other way, and are not comparable with these.

## One problem, its completions side by side

The first problem that standard sampling gets right at least once and wrong at least once. A chain's
random numbers belong to its problem and sample index, whatever the sampler, so one row may hold the
same completion twice.

{prompt}

(answer: {answer})

{completions}

## Figures

{figures}
"""


if __name__ == "__main__":
    launch.run(main)
