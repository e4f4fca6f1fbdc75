r"""One problem's completions side by side, every token coloured by the model's log-probability.

    python -m experiments.qualitative --out=runs/qualitative
    python -m experiments.qualitative --run=runs/quickstart --problem=test-0-3

The first samples one problem by standard, temperature, power and power(inf) sampling; the second
shows records that a run has left (those of experiments.sample, quickstart or reproduce). Both
write completions.html and completions.png into --out. Problems whose text is secret are refused.
"""

import itertools
from pathlib import Path

from absl import flags

from powerjax import cli, evaluation, models, records, runs
from powerjax.evaluation import paper
from powerjax.models import checkpoint, text
from powerjax.report import qualitative
from powerjax.runs import Row, grading, setups
from powerjax.tasks import Problem, Task, registry, sandbox

cli.define_dtype("auto")
_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the project), a Hugging Face id, or a folder."
)
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a Hugging Face id.")
_RUN = flags.DEFINE_string(
    "run", None, "Show the records of this run folder, which --model drew, and sample nothing."
)
_ROWS = flags.DEFINE_list(
    "rows", None, "Of a run, the columns by name, as Standard,Power; all, at most 6, if not given."
)
_TASK = flags.DEFINE_string(
    "task", "arithmetic", f"{', '.join(registry.NAMES)}, or a JSONL file of prompts."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the task's published files; else the hub is asked."
)
_PROBLEM = flags.DEFINE_string(
    "problem",
    None,
    "Its id. If not given: of a run, the first that its first column gets right and wrong; else the"
    " task's first.",
)
_OUT = flags.DEFINE_string("out", "runs/qualitative", "The folder to write to.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 3, "Completions a column.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of every draw.")
_ALPHA = flags.DEFINE_float("alpha", paper.ALPHA, "The power's exponent.", lower_bound=1.0)
_NUM_MCMC_STEPS = flags.DEFINE_integer("num_mcmc_steps", 10, "Moves a stage.", lower_bound=1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "The longest completion; 3072, for arithmetic 64.", lower_bound=1
)
_CHAT_TEMPLATE = flags.DEFINE_enum(
    "chat_template", "auto", ["auto", "on", "off"], "As for experiments.sample."
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")

_OF_THE_RUN = (
    *(_MODEL, _REVISION, _TASK, _PROBLEM, _NUM_SAMPLES, _SEED, _ALPHA, _NUM_MCMC_STEPS),
    *(_MAX_NEW_TOKENS, _CHAT_TEMPLATE),
)
_MOST_COLUMNS = 6

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    if _RUN.value is None:
        columns, prompt, answer, decode = sampled()
    else:
        columns, prompt, answer, decode = recorded(Path(_RUN.value))
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    shown = {"prompt": prompt, "answer": answer}
    page = qualitative.page(columns, decode, **shown)
    (folder / "completions.html").write_text(page, encoding="utf-8", errors="replace")
    qualitative.figure(columns, decode, **shown).savefig(folder / "completions.png")
    for name, found in columns.items():
        rewards = ", ".join(f"{record['self_reward']:.3f}" for record in found)
        print(f"{name}: r_self {rewards}")
    print(f"{folder / 'completions.html'}\n{folder / 'completions.png'}")


def sampled():
    """(columns, prompt, answer, decode) of one problem sampled now, or found in --out."""
    task = registry.get(_TASK.value)
    if task.secret:
        raise ValueError(f"--task={task.name}: its problems are secret, so none is shown")
    if not task.quick:
        sandbox.require()
    problem = find(task)
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN} | {"dtype": cli.dtype()}
    folder = records.open_run(_OUT.value, made_with)
    lm = models.load(_MODEL.value, dtype=cli.dtype(), revision=_REVISION.value)
    (problem,) = runs.asked(lm, task, [problem], _CHAT_TEMPLATE.value)
    runs.note_prompts(folder, lm, [task], _CHAT_TEMPLATE.value)
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
    return columns, problem.prompt, problem.answer, lm.decode


def find(task: Task) -> Problem:
    """The task's problem of --problem, or its first."""
    limit = 1 if _PROBLEM.value is None else None
    problems = task.load_for(_MODEL.value, data_dir=_DATA_DIR.value, limit=limit)
    if _PROBLEM.value is None:
        return problems[0]
    found = [problem for problem in problems if problem.id == _PROBLEM.value]
    if not found:
        raise ValueError(
            f"--problem={_PROBLEM.value}: {task.name} has none of that id, but {problems[0].id} and"
            f" {len(problems) - 1} others"
        )
    return found[0]


def recorded(run: Path):
    """(columns, prompt, answer, decode) of one problem of a run; the answer is not known."""
    paths = setups.record_files(run)
    if not paths:
        raise FileNotFoundError(f"--run={run} holds no records")
    files = run.glob("verdicts/*.jsonl")
    graded = [row for path in files for row in records.read(path, needs=("id",))]
    verdicts = {row["id"]: row["correct"] for row in graded if "correct" in row}
    made = grading.load(paths)
    made = [{**r, "correct": verdicts.get(r["id"], r.get("correct"))} for r in made]
    results = evaluation.rows(made)
    several = len({result.model for result in results}) > 1
    named = {f"{r.model} {r.sampler}" if several else r.sampler: r.records for r in results}
    if _ROWS.value:
        missing = [name for name in _ROWS.value if name not in named]
        if missing:
            raise ValueError(f"--rows={missing[0]}: {run} has {', '.join(named)}")
        named = {name: named[name] for name in _ROWS.value}
    named = dict(itertools.islice(named.items(), _MOST_COLUMNS))
    first = next(iter(named.values()))
    problem_id = _PROBLEM.value or telling(first)
    columns = {
        name: in_order([r for r in found if r["problem_id"] == problem_id])[: _NUM_SAMPLES.value]
        for name, found in named.items()
    }
    columns = {name: found for name, found in columns.items() if found}
    if not columns:
        raise ValueError(f"--problem={problem_id}: {run} has no completion of it")
    prompt = next(iter(columns.values()))[0].get("prompt")
    folder = checkpoint.find_folder(_MODEL.value, revision=_REVISION.value, weights=False)
    tokenizer = text.load_tokenizer(folder)
    if tokenizer is None:
        raise ValueError(f"--model={_MODEL.value} has no tokenizer files to read the records with")

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    return columns, as_text(prompt, decode), None, decode


def as_text(prompt, decode) -> str:
    """A record's prompt to read: text, token ids, or the contents of chat messages."""
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], dict):
        return "\n".join(message["content"] for message in prompt)
    return decode(prompt or [])


def telling(found: list[records.Record]) -> str:
    """The first problem that these records have both right and wrong, else the first of all."""
    verdicts: dict[str, set] = {}
    for record in sorted(found, key=lambda r: str(r["problem_id"])):
        verdicts.setdefault(record["problem_id"], set()).add(record.get("correct"))
    both = (name for name, seen in verdicts.items() if {True, False} <= seen)
    return next(both, next(iter(verdicts)))


def in_order(found: list[records.Record]) -> list[records.Record]:
    """By seed and sample."""
    return sorted(found, key=lambda r: (r["seed"], r["sample_index"]))


if __name__ == "__main__":
    cli.run(main)
