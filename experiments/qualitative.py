r"""Shows one problem's completions side by side, each token coloured by its log-probability.

    python -m experiments.qualitative --out=runs/qualitative
    python -m experiments.qualitative --run=runs/quickstart --problem=test-0-3

The first command samples completions of one problem by standard, temperature, power and power(inf)
sampling. The second shows completions of an earlier run of experiments.sample, quickstart or
reproduce. Both write completions.html and completions.png to --out: a column for each sampler, with
--num_samples completions. Tasks whose problems are secret (GPQA) are refused.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments import chat_flags
from experiments import flags as shared
from powerjax import cli, evaluation, models, records, runs
from powerjax.models import checkpoint, text
from powerjax.records import lock
from powerjax.report import qualitative
from powerjax.runs import Row, grading, setups
from powerjax.tasks import Problem, Task, registry, sandbox

_MOST_COLUMNS = 6

cli.define_dtype("auto")
_MODEL = shared.define_model()
_REVISION = shared.define_revision()
_RUN = flags.DEFINE_string(
    "run",
    None,
    "The folder of an earlier run, whose completions are shown. --model then has to name the model"
    " that drew them. Default: completions are sampled now.",
)
_ROWS = flags.DEFINE_list(
    "rows",
    None,
    "Only with --run: the rows of its results table that become columns, separated by commas, such"
    f" as Standard,Power. At most {_MOST_COLUMNS} columns are shown. Default: the first"
    f" {_MOST_COLUMNS} rows.",
)
_DATA_DIR = shared.define_data_dir()
_TASK = shared.define_task("a prompt")
_PROBLEM = flags.DEFINE_string(
    "problem",
    None,
    "The id of the problem to show. Default: the task's first problem. Default with --run: the"
    " first problem of which the first column has both a right and a wrong completion; if there is"
    " none, the first problem of the run.",
)
_OUT = shared.define_out("runs/qualitative", "The folder to write to")
_NUM_SAMPLES = shared.define_num_samples(
    3, " With --run nothing is drawn: a column shows at most this many of the run's completions."
)
_SEED = shared.define_seed()
_ALPHA = shared.define_alpha(
    "The exponent alpha of power sampling, which draws from pi^alpha; pi is the model's own"
    " distribution of completions. Temperature sampling has the temperature 1/alpha."
)
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(10)
_MAX_NEW_TOKENS = shared.define_max_new_tokens()
_CHAT = chat_flags.define()
_PROGRESS = shared.define_progress()

_OF_THE_RUN = (
    *(_MODEL, _REVISION, _TASK, _PROBLEM, _NUM_SAMPLES, _SEED, _ALPHA, _NUM_MCMC_STEPS),
    *(_MAX_NEW_TOKENS, *_CHAT),
)

flags.adopt_module_key_flags(cli)


class Shown(NamedTuple):
    """One problem and its completions.

    columns: name -> the records of a column.
    prompt: the problem as the model read it.
    answer: the reference answer; None where it is not known.
    decode: token ids -> text.
    """

    columns: dict[str, list[records.Record]]
    prompt: str
    answer: str | None
    decode: Callable[[list[int]], str]


def main(_) -> None:
    """Writes the page and the figure, and prints the self-rewards."""
    shown = sampled() if _RUN.value is None else recorded(Path(_RUN.value))
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"prompt": shown.prompt, "answer": shown.answer}
    page = qualitative.page(shown.columns, shown.decode, **texts)
    lock.replace_file(folder / "completions.html", page)
    qualitative.figure(shown.columns, shown.decode, **texts).savefig(folder / "completions.png")
    for name, drawn in shown.columns.items():
        rewards = ", ".join(f"{record['self_reward']:.3f}" for record in drawn)
        print(f"{name}: r_self {rewards}")
    print(f"{folder / 'completions.html'}\n{folder / 'completions.png'}")


def sampled() -> Shown:
    """Returns one problem with completions sampled now, or taken from --out where they are."""
    task = registry.get(_TASK.value)
    if task.secret:
        raise ValueError(f"--task={task.name}: its problems are secret, so none is shown")
    if not task.quick:
        sandbox.require()
    problem = find(task)
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN} | {"dtype": cli.dtype()}
    folder = records.open_run(_OUT.value, made_with)
    lm = models.load(_MODEL.value, dtype=cli.dtype(), revision=_REVISION.value)
    (problem,) = runs.prompted(lm, task, [problem], _CHAT.value)
    runs.note_prompts(folder, lm, [task], _CHAT.value)
    longest = _MAX_NEW_TOKENS.value or task.max_new_tokens
    plain = {"max_new_tokens": longest, "seed": _SEED.value, "num_samples": _NUM_SAMPLES.value}
    moves = {"block_size": task.block_size, "num_mcmc_steps": _NUM_MCMC_STEPS.value}
    cool = {"temperature": 1 / _ALPHA.value}
    columns = {}
    for name, sampler, settings in (
        ("Standard", "standard", {}),
        ("Temperature", "temperature", cool),
        ("Power", "power", {**moves, "alpha": _ALPHA.value}),
        ("Power(inf)", "power_inf", {**moves, **cool}),
    ):
        row = Row("Base", name, sampler, {**plain, **settings})
        result, _ = runs.measure(lm, [problem], row, folder, task=task, progress=_PROGRESS.value)
        columns[name] = in_order(result.records)
    return Shown(columns, problem.prompt, problem.answer, lm.decode)


def find(task: Task) -> Problem:
    """Returns the task's problem whose id is --problem, or its first problem without that flag."""
    limit = 1 if _PROBLEM.value is None else None
    problems = task.load_for(_MODEL.value, data_dir=_DATA_DIR.value, limit=limit)
    if _PROBLEM.value is None:
        return problems[0]
    named = [problem for problem in problems if problem.id == _PROBLEM.value]
    if not named:
        raise ValueError(
            f"--problem={_PROBLEM.value}: {task.name} has none of that id, but {problems[0].id} and"
            f" {len(problems) - 1} others"
        )
    return named[0]


def recorded(run: Path) -> Shown:
    """Returns one problem with its completions in a run folder; the answer is not known."""
    rows = rows_of(run)
    problem_id = _PROBLEM.value or telling(next(iter(rows.values())))
    columns = {
        name: in_order([r for r in drawn if r["problem_id"] == problem_id])[: _NUM_SAMPLES.value]
        for name, drawn in rows.items()
    }
    columns = {name: drawn for name, drawn in columns.items() if drawn}
    if not columns:
        raise ValueError(f"--problem={problem_id}: {run} has no completion of it")
    prompt = next(iter(columns.values()))[0].get("prompt")
    folder = checkpoint.find_folder(_MODEL.value, revision=_REVISION.value, weights=False)
    tokenizer = text.load_tokenizer(folder)
    if tokenizer is None:
        raise ValueError(f"--model={_MODEL.value} has no tokenizer files to read the records with")

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    return Shown(columns, as_text(prompt, decode), None, decode)


def rows_of(run: Path) -> dict[str, list[records.Record]]:
    """Returns the rows of a run folder's table that --rows names: name -> records with verdicts."""
    paths = setups.record_files(run)
    if not paths:
        raise FileNotFoundError(f"--run={run} holds no records")
    files = run.glob("verdicts/*.jsonl")
    graded = [row for path in files for row in records.read(path, needs=("id",))]
    verdicts = {row["id"]: row["correct"] for row in graded if "correct" in row}
    drawn = [
        {**record, "correct": verdicts.get(record["id"], record.get("correct"))}
        for record in grading.load(paths)
    ]
    results = evaluation.rows(drawn)
    several = len({result.model for result in results}) > 1
    named = {f"{r.model} {r.sampler}" if several else r.sampler: r.records for r in results}
    if _ROWS.value:
        missing = [name for name in _ROWS.value if name not in named]
        if missing:
            raise ValueError(f"--rows={missing[0]}: {run} has {', '.join(named)}")
        named = {name: named[name] for name in _ROWS.value}
    return dict(itertools.islice(named.items(), _MOST_COLUMNS))


def as_text(prompt, decode) -> str:
    """Returns a record's prompt as text; it may be token ids or chat messages."""
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], dict):
        return "\n".join(message["content"] for message in prompt)
    return decode(prompt or [])


def telling(drawn: list[records.Record]) -> str:
    """Returns the id of the first problem with a right and a wrong completion, or the first id."""
    verdicts: dict[str, set] = {}
    for record in sorted(drawn, key=lambda r: str(r["problem_id"])):
        verdicts.setdefault(record["problem_id"], set()).add(record.get("correct"))
    both = (name for name, seen in verdicts.items() if {True, False} <= seen)
    return next(both, next(iter(verdicts)))


def in_order(drawn: list[records.Record]) -> list[records.Record]:
    """Returns the records in the order of their seeds and sample indices."""
    return sorted(drawn, key=lambda r: (r["seed"], r["sample_index"]))


if __name__ == "__main__":
    cli.run(main)
