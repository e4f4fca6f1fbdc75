r"""Makes the paper's table for one model and task, beside the paper's own numbers.

    python -m experiments.reproduce --model=Qwen/Qwen2.5-Math-7B --task=math
    python -m experiments.reproduce --model=tiny --task=arithmetic --quick

The table has a row for each model and sampler: the base model by standard, temperature, power and
power(inf) sampling; a student distilled from power samples of the training problems (Algorithm 1),
by standard and temperature sampling; and random weights (RandW), by standard and power sampling.
Every row also has Best-of-4. --task names a test set and a training set:

    task        test                           training
    math        MATH500                        500 of the other 12,000 problems of MATH
    code        HumanEval                      the 420 problems of MBPP
    gpqa        GPQA-Diamond                   the 250 other questions of the main set
    arithmetic  1000 word problems             2000 other word problems

The first three are the paper's; the programs of code run in bubblewrap. arithmetic is for the model
that comes with the project and needs no data.

First the program runs a probe of a few seconds and prints a plan: the memory on a device, the
tokens to generate and the hours. It writes to --out: table.md, table.tex, table.csv, report.html, a
record of each completion (records/*.jsonl) and its verdict (verdicts/*.jsonl). If it is killed at
any moment, the same command goes on where it stopped.
"""

import gc
import math
import time
from pathlib import Path

from absl import flags

from experiments import chat_flags
from experiments import flags as shared
from powerjax import cli, models, records, report, runs
from powerjax.evaluation import Result, paper
from powerjax.models import checkpoint
from powerjax.parallel import mesh
from powerjax.report import reproduction
from powerjax.report.reproduction import Job
from powerjax.runs import Row, setups
from powerjax.runs.setups import SETUPS, Setup
from powerjax.tasks import registry, sandbox

TINY_LEARNING_RATE, OTHER_LEARNING_RATE = 1e-3, 1e-5

cli.define_dtype("auto")
_MODEL = shared.define_model()
_TASK = shared.define_setup("arithmetic", list(SETUPS))
_QUICK = flags.DEFINE_bool(
    "quick",
    False,
    "Make a smaller run: 50 test problems, 100 training problems and completions of at most 1024"
    " tokens. For the arithmetic task: 200 test problems, 1000 training problems and 64 tokens.",
)
_REVISION, _DATA_DIR = shared.define_revision(), shared.define_data_dir()
_LIMIT = shared.define_limit(
    "How many problems to take from the test set, and from the training set, counted from the first"
    " of each. Default: all; for the arithmetic task 1000 test problems and 2000 training problems;"
    " with --quick the numbers named there.",
    lower_bound=2,
)
_OUT = shared.define_out(None, note=" Default: runs/MODEL-TASK.")
_SEEDS = flags.DEFINE_integer(
    "seeds",
    paper.NUM_SEEDS,
    "How many passes each row of the table is measured with; a pass is one completion of every"
    " problem. The paper takes one seed per pass, but here all passes share --seed. Best-of-N takes"
    " the best of a problem's N completions, where N is this number.",
    lower_bound=1,
)
_SEED = shared.define_seed(
    "all random draws, including those of the student's training", makes_a_key=True
)
_MAX_NEW_TOKENS = shared.define_max_new_tokens(
    " Default with --quick: 1024, or 64 for the arithmetic task."
)
_ALPHA = shared.define_alpha()
_BLOCK_SIZE = shared.define_block_size()
_ALPHAS = flags.DEFINE_list(
    "alphas",
    None,
    "Further exponents alpha, separated by commas. For each of them the table has one more row of"
    " power sampling. Default: none, or 2 for the arithmetic task.",
)
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(None, " Default: 10, or 30 for the arithmetic task.")
_STOP = shared.define_stop()
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    None,
    "The student's highest learning rate, reached after the warm-up. Default: the paper's rate for"
    f" this model and task; if the paper has none, {TINY_LEARNING_RATE:g} for tiny and"
    f" {OTHER_LEARNING_RATE:g} for other models.",
    lower_bound=0.0,
)
_MAX_LENGTH = shared.define_max_length()
_CHAT = chat_flags.define()
_WORDING = flags.DEFINE_enum(
    "wording",
    "auto",
    ["auto", "stub", "request"],
    "The form of the prompts of --task=code. stub: the head of a function, which the model"
    " continues. request: a sentence that asks for the function. auto: the form `request` if the"
    f" model is a chat model, otherwise `stub`. It is a chat model if {shared.CHAT_NAME}.",
)
_UNSAFE_EXEC = shared.define_unsafe_exec()
_PAPER_MODEL = flags.DEFINE_enum(
    "paper_model",
    None,
    list(paper.MODELS),
    "The model of the paper whose numbers are shown beside the table's. Default: the one that"
    " --model names; if it names none of these, no numbers of the paper are shown.",
)
_MERGE_ADAPTER = flags.DEFINE_bool(
    "merge_adapter",
    False,
    "Add the student's adapter to the weights once, before the student is sampled. Sampling the"
    " student then costs no more than sampling the base model.",
)
_MODEL_AXIS = shared.define_model_axis()
_NUM_SLOTS = shared.define_num_slots()
_PROGRESS = shared.define_progress()

_OF_THE_RUN = (
    *(_MODEL, _TASK, _QUICK, _REVISION, _LIMIT, _SEED, _MAX_NEW_TOKENS, _BLOCK_SIZE, _ALPHA),
    *(_NUM_MCMC_STEPS, _STOP, _LEARNING_RATE, _MAX_LENGTH, *_CHAT, _WORDING),
    _MERGE_ADAPTER,
)
flags.adopt_module_key_flags(cli)


def main(_) -> None:
    """Measures the rows that are not complete, trains the student, and writes tables and page."""
    began = time.monotonic()
    if _OUT.value is None:
        flags.FLAGS.out = f"runs/{Path(_MODEL.value).name}-{_TASK.value}"
    job = make_job()
    results = {row.label: job.kept(row) for row in job.rows}
    todo = [row for row in job.rows if results[row.label] is None]
    is_planned = False
    for random_weights in (False, True):
        rows = [row for row in todo if (row.model == "RandW") == random_weights]
        if not rows:
            continue
        lm = load(random_weights)
        print(lm)
        if not is_planned:
            tasks = (job.test, job.train)
            runs.note_prompts(job.folder, lm, tasks, _CHAT.value)
            plan = reproduction.plan(
                *(lm, job, todo),
                seeds=_SEEDS.value,
                max_length=_MAX_LENGTH.value,
                num_slots=_NUM_SLOTS.value,
            )
            print(plan, end="\n\n", flush=True)
            is_planned = True
        for row in rows:
            if row.model == "Distilled" and lm.adapter_name is None:
                lm = distilled(lm, job)
            results[row.label] = measure(lm, row, job)
        del lm  # before the next model is loaded
        gc.collect()
    text = reproduction.write(job, results, vocab_size())
    print(f"\n{text}\n{job.folder / 'report.html'}: {time.monotonic() - began:.0f} s in all")


def make_job() -> Job:
    """Returns the run's problems, rows and folder.

    Raises ValueError or OSError, before a model is loaded, for data or flags that do not fit.
    """
    setup = SETUPS[_TASK.value]
    test, train = registry.get(setup.test[0]), registry.get(setup.train[0])
    if not test.quick:
        sandbox.require(_UNSAFE_EXEC.value)
    sizes = setup.quick_sizes if _QUICK.value else setup.sizes
    common = {"data_dir": _DATA_DIR.value}
    if _WORDING.value != "auto":
        if test.wording is None:
            raise ValueError(f"--wording={_WORDING.value}: --task={_TASK.value} has one wording")
        common["wording"] = _WORDING.value
    problems, lessons = (
        task.load_for(_MODEL.value, limit=_LIMIT.value or size, **common, **options)
        for task, (_, options), size in zip(
            (test, train), (setup.test, setup.train), sizes, strict=True
        )
    )
    paper_model = _PAPER_MODEL.value or paper.model_of(_MODEL.value)
    rate = _LEARNING_RATE.value
    if rate is None:
        rate = TINY_LEARNING_RATE if _MODEL.value == "tiny" else OTHER_LEARNING_RATE
        rate = paper.learning_rate(_TASK.value, paper_model) or rate
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN}
    made_with |= {"dtype": cli.dtype(), "alphas": _alphas(setup), "learning_rate": rate}
    folder = records.open_run(_OUT.value, made_with)
    return Job(
        model=_MODEL.value,
        setup=_TASK.value,
        folder=folder,
        test=test,
        train=train,
        problems=problems,
        lessons=lessons,
        rows=make_rows(setup),
        learning_rate=rate,
        # The paper does not name its schedule. With tiny, falling to 0 gives a better student.
        schedule="linear" if _MODEL.value == "tiny" else "constant",
        paper_model=paper_model,
        chat_template=_CHAT.value,
    )


def make_rows(setup: Setup) -> list[Row]:
    """Returns the rows of `setups.rows` with the settings of the flags."""
    longest = setup.quick_max_new_tokens if _QUICK.value else setup.max_new_tokens
    return setups.rows(
        max_new_tokens=_MAX_NEW_TOKENS.value or longest,
        block_size=_BLOCK_SIZE.value or setup.block_size,
        num_mcmc_steps=_NUM_MCMC_STEPS.value or setup.num_mcmc_steps,
        alpha=_ALPHA.value,
        alphas=_alphas(setup),
        stop=_STOP.value,
        seeds=_SEEDS.value,
        seed=_SEED.value,
        num_slots=_NUM_SLOTS.value,
    )


def _alphas(setup: Setup) -> list[float]:
    """Returns the exponents of --alphas, each once. Raises ValueError for one that is below 1."""
    if _ALPHAS.value is None:
        return list(setup.alphas)
    try:
        alphas = [float(alpha) for alpha in _ALPHAS.value]
    except ValueError:
        alphas = []
    if not all(1 <= alpha < math.inf for alpha in alphas) or len(alphas) < len(_ALPHAS.value):
        raise ValueError(f"--alphas={','.join(_ALPHAS.value)}: give numbers from 1 up, as 1.5,2")
    return list(dict.fromkeys(alphas))


def load(random_weights: bool) -> models.LM:
    """Returns the base model, or its architecture with random weights."""
    return models.load(
        _MODEL.value,
        dtype=cli.dtype(),
        mesh=mesh.local_mesh(_MODEL_AXIS.value, rows_divide=reproduction.BATCH_SIZE),
        random_weights=random_weights,
        revision=_REVISION.value,
    )


def measure(lm: models.LM, row: Row, job: Job) -> Result:
    """Draws and grades what the row lacks, prints its line of results and returns them."""
    began = time.monotonic()
    result, _ = runs.measure(
        lm,
        job.asked(lm, row),
        row,
        job.folder,
        task=job.of(row)[0],
        grade=True,
        unsafe_exec=_UNSAFE_EXEC.value,
        progress=_PROGRESS.value,
    )
    s = result.summary
    print(
        f"{row.model:9} {row.name:14} r* {report.spread(s.accuracy):16}"
        f" r_self {report.spread(s.self_reward):17} {time.monotonic() - began:7.1f} s",
        flush=True,
    )
    return result


def distilled(base: models.LM, job: Job) -> models.LM:
    """Returns the student: trained on the teacher's records, or loaded if it was trained before."""
    lm, _ = runs.train_student(
        base,
        job.teacher.path(job.folder),
        job.folder / "student",
        learning_rate=job.learning_rate,
        epochs=reproduction.EPOCHS,
        batch_size=reproduction.BATCH_SIZE,
        max_length=_MAX_LENGTH.value,
        problems=job.asked(base, job.teacher),
        schedule=job.schedule,
        seed=_SEED.value,
        remat=job.remat,
        progress=_PROGRESS.value,
    )
    return lm.merged(donate=True) if _MERGE_ADAPTER.value else lm


def vocab_size() -> int:
    """Returns the model's V, from its config alone."""
    folder = checkpoint.find_folder(_MODEL.value, revision=_REVISION.value, weights=False)
    return checkpoint.model_config(folder, checkpoint.read_config(folder)).vocab_size


if __name__ == "__main__":
    cli.run(main)
