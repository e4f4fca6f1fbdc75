r"""The paper's table for one model and task, beside the paper's own numbers, from one command.

    python -m experiments.reproduce --model=Qwen/Qwen2.5-Math-7B --task=math
    python -m experiments.reproduce --model=tiny --task=arithmetic --quick

Base by standard, temperature, power and power(inf) sampling; a student distilled from power samples
of the training problems (Algorithm 1), by standard and temperature sampling; and random weights
(RandW). Best-of-4 stands on every row. Tasks are the paper's pairs of evaluation and training sets:

    math        MATH500 and 500 of the other 12,000 problems
    code        HumanEval and the 420 problems of MBPP; programs run in bubblewrap
    gpqa        GPQA-Diamond and the 250 other questions of the main set
    arithmetic  word problems for the model that comes with the project; needs no data

First it prints a plan: memory on a device, tokens to generate, and hours, from a probe of a few
seconds. It leaves table.md, table.tex, table.csv and report.html in --out, and a record for each
completion (records/*.jsonl) with its verdict (verdicts/*.jsonl). Killed at any moment, the same
command takes up where it stopped.
"""

import dataclasses
import gc
import math
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from powerjax import cli, models, records, report, runs
from powerjax.distill import checkpoints
from powerjax.evaluation import Result, paper
from powerjax.models import checkpoint
from powerjax.parallel import mesh
from powerjax.plan import lines as plan_lines
from powerjax.plan import probe as probe_lib
from powerjax.report import comparison, page
from powerjax.runs import Row, setups
from powerjax.runs.setups import SETUPS, TEACHER, Setup
from powerjax.tasks import Problem, Task, registry, sandbox

TINY_LEARNING_RATE, OTHER_LEARNING_RATE = 1e-3, 1e-5
EPOCHS, BATCH_SIZE = 3, 8

cli.define_dtype("auto")
_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the project), a Hugging Face id, or a folder."
)
_TASK = flags.DEFINE_enum("task", "arithmetic", list(SETUPS), "See above.")
_QUICK = flags.DEFINE_bool(
    "quick", False, "Fewer problems and at most 1024 tokens: 50 and 100, arithmetic 200 and 1000."
)
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a Hugging Face id.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the tasks' published files; else the hub is asked."
)
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Only the first so many problems of either set.", lower_bound=2
)
_OUT = flags.DEFINE_string("out", None, "The run folder; runs/MODEL-TASK if not given.")
_SEEDS = flags.DEFINE_integer(
    "seeds", paper.NUM_SEEDS, "Passes through the problems, and the N of Best-of-N.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of every draw and of the student.", lower_bound=0, upper_bound=2**32 - 1
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "The longest completion; 3072, for arithmetic 64.", lower_bound=1
)
_BLOCK_SIZE = flags.DEFINE_integer(
    "block_size", None, "Tokens a stage adds; 192, for arithmetic 64.", lower_bound=1
)
_ALPHA = flags.DEFINE_float("alpha", paper.ALPHA, "The power's exponent.", lower_bound=1.0)
_ALPHAS = flags.DEFINE_list(
    "alphas", None, "Exponents of further rows of power sampling; none, for arithmetic 2."
)
_NUM_MCMC_STEPS = flags.DEFINE_integer(
    "num_mcmc_steps", None, "Moves a stage; 10, for arithmetic 30.", lower_bound=1
)
_STOP = flags.DEFINE_enum(
    "stop",
    "eos",
    ["eos", "horizon"],
    "eos: the published schedule, cheap, not pi^alpha in the limit where there are several stages;"
    " horizon: every stage runs.",
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", None, "Of the student; the paper's for model and task.", lower_bound=0.0
)
_MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 1024, "Tokens of an example the student sees; longer ones are cut.", lower_bound=2
)
_CHAT_TEMPLATE = flags.DEFINE_enum(
    "chat_template",
    "auto",
    ["auto", "on", "off"],
    "Ask through the model's chat template; auto does so as the paper does: if it has one and its"
    " name, or its folder's, says instruct, chat or -it, and not on code and GPQA.",
)
_WORDING = flags.DEFINE_enum(
    "wording",
    "auto",
    ["auto", "stub", "request"],
    "Ask for code by a stub to continue or by a request; auto: a request if the name says chat.",
)
_UNSAFE_EXEC = flags.DEFINE_bool(
    "unsafe_exec", False, "Run model-written programs without bubblewrap, under rlimits only."
)
_PAPER_MODEL = flags.DEFINE_enum(
    "paper_model", None, list(paper.MODELS), "Whose numbers to compare with; the model's own."
)
_MERGE_ADAPTER = flags.DEFINE_bool(
    "merge_adapter", False, "Add the student's adapter to the weights: no cost in sampling."
)
_MODEL_AXIS = flags.DEFINE_integer(
    "model_axis", 1, "Of the machine's devices, how many share each layer.", lower_bound=1
)
_NUM_SLOTS = flags.DEFINE_integer(
    "num_slots", None, "Chains at a time; by free device memory if not given.", lower_bound=1
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")

_OF_THE_RUN = (
    *(_MODEL, _TASK, _QUICK, _REVISION, _LIMIT, _SEED, _MAX_NEW_TOKENS, _BLOCK_SIZE, _ALPHA),
    *(_NUM_MCMC_STEPS, _STOP, _LEARNING_RATE, _MAX_LENGTH, _CHAT_TEMPLATE, _WORDING),
    _MERGE_ADAPTER,
)
flags.adopt_module_key_flags(cli)


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that one run is about."""

    folder: Path
    test: Task
    train: Task
    problems: list[Problem]
    lessons: list[Problem]
    rows: list[Row]
    learning_rate: float
    paper_model: str | None

    @property
    def teacher(self) -> Row:
        """The row whose records the student learns from; it is not in the table."""
        return next(row for row in self.rows if row.name == TEACHER)

    def of(self, row: Row) -> tuple[Task, list[Problem]]:
        """What the row is measured on."""
        is_teacher = row.name == TEACHER
        return (self.train, self.lessons) if is_teacher else (self.test, self.problems)

    def kept(self, row: Row) -> Result | None:
        """What the row's files show, where nothing is missing."""
        task, problems = self.of(row)
        return runs.kept(problems, row, self.folder, task=task)


def main(_) -> None:
    began = time.monotonic()
    if _OUT.value is None:
        flags.FLAGS.out = f"runs/{Path(_MODEL.value).name}-{_TASK.value}"
    job = make_job()
    results = {row.label: job.kept(row) for row in job.rows}
    todo = [row for row in job.rows if results[row.label] is None]
    planned = False
    for random_weights in (False, True):
        mine = [row for row in todo if (row.model == "RandW") == random_weights]
        if not mine:
            continue
        lm = load(random_weights)
        print(lm)
        if not planned:
            tasks = (job.test, job.train)
            runs.note_prompts(job.folder, lm, tasks, _CHAT_TEMPLATE.value)
            plan(lm, job, todo)
            planned = True
        for row in mine:
            if row.model == "Distilled" and lm.adapter_name is None:
                lm = distilled(lm, job)
            results[row.label] = measure(lm, row, job)
        del lm  # before the next model is loaded
        gc.collect()
    text = write(job, results)
    print(f"\n{text}\n{job.folder / 'report.html'}: {time.monotonic() - began:.0f} s in all")


def make_job() -> Job:
    """Problems, rows and run folder; whatever is missing is said here, before a model is loaded."""
    setup = SETUPS[_TASK.value]
    test, train = registry.get(setup.test[0]), registry.get(setup.train[0])
    if not test.quick:
        sandbox.require(_UNSAFE_EXEC.value)
    sizes = setup.quick_sizes if _QUICK.value else setup.sizes
    told = {"data_dir": _DATA_DIR.value}
    if _WORDING.value != "auto":
        if test.wording is None:
            raise ValueError(f"--wording={_WORDING.value}: --task={_TASK.value} has one wording")
        told["wording"] = _WORDING.value
    problems, lessons = (
        task.load_for(_MODEL.value, limit=_LIMIT.value or size, **told, **options)
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
    return Job(folder, test, train, problems, lessons, make_rows(setup), rate, paper_model)


def make_rows(setup: Setup) -> list[Row]:
    """The rows of `setups.rows`, by the flags."""
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
    if _ALPHAS.value is None:
        return list(setup.alphas)
    try:
        found = [float(alpha) for alpha in _ALPHAS.value]
    except ValueError:
        found = []
    if not all(1 <= alpha < math.inf for alpha in found) or len(found) < len(_ALPHAS.value):
        raise ValueError(f"--alphas={','.join(_ALPHAS.value)}: give numbers from 1 up, as 1.5,2")
    return list(dict.fromkeys(found))


def load(random_weights: bool) -> models.LM:
    """The base model, or its architecture on random weights."""
    return models.load(
        _MODEL.value,
        dtype=cli.dtype(),
        mesh=mesh.local_mesh(_MODEL_AXIS.value, rows_divide=BATCH_SIZE),
        random_weights=random_weights,
        revision=_REVISION.value,
    )


def plan(lm: models.LM, job: Job, todo: Sequence[Row]) -> None:
    """Prints what is still to do, and how long it will take."""
    prompts = [[p.prompt for p in asked(lm, *job.of(row))] for row in todo]
    size = max(len(lm.encode(prompt)) for some in prompts for prompt in some)
    longest = max(row.settings["max_new_tokens"] for row in todo)
    probe = probe_lib.probe_sampling(
        lm,
        prompts[0],
        num_samples=_SEEDS.value,
        max_new_tokens=longest,
        num_slots=_NUM_SLOTS.value,
    )
    learning = {}
    if any(row.model == "Distilled" for row in todo):
        steps = EPOCHS * math.ceil(len(job.lessons) / BATCH_SIZE)
        done = checkpoints.last_step(job.folder / "student") or 0
        if steps > done:
            learning = {
                "steps": steps - done,
                "step_s": probe_lib.probe_training(
                    lm,
                    size + round(probe.length_within(longest)),
                    max_length=_MAX_LENGTH.value,
                    batch_size=BATCH_SIZE,
                    remat=_MODEL.value != "tiny",
                ),
            }
    print(f"\nPlan of {job.folder}: {_MODEL.value} on {_TASK.value}")
    stages = [row.to_do(job.folder, job.of(row)[1]) for row in todo]
    found = probe_lib.memory(lm, size, longest)
    print("\n".join(plan_lines.describe(stages, probe, found, **learning)), end="\n\n", flush=True)


def asked(lm: models.LM, task: Task, problems: list[Problem]) -> list[Problem]:
    """The problems as the model is to read them."""
    return runs.asked(lm, task, problems, _CHAT_TEMPLATE.value)


def measure(lm: models.LM, row: Row, job: Job) -> Result:
    """Draws and grades what the row lacks, and prints what it shows."""
    task, problems = job.of(row)
    began = time.monotonic()
    result, _ = runs.measure(
        lm,
        asked(lm, task, problems),
        row,
        job.folder,
        task=task,
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
    """The student: trained on the teacher's records, or loaded where it is there."""
    lm, _ = runs.train_student(
        base,
        job.teacher.path(job.folder),
        job.folder / "student",
        learning_rate=job.learning_rate,
        problems=asked(base, job.train, job.lessons),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        max_length=_MAX_LENGTH.value,
        schedule=schedule(),
        seed=_SEED.value,
        remat=_MODEL.value != "tiny",  # it is small
        progress=_PROGRESS.value,
    )
    return lm.merged(donate=True) if _MERGE_ADAPTER.value else lm


def schedule() -> str:
    """Of the student's learning rate. The paper does not say; the embedded model's falls to 0."""
    return "linear" if _MODEL.value == "tiny" else "constant"


def write(job: Job, results: dict[str, Result]) -> str:
    """Writes the tables and the report page; returns the text of table.md."""
    order = {"RandW": 0, "Base": 1, "Distilled": 2}
    rows = [row for row in job.rows if row != job.teacher]
    shown = [results[row.label] for row in sorted(rows, key=lambda row: order[row.model])]
    lines = comparison.lines(shown, _TASK.value, job.paper_model)
    claims = comparison.pattern(shown)
    power = next(row for row in rows if row.label == "Base Power")
    sizes = len(job.problems), len(job.lessons)
    notes = comparison.departures(power, sizes, _TASK.value)
    notes += [learnt(job, results), *comparison.laws(rows)]
    notes += comparison.notes(lines, job.paper_model, vocab_size())
    title = f"{_MODEL.value} on {job.test.name}"
    heading = "Beside the paper's numbers" if job.paper_model else "The table"
    text = comparison.write(job.folder, title, lines, claims, notes)
    page.write_report(
        job.folder,
        shown,
        title=title,
        task=job.test,
        problems=job.problems,
        lead={
            heading: comparison.cells(lines),
            "The paper's pattern, on these rows": comparison.claim_cells(claims),
        },
        notes=notes,
    )
    return text


def vocab_size() -> int:
    """Of the model; its weights are not needed."""
    folder = checkpoint.find_folder(_MODEL.value, revision=_REVISION.value, weights=False)
    return checkpoint.model_config(folder, checkpoint.read_config(folder)).vocab_size


def learnt(job: Job, results: dict[str, Result]) -> str:
    """What the student learnt from."""
    steps, first, last = runs.losses(job.folder / "student")
    right = results[job.teacher.label].summary.accuracy
    rightly = "" if right is None else f", {100 * right.mean:.1f} % of them rightly"
    return (
        f"Student: {len(job.lessons)} problems of {job.train.name} answered by power sampling"
        f"{rightly}; {steps} steps, learning rate {job.learning_rate:g} ({schedule()}), loss"
        f" {first:.3f} to {last:.3f}."
    )


if __name__ == "__main__":
    cli.run(main)
