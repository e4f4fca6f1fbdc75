r"""Runs power sampling and self-distillation on the model that comes with the project, in minutes.

    bash launch/quickstart.sh                 (or python -m experiments.quickstart)

A model of 0.6 M parameters answers word problems that it was not trained on (held-out problems).
Four samplers (standard, temperature, power, power(inf)) each draw four completions of each problem,
from the model and from the same architecture with random weights (RandW). Then power sampling
answers problems of the *training* split, a LoRA student is trained on those answers (Algorithm 1),
and the student answers the held-out problems by standard and temperature sampling. Last, the base
answers them by power sampling whose moves the student proposes, and fewer moves are needed.

The program prints a table like the paper's, row by row, and one problem's completions side by side.
It writes to runs/quickstart/: report.md, the figures, one record per completion (records/*.jsonl),
the student (student/adapter, a PEFT folder) and manifest.json. If it is stopped, the same command
goes on where it stopped.
"""

import sys
import time
from pathlib import Path

from absl import flags

from experiments import flags as shared
from powerjax import cli, evaluation, models, records, report, runs
from powerjax.report import quickstart, student_moves
from powerjax.runs import Row
from powerjax.tasks import Problem, arithmetic, registry

_OUT = shared.define_out("runs/quickstart")
_NUM_PROBLEMS = flags.DEFINE_integer(
    "num_problems", 200, "How many held-out problems the models answer.", lower_bound=2
)
_NUM_SAMPLES = shared.define_num_samples(
    4,
    " The report calls them passes: a pass is one completion of every problem (the paper's seeds)."
    " Best-of-N takes the best of a problem's N completions, where N is this number.",
)
_SEED = shared.define_seed(
    "all random draws, including those of the student's training", makes_a_key=True
)
_ALPHA = shared.define_alpha()
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(10, " Here a completion has only one stage.")
_MORE_STEPS = flags.DEFINE_integer(
    "more_steps",
    30,
    "How many moves power sampling makes for an additional row of the table, and for the training"
    " problems that the student learns from. With 0 there is no additional row, and the training"
    " problems are answered with --num_mcmc_steps moves.",
    lower_bound=0,
)
_NUM_TEACHER = flags.DEFINE_integer(
    "num_teacher",
    1000,
    "How many training problems the student learns from. With 0 no student is trained.",
    lower_bound=0,
)
_EPOCHS = shared.define_epochs()
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    1e-3,
    "The student's highest learning rate, reached after the warm-up. From there it falls linearly"
    " to 0.",
    lower_bound=0.0,
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens",
    64,
    "The length in tokens at which a completion is cut off. It is also the length of the only stage"
    " of power sampling.",
    lower_bound=1,
)
_PROGRESS = shared.define_progress()
_FEW_MOVES = (1, 3)  # of the rows that compare the student's proposal with the base's own
_OF_THE_ROWS = (_NUM_SAMPLES, _SEED, _NUM_MCMC_STEPS, _MORE_STEPS, _MAX_NEW_TOKENS)
_OF_THE_STUDENT = (_NUM_TEACHER, _LEARNING_RATE, _EPOCHS)
_FREE = ("num_problems", "num_samples")  # these may grow when a run is taken up again

cli.define_dtype("float32")  # the model is so small that less would save nothing
flags.adopt_module_key_flags(cli)

PLAIN = ("Standard", "Temperature")  # the samplers that the student is sampled with


def rows() -> list[Row]:
    """Returns the rows of RandW and Base on held-out problems, in the order they are measured."""
    plain = {"max_new_tokens": _MAX_NEW_TOKENS.value, "seed": _SEED.value}
    plain["num_samples"] = _NUM_SAMPLES.value
    # One stage, so that stop="eos" and stop="horizon" coincide and the target is exact.
    chain = {**plain, "block_size": _MAX_NEW_TOKENS.value, "num_mcmc_steps": _NUM_MCMC_STEPS.value}
    power = {**chain, "alpha": _ALPHA.value}
    cool = 1 / _ALPHA.value
    table = [
        row
        for model in ("RandW", "Base")
        for row in (
            Row(model, "Standard", "standard", plain),
            Row(model, "Temperature", "temperature", {**plain, "temperature": cool}),
            Row(model, "Power", "power", power),
            Row(model, "Power(inf)", "power_inf", {**chain, "temperature": cool}),
        )
    ]
    numbers = sorted({*_FEW_MOVES, _MORE_STEPS.value} - {0, _NUM_MCMC_STEPS.value})
    for number in numbers:
        settings = {**power, "num_mcmc_steps": number}
        table.append(Row("Base", f"Power, N={number}", "power", settings))
    greedy = {**plain, "num_samples": 1, "temperature": 1e-3}
    table.append(Row("Base", "Greedy", "temperature", greedy))
    return table


def student_rows() -> list[tuple[Row, bool]]:
    """Returns the rows that the student has a part in, and whether it is their proposal."""
    by_name = {row.name: row for row in rows() if row.model == "Base"}
    table = [
        (Row("Distilled", name, by_name[name].sampler, by_name[name].settings), False)
        for name in PLAIN
    ]
    for number in _FEW_MOVES:
        settings = {**by_name["Power"].settings, "num_mcmc_steps": number, "move": "restart"}
        table.append((Row("Base", f"{student_moves.BY_STUDENT} {number}", "power", settings), True))
    return table


def teacher() -> Row:
    """Returns the student's teacher: power sampling with the most moves, on training problems."""
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
    """Measures the rows, trains the student, and prints and writes what they show."""
    began = time.monotonic()
    problems = arithmetic.load("test", _NUM_PROBLEMS.value)
    made_with = {"num_problems": len(problems), "dtype": cli.dtype(), "alpha": _ALPHA.value}
    for flag in (*_OF_THE_ROWS, *_OF_THE_STUDENT):
        made_with[flag.name] = flag.value
    folder = records.open_run(_OUT.value, made_with, free=_FREE)
    lms = {
        "Base": models.load("tiny", dtype=cli.dtype()),
        "RandW": models.load("tiny", dtype=cli.dtype(), random_weights=True),
    }
    print(f"{lms['Base']}\n{len(problems)} held-out problems x {_NUM_SAMPLES.value} completions\n")
    head = report.header(_NUM_SAMPLES.value)
    print(quickstart.line("model", "sampler", head, "seconds"), flush=True)
    results = [measure(lms[row.model], problems, row, folder) for row in rows()]
    learnt = None
    if _NUM_TEACHER.value:
        lms["Distilled"], learnt = distil(lms["Base"], folder)
        for row, is_proposal in student_rows():
            # Merged, the adapter takes no time of its own. Sharing the base's weights instead would
            # save memory, of which this model needs little.
            proposal = lms["Distilled"].merged() if is_proposal else None
            results.append(measure(lms[row.model], problems, row, folder, proposal))
    base = [r for r in results if r.model == "Base" and r.sampler in quickstart.FOUR]
    shown = quickstart.example(problems, base[0])
    print(f"\n{shown.prompt}   (answer: {shown.answer})\n")
    print(report.side_by_side(base, shown.id))
    for lines in (student_moves.cost_lines(results), quickstart.differences(results)):
        if lines:
            print("\n".join(lines), end="\n\n")
    settings = quickstart.Settings(
        num_samples=_NUM_SAMPLES.value,
        seed=_SEED.value,
        alpha=_ALPHA.value,
        num_mcmc_steps=_NUM_MCMC_STEPS.value,
        max_new_tokens=_MAX_NEW_TOKENS.value,
    )
    vocab_size = lms["Base"].config.vocab_size
    quickstart.write(folder, shown, results, settings, learnt=learnt, vocab_size=vocab_size)
    print(f"{folder / 'report.md'}: {time.monotonic() - began:.0f} s in all")


def measure(
    lm: models.LM,
    problems: list[Problem],
    row: Row,
    folder: Path,
    proposal: models.LM | None = None,
) -> evaluation.Result:
    """Draws what the row's record file lacks, and prints its line of the table.

    proposal: the model that draws the moves; None: the base does.
    """
    result, seconds = _collect(lm, problems, row, folder, proposal)
    columns = report.cells(result.summary)
    print(quickstart.line(row.model, row.name, columns, seconds), flush=True)
    return result


def _collect(
    lm, problems, row: Row, folder: Path, proposal: models.LM | None = None
) -> tuple[evaluation.Result, str]:
    """Returns the row's result, and the seconds it took, as text: `kept` if nothing was lacking."""
    result, stats = runs.measure(
        lm,
        problems,
        row,
        folder,
        task=registry.get("arithmetic"),
        proposal=proposal,
        progress=_PROGRESS.value,
    )
    if stats is not None:
        _erase_bar()
    return result, "kept" if stats is None else f"{stats.wall_s:.1f}"


def _erase_bar() -> None:
    """Removes a finished progress bar from a terminal, so that the table stays in one piece."""
    if _PROGRESS.value and sys.stderr.isatty():
        print("\x1b[A\x1b[2K", end="", file=sys.stderr, flush=True)


def distil(base: models.LM, folder: Path) -> tuple[models.LM, str]:
    """Returns the student, trained on the teacher's records, and a line on what it learnt from."""
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
    seconds = f"{trained.seconds:.0f} s" if trained.num_done else "kept"
    learnt = (
        f"{len(result.records)} training problems answered by power sampling with"
        f" {row.settings['num_mcmc_steps']} moves, {right:.1f} % of them rightly;"
        f" {trained.num_steps} steps, learning rate {_LEARNING_RATE.value:g} falling to 0,"
        f" loss {trained.first_loss:.3f} to {trained.last_loss:.3f}"
    )
    print(f"student: {learnt} ({seconds})", flush=True)
    return lm, learnt


if __name__ == "__main__":
    cli.run(main)
