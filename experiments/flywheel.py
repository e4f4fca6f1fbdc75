r"""Trains students in rounds, each of which proposes the power samples that the next learns from.

    python -m experiments.flywheel --out=runs/flywheel

Round 1 is the paper's Algorithm 1 on the first slice of the training problems: power sampling with
the base's own proposals answers them, and a student learns from the answers. In each later round
the last student proposes the completions, the base accepts or rejects them by pi^alpha, and the
next student learns from all answers so far. A student's proposals need far fewer moves.

After each round the program prints what the teacher's answers have cost, in tokens fed to both
models, and how the student does on held-out problems: its accuracy by plain sampling, and how near
pi^alpha it is by the weights of its draws (ESS/n, k-hat, KL). Two students of Algorithm 1 stand
beside: one whose teacher may cost what all rounds cost, and one whose teacher answers all problems.

It writes to --out: report.md with a figure, a record of each completion, and the students as PEFT
folders. With the model tiny it takes minutes on two cores. If the program is killed,
the same command goes on where it stopped.
"""

import time
from typing import Any

from absl import flags

from experiments import chat_flags
from experiments import flags as shared
from powerjax import cli, models, records, runs
from powerjax.evaluation import paper
from powerjax.parallel import mesh
from powerjax.report import flywheel as report
from powerjax.runs import flywheel
from powerjax.runs.setups import SETUPS, Setup
from powerjax.tasks import registry, sandbox

TINY_LEARNING_RATE, OTHER_LEARNING_RATE = 1e-3, 1e-5
BATCH_SIZE = 8

cli.define_dtype("auto")
_MODEL = shared.define_model()
_TASK = shared.define_setup("arithmetic", list(SETUPS))
_REVISION, _DATA_DIR = shared.define_revision(), shared.define_data_dir()
_LIMIT = shared.define_limit(
    "How many held-out problems the students answer, counted from the test set's first. 0 takes"
    " all.",
    200,
    lower_bound=0,
)
_SLICES = flags.DEFINE_list(
    "slices",
    ["200", "800"],
    "How many training problems each round answers, separated by commas; a round goes on where the"
    " one before it ended. The base's own proposals answer those of the first round. There are as"
    " many rounds as numbers.",
)
_OUT = shared.define_out("runs/flywheel")
_NUM_SAMPLES = shared.define_num_samples(4, " These are the held-out problems.")
_NUM_IMPORTANCE = flags.DEFINE_integer(
    "num_importance",
    32,
    "How many completions of each held-out problem are drawn from a student, to weigh them as"
    " samples of pi^alpha. k-hat needs 25 or more.",
    lower_bound=2,
)
_SEED = shared.define_seed(
    "all random draws, including those of the students' training", makes_a_key=True
)
_ALPHA = shared.define_alpha()
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(
    None,
    " This is for the base's own proposals. Default: 10, or 30 for the arithmetic task.",
    lower_bound=1,
)
_STUDENT_MOVES = flags.DEFINE_integer(
    "student_moves",
    1,
    "How many moves power sampling makes where a student proposes. Each is a whole completion that"
    " the student draws, and that the base accepts or rejects.",
    lower_bound=1,
)
_COMPARES_ALL = flags.DEFINE_bool(
    "compare_all",
    True,
    "Also train a student of Algorithm 1 on all training problems of the slices, each answered with"
    " the base's own proposals. That is what the flywheel saves, so it is the dearest part of the"
    " run.",
)
_MAX_NEW_TOKENS, _BLOCK_SIZE = shared.define_max_new_tokens(), shared.define_block_size()
_STOP = shared.define_stop()
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    None,
    "The students' highest learning rate, reached after the warm-up. Default: the paper's rate for"
    f" this model and task; if the paper has none, {TINY_LEARNING_RATE:g} for tiny and"
    f" {OTHER_LEARNING_RATE:g} for other models.",
    lower_bound=0.0,
)
_EPOCHS, _MAX_LENGTH = shared.define_epochs(), shared.define_max_length()
_MERGE_ADAPTER = flags.DEFINE_bool(
    "merge_adapter",
    None,
    "Add a student's adapter to the weights before it is sampled. It then draws faster, and the"
    " weights are held twice. Default: on for tiny, off for other models.",
)
_CHAT = chat_flags.define()
_UNSAFE_EXEC = shared.define_unsafe_exec()
_MODEL_AXIS, _NUM_SLOTS = shared.define_model_axis(), shared.define_num_slots()
_PROGRESS = shared.define_progress()

_OF_THE_RUN = (
    *(_MODEL, _TASK, _REVISION, _LIMIT, _SLICES, _NUM_SAMPLES, _NUM_IMPORTANCE, _SEED, _ALPHA),
    *(_NUM_MCMC_STEPS, _STUDENT_MOVES, _MAX_NEW_TOKENS, _BLOCK_SIZE, _STOP, _EPOCHS),
    *(_MAX_LENGTH, _MERGE_ADAPTER, *_CHAT),
)
_FREE = ("limit", "num_samples")  # may change when a run is taken up again

flags.adopt_module_key_flags(cli)


@flags.validator("slices", message="must be whole numbers from 1 up, separated by commas")
def _are_counts(slices: list[str]) -> bool:
    return bool(slices) and all(size.isdecimal() and int(size) for size in slices)


def main(_) -> None:
    """Runs the rounds and their comparison, prints a line per student and writes the report."""
    began = time.monotonic()
    job = make_job()
    num_rounds = len(job.slices)
    print(
        f"{job.lm}\n{len(job.problems)} held-out problems x {_NUM_SAMPLES.value} completions,"
        f" {sum(job.slices)} training problems\n\n{report.line(report.HEAD)}",
        flush=True,
    )
    students = flywheel.run(
        job,
        compares_all=_COMPARES_ALL.value,
        on_student=lambda student: print(report.line(report.cells(student)), flush=True),
    )
    rounds, others = students[:num_rounds], students[num_rounds:]
    gaps = report.comparison(rounds, [*rounds[:-1], *others])
    print("\n" + "\n".join([*gaps, "Training and measuring students is not among these tokens."]))
    report.write(job.folder, job, rounds, others)
    print(f"{job.folder / 'report.md'}: {time.monotonic() - began:.0f} s in all")


def make_job() -> flywheel.Job:
    """Returns the job that the flags describe, its model loaded and its run folder opened.

    Raises ValueError or OSError for data or flags that do not fit.
    """
    setup = SETUPS[_TASK.value]
    test, train = registry.get(setup.test[0]), registry.get(setup.train[0])
    if not (test.quick and train.quick):
        sandbox.require(_UNSAFE_EXEC.value)
    slices = [int(size) for size in _SLICES.value]
    problems, lessons = (
        task.load_for(_MODEL.value, limit=limit, data_dir=_DATA_DIR.value, **options)
        for task, (_, options), limit in (
            (test, setup.test, _LIMIT.value or None),
            (train, setup.train, sum(slices)),
        )
    )
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN}
    made_with |= {"dtype": cli.dtype(), "learning_rate": training()["learning_rate"]}
    folder = records.open_run(_OUT.value, made_with, free=_FREE)
    lm = models.load(
        _MODEL.value,
        dtype=cli.dtype(),
        mesh=mesh.local_mesh(_MODEL_AXIS.value, rows_divide=BATCH_SIZE),
        revision=_REVISION.value,
    )
    runs.note_prompts(folder, lm, (test, train), _CHAT.value)
    merges = _MODEL.value == "tiny" if _MERGE_ADAPTER.value is None else _MERGE_ADAPTER.value
    return flywheel.Job(
        lm=lm,
        folder=folder,
        test=test,
        problems=runs.prompted(lm, test, problems, _CHAT.value),
        train=train,
        lessons=runs.prompted(lm, train, lessons, _CHAT.value),
        slices=slices,
        teacher=teacher(setup),
        num_student_moves=_STUDENT_MOVES.value,
        plain={**plain(setup), "num_samples": _NUM_SAMPLES.value},
        num_importance=_NUM_IMPORTANCE.value,
        training=training(),
        merges=merges,
        unsafe_exec=_UNSAFE_EXEC.value,
        progress=_PROGRESS.value,
    )


def plain(setup: Setup) -> dict[str, Any]:
    """Returns the settings that plain sampling and power sampling have alike."""
    return {
        "max_new_tokens": _MAX_NEW_TOKENS.value or setup.max_new_tokens,
        "seed": _SEED.value,
        "num_slots": _NUM_SLOTS.value,
    }


def teacher(setup: Setup) -> dict[str, Any]:
    """Returns the settings of power sampling with the base's own proposals."""
    return {
        **plain(setup),
        "num_samples": 1,
        "alpha": _ALPHA.value,
        "block_size": _BLOCK_SIZE.value or setup.block_size,
        "num_mcmc_steps": _NUM_MCMC_STEPS.value or setup.num_mcmc_steps,
        "stop": _STOP.value,
    }


def training() -> dict[str, Any]:
    """Returns how each student is trained, as keywords of `runs.train_student`."""
    is_tiny, rate = _MODEL.value == "tiny", _LEARNING_RATE.value
    if rate is None:
        rate = TINY_LEARNING_RATE if is_tiny else OTHER_LEARNING_RATE
        rate = paper.learning_rate(_TASK.value, paper.model_of(_MODEL.value)) or rate
    return {
        "learning_rate": rate,
        "epochs": _EPOCHS.value,
        "batch_size": BATCH_SIZE,
        "max_length": _MAX_LENGTH.value,
        "schedule": "linear" if is_tiny else "constant",
        "seed": _SEED.value,
        "remat": not is_tiny,  # tiny is so small that it need not save memory
    }


if __name__ == "__main__":
    cli.run(main)
