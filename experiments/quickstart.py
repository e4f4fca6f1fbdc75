r"""Power sampling and self-distillation on the small model that ships with the project, in minutes.

    bash launch/quickstart.sh                 (or python -m experiments.quickstart)

asks a 0.6 M parameter model word problems it was not trained on, with four samplers (standard,
temperature, power, power(inf)) and with the same architecture on random weights (RandW), four
completions a problem. Then power sampling answers problems of the *training* split, a LoRA student
is trained on those answers (Algorithm 1), and the student is asked the held-out problems by plain
sampling. It prints the paper's table as it goes along, one problem's completions side by side, and
writes runs/quickstart/: report.md, the figures, one record a completion (records/*.jsonl), the
student (student/adapter, a PEFT folder) and manifest.json. Stopped, the same command takes up where
it stopped.
"""

import math
import sys
import time
from pathlib import Path

from absl import flags

from powerjax import cli, evaluation, models, records, report, runs
from powerjax.report import plots
from powerjax.runs import Row
from powerjax.tasks import Problem, arithmetic, registry

_OUT = flags.DEFINE_string("out", "runs/quickstart", "The run folder.")
_NUM_PROBLEMS = flags.DEFINE_integer("num_problems", 200, "Held-out problems.", lower_bound=2)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 4, "Completions a problem: the paper's seeds, and the N of Best-of-N.",
    lower_bound=1,
)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 0, "Of every draw.", lower_bound=0, upper_bound=2**32 - 1)
_ALPHA = flags.DEFINE_float("alpha", 4.0, "The power's exponent.", lower_bound=1.0)
_NUM_MCMC_STEPS = flags.DEFINE_integer(
    "num_mcmc_steps", 10, "Metropolis-Hastings moves a completion.", lower_bound=1
)
_MORE_STEPS = flags.DEFINE_integer(
    "more_steps", 30, "One more row, power with so many moves; 0 leaves it out.", lower_bound=0
)
_NUM_TEACHER = flags.DEFINE_integer(
    "num_teacher",
    1000,
    "Training problems the student learns from; 0 leaves it out.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 1e-3, "Of the student: the highest, which falls to 0.", lower_bound=0.0
)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Of the student.", lower_bound=1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 64, "The longest completion, and the one stage's length.", lower_bound=1
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")
_OF_THE_ROWS = (_NUM_SAMPLES, _SEED, _NUM_MCMC_STEPS, _MORE_STEPS, _MAX_NEW_TOKENS)
_OF_THE_STUDENT = (_NUM_TEACHER, _LEARNING_RATE, _EPOCHS)
_FREE = ("num_problems", "num_samples")  # may grow when a run is taken up again

cli.define_dtype("float32")  # the model is so small that less would save nothing
flags.adopt_module_key_flags(cli)

FOUR = ("Standard", "Temperature", "Power", "Power(inf)")
PLAIN = ("Standard", "Temperature")


def rows() -> list[Row]:
    """The held-out rows of RandW and Base, in the order they are measured."""
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


def teacher() -> Row:
    """The student's teacher: power sampling with the most moves, on problems of the other split."""
    settings = {
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "block_size": _MAX_NEW_TOKENS.value,
        "num_mcmc_steps": _MORE_STEPS.value or _NUM_MCMC_STEPS.value,
        "alpha": _ALPHA.value,
        "seed": _SEED.value,
        "num_samples": 1,
    }
    return Row("Base", "Teacher", "power", settings)


def main(_) -> None:
    began = time.monotonic()
    problems = arithmetic.load("test", _NUM_PROBLEMS.value)
    settings = {"num_problems": len(problems), "dtype": cli.dtype(), "alpha": _ALPHA.value}
    for flag in (*_OF_THE_ROWS, *_OF_THE_STUDENT):
        settings[flag.name] = flag.value
    folder = records.open_run(_OUT.value, settings, free=_FREE)
    lms = {
        "Base": models.load("tiny", dtype=cli.dtype()),
        "RandW": models.load("tiny", dtype=cli.dtype(), random_weights=True),
    }
    print(f"{lms['Base']}\n{len(problems)} held-out problems x {_NUM_SAMPLES.value} completions\n")
    print(line("model", "sampler", report.header(_NUM_SAMPLES.value), "seconds"), flush=True)
    results = [measure(lms[row.model], problems, row, folder) for row in rows()]
    learnt = None
    if _NUM_TEACHER.value:
        lms["Distilled"], learnt = distil(lms["Base"], folder)
        plain = [row for row in rows() if row.model == "Base" and row.name in PLAIN]
        for row in plain:
            row = Row("Distilled", row.name, row.sampler, row.settings)
            results.append(measure(lms["Distilled"], problems, row, folder))
    base = [r for r in results if r.model == "Base" and r.sampler in FOUR]
    shown = example(problems, base[0])
    print(f"\n{shown.prompt}   (answer: {shown.answer})\n")
    print(report.side_by_side(base, shown.id))
    against = differences(results)
    if against:
        print("\n".join(against), end="\n\n")
    write(folder, shown, results, learnt, lms["Base"].config.vocab_size)
    print(f"{folder / 'report.md'}: {time.monotonic() - began:.0f} s in all")


def measure(lm: models.LM, problems: list[Problem], row: Row, folder: Path) -> evaluation.Result:
    """Draws what the row's record file lacks, and prints its line of the table."""
    result, took = _collect(lm, problems, row, folder)
    print(line(row.model, row.name, report.cells(result.summary), took), flush=True)
    return result


def _collect(lm, problems, row: Row, folder: Path) -> tuple[evaluation.Result, str]:
    result, stats = runs.measure(
        lm,
        problems,
        row,
        folder,
        task=registry.get("arithmetic"),
        progress=_PROGRESS.value,
    )
    if stats is not None:
        _erase_bar()
    return result, "kept" if stats is None else f"{stats.wall_s:.1f}"


def _erase_bar() -> None:
    if _PROGRESS.value and sys.stderr.isatty():
        print("\x1b[A\x1b[2K", end="", file=sys.stderr, flush=True)


def distil(base: models.LM, folder: Path) -> tuple[models.LM, str]:
    """The student, trained on the teacher's records, and a line that says what it learnt from."""
    row = teacher()
    result, _ = _collect(base, arithmetic.load("train", _NUM_TEACHER.value), row, folder)
    lm, trained = runs.train_student(
        base,
        row.path(folder),
        folder / "student",
        learning_rate=_LEARNING_RATE.value,
        epochs=_EPOCHS.value,
        schedule="linear",  # a point of accuracy more than "constant", over 600 problems
        seed=_SEED.value,
        remat=False,  # the model is small
        progress=_PROGRESS.value,
    )
    if trained.num_done:
        _erase_bar()
    right = 100 * result.summary.accuracy.mean
    took = f"{trained.seconds:.0f} s" if trained.num_done else "kept"
    learnt = (
        f"{len(result.records)} training problems answered by power sampling with"
        f" {row.settings['num_mcmc_steps']} moves, {right:.1f} % of them rightly;"
        f" {trained.num_steps} steps, learning rate {_LEARNING_RATE.value:g} falling to 0,"
        f" loss {trained.first_loss:.3f} to {trained.last_loss:.3f}"
    )
    print(f"student: {learnt} ({took})", flush=True)
    return lm, learnt


def differences(results: list[evaluation.Result]) -> list[str]:
    """The student's accuracy by plain sampling against Base's rows, on the same problems."""
    found = {(result.model, result.sampler): result for result in results}
    student = found.get(("Distilled", "Standard"))
    if student is None:
        return []
    lines = ["Distilled by standard sampling, minus Base by (points of accuracy, 95 % interval):"]
    cost = student.summary.forward_tokens
    for (model, sampler), other in found.items():
        if model == "Base" and sampler.startswith(("Standard", "Temperature", "Power")):
            gap = evaluation.paired_difference(student.records, other.records)
            times = other.summary.forward_tokens / cost
            interval = f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            lines.append(
                f"  {sampler:11} {100 * gap.mean:+5.1f} {interval:14}"
                f" ({times:.1f} times the student's forward tokens)"
            )
    return lines


def line(model: str, sampler: str, cells: list[str], took: str) -> str:
    """One line of the printed table."""
    widths = (11, 13, 15, 16, 8, 14, 7, 8, 7)
    shown = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{model:9} {sampler:11} {shown} {took:>7}"


def example(problems: list[Problem], standard: evaluation.Result) -> Problem:
    """The first problem that standard sampling gets right and wrong, else the first of all."""
    for problem in problems:
        correct = [r["correct"] for r in standard.records if r["problem_id"] == problem.id]
        if any(correct) and not all(correct):
            return problem
    return problems[0]


def write(
    folder: Path,
    problem: Problem,
    results: list[evaluation.Result],
    learnt: str | None,
    vocab_size: int,
) -> None:
    """report.md and its figures."""
    base = [result for result in results if result.model == "Base"]
    student = [result for result in results if result.model == "Distilled"]
    four = [result for result in results if result.sampler in FOUR]
    base_four = [result for result in base if result in four]
    chain = [result for result in base if result.sampler.startswith(("Temperature", "Power"))]
    figures = {
        "accuracy_against_self_reward": plots.accuracy_against_self_reward(four),
        "accuracy_against_cost": plots.accuracy_against_cost([*base, *student]),
        "mixing": plots.mixing([result for result in chain if result.sampler != "Power(inf)"]),
        "lengths": plots.lengths([*base_four, *student]),
        "acceptance": plots.acceptance([result for result in four if result not in student]),
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
        student=STUDENT.format(learnt=learnt, gaps="\n".join(differences(results)))
        if learnt
        else "",
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

{student}## Which law this is

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


STUDENT = """## The student

{learnt}. At the held-out problems it is sampled plainly, at plain cost.

```
{gaps}
```

"""


if __name__ == "__main__":
    cli.run(main)
