r"""Grades recorded completions and writes a table, a page and the numbers behind them.

    python -m experiments.evaluate --records=runs/power --out=runs/eval

--records takes record files, or folders of runs of experiments.sample or experiments.reproduce,
separated by commas. The records of one model and one sampler with the same settings make one row of
the table. If they have several seeds or samples, the row has several passes; a pass is one
completion of every problem.

All records are graded. Most records already have a verdict and get a second opinion; those of code
tasks have none yet. The program prints the table and writes to --out: table.md, table.csv,
table.tex, summary.json, report.html (one self-contained page) and verdicts.jsonl. If it is stopped,
the same command goes on from verdicts.jsonl.

With --model (and --adapter) that model scores every completion, whichever model wrote it:

    python -m experiments.evaluate --records=runs/teacher,runs/student --task=math500 \
      --data_dir=data --model=Qwen/Qwen2.5-Math-7B --adapter=runs/student/adapter --out=runs/eval

With --proposal, that model scores the completions of a student, and the page says how near the
student is to pi^alpha of the base:

    python -m experiments.evaluate --records=runs/student --model=tiny \
      --proposal=runs/student/adapter --out=runs/eval

The programs of code tasks run in bubblewrap; see --unsafe_exec where it is missing.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import flags as shared
from powerjax import cli, evaluation, models, records
from powerjax.report import evaluated
from powerjax.runs import collect, grading, nearness, rescoring, setups
from powerjax.tasks import Problem, Task, registry

cli.define_dtype("auto")
_RECORDS = flags.DEFINE_list(
    "records",
    None,
    "The records to grade: record files, or run folders that hold records.jsonl or records/*.jsonl,"
    " separated by commas.",
)
_TASK = flags.DEFINE_string(
    "task",
    None,
    f"The task of the records: {shared.TASK_NAMES}, or the path of the JSONL file whose problems"
    " were sampled. Default: the task that is named in the records or in their run's manifest.",
)
_DATA_DIR = shared.define_data_dir()
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "The split of the task whose problems were sampled, such as train; only for tasks that have"
    " several. Default: the splits named at the start of the records' problem ids.",
)
_LIMIT = shared.define_limit(
    "How many problems to grade, counted from the first of the task. The records of other problems"
    " are left out. Default: all records are graded."
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A model that scores all completions: tiny, a Hugging Face id, a folder, or a GGUF file. Its"
    " mean log-likelihood per token is added to the table as evaluated r. Default: no model"
    " scores.",
)
_RANDOM_WEIGHTS = shared.define_random_weights()
_ADAPTER = shared.define_adapter("--model scores the completions with this adapter.")
_PROPOSAL = flags.DEFINE_string(
    "proposal",
    None,
    "A student, which is weighed as a proposal for pi^alpha of the base, --model: the folder of its"
    " adapter, or a model. Its plain samples among the records (--sampler=standard) get weights,"
    " and the table and the page say how near the student is: ESS/n, k-hat and KL. Default: no"
    " student is weighed.",
)
_ALPHA = shared.define_alpha(
    "The exponent alpha of the pi^alpha that --proposal is weighed against."
)
_REVISION, _UNSAFE_EXEC = shared.define_revision(), shared.define_unsafe_exec()
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "How many processes grade at the same time. Default: one per core of this machine, but at most"
    " 16 except for code tasks.",
    lower_bound=1,
)
_PASS_AT = flags.DEFINE_list(
    "pass_at",
    None,
    "The numbers k for which pass@k is estimated, separated by commas. Default: 1, 2, 4 and further"
    " powers of two, up to the smallest number of graded completions of any problem.",
)
_OUT = shared.define_out("runs/eval")
_PROGRESS = shared.define_progress()

_FREE = ("records", "limit", "split", "data_dir", "num_workers", "pass_at", "dtype")
_FREE = (*_FREE, "proposal", "alpha")
_ENDLESS = "arithmetic"  # this task's problems are made on demand, as many as are wanted
_MOST_MADE = 1_000_000  # how many of them are made at most

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    """Grades the records, scores them with --model if it is given, and writes table and page."""
    if not _RECORDS.value:
        raise ValueError("give --records: record files or run folders, separated by commas")
    if _PROPOSAL.value and (not _MODEL.value or _ADAPTER.value):
        raise ValueError("--proposal needs the base as --model, and no --adapter on it")
    out = Path(_OUT.value)
    paths = files(_RECORDS.value)
    if any(path.resolve().is_relative_to(out.resolve()) for path in paths):
        raise ValueError(f"--out={out} is where the records are: choose a folder of its own")
    drawn = grading.load(paths)
    if not drawn:
        raise ValueError(f"--records={','.join(_RECORDS.value)}: no record in {len(paths)} files")
    task = task_of(drawn, paths)
    problems = problems_of(task, drawn)
    if _LIMIT.value is not None:
        wanted = {problem.id for problem in problems}
        drawn = [record for record in drawn if record.get("problem_id") in wanted]
    settings = {flag.name: flag.value for flag in _SETTINGS} | {"task": _TASK.value or task.name}
    folder = records.open_run(out, settings, free=_FREE)
    lm, student = _load()
    weighable: set[str] = set()
    notes: list[str] = []
    if student is not None:
        weighable, notes = nearness.select(drawn, student, _PROPOSAL.value)
    print(f"{len(drawn):,} records of {task.name} in {len(paths)} files")
    drawn = grading.grade_records(
        drawn,
        task,
        problems,
        folder / "verdicts.jsonl",
        decode=None if lm is None else lm.decode,
        unsafe_exec=_UNSAFE_EXEC.value,
        num_workers=_NUM_WORKERS.value,
        progress=_PROGRESS.value,
    )
    if lm is not None:
        drawn = rescoring.rescore(
            lm,
            drawn,
            problems,
            folder / "scores.jsonl",
            model=collect.model_name(lm, _RANDOM_WEIGHTS.value),
            progress=_PROGRESS.value,
        )
    results = evaluated.with_stages(evaluation.rows(drawn, pass_at=_ks()), paths)
    if student is not None:
        results = nearness.weighed(results, weighable, _ALPHA.value, _PROPOSAL.value)
    notes = [*evaluated.notes(drawn, task, is_scored=lm is not None), *notes]
    evaluated.write(folder, results, task, problems, [*evaluated.cut_short(paths), *notes])


def files(names: Sequence[str]) -> list[Path]:
    """Returns the record files of --records, whose parts are files or run folders.

    Raises FileNotFoundError where one is neither, or a folder holds no record file.
    """
    paths = []
    for name in names:
        path = Path(name)
        if path.is_file():
            paths.append(path)
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"--records={name}: there is no such file or folder")
        inside = setups.record_files(path)
        if not inside:
            raise FileNotFoundError(
                f"--records={name} holds neither records.jsonl nor records/*.jsonl"
            )
        paths += inside
    return paths


def task_of(drawn: Sequence[records.Record], paths: Sequence[Path]) -> Task:
    """Returns the task that --task names, or else the one that the records name.

    Records sampled from a prompt file name only the file; its path is in the manifest of their run.
    Raises ValueError where the task cannot be told.
    """
    if _TASK.value:
        return registry.get(_TASK.value)
    names = sorted({str(record.get("task")) for record in drawn})
    if len(names) > 1:
        raise ValueError(f"the records are of {', '.join(names)}: evaluate one task at a time")
    if names[0] in registry.NAMES:
        return registry.get(names[0])
    for path in paths:
        manifest = path.parent / records.MANIFEST
        if manifest.is_file():
            task = records.read_manifest(manifest)["settings"].get("task")
            if isinstance(task, str) and Path(task).is_file():
                return registry.get(task)
    raise ValueError(f"the records are of {names[0]!r}: give --task, the file of its prompts")


def problems_of(task: Task, drawn: Sequence[records.Record]) -> list[Problem]:
    """Returns the problems of the task, from the splits that the records are from."""
    options = {"data_dir": _DATA_DIR.value, "limit": _LIMIT.value}
    names = [str(record.get("problem_id")) for record in drawn]
    if not task.splits:
        return task.load_for(_MODEL.value or "", **options)
    splits = [_SPLIT.value] if _SPLIT.value else task.splits
    problems = []
    for split in splits:
        of_split = [name for name in names if name.startswith(f"{split}-")]
        if of_split or _SPLIT.value:
            if task.name == _ENDLESS and _LIMIT.value is None:
                options["limit"] = _num_to_make(task, of_split)
            problems += task.load_for(_MODEL.value or "", **options, split=split)
    return problems


def _num_to_make(task: Task, names: Sequence[str]) -> int:
    """Returns how many problems of the endless task are made, so that these ids are among them.

    names: ids such as test-0-17, whose last part is the problem's number, from 0.
    """
    numbers = (name.rsplit("-", 1)[1] for name in names)
    last = max((int(n) for n in numbers if n.isdecimal() and len(n) < 10), default=0)
    if last >= _MOST_MADE:
        raise ValueError(
            f"a record is of problem number {last:,} of {task.name}, of which evaluate"
            f" makes at most {_MOST_MADE:,}: give --limit, or mend that record"
        )
    return 1 + last


def _load() -> tuple[models.LM | None, models.LM | None]:
    """Returns the model that scores and the student that is weighed, each None without its flag."""
    if _MODEL.value is None:
        return None, None
    options = {
        "dtype": cli.dtype(),
        "random_weights": _RANDOM_WEIGHTS.value,
        "revision": _REVISION.value,
    }
    if _PROPOSAL.value is None:
        lm, student = models.load(_MODEL.value, adapter=_ADAPTER.value, **options), None
    else:
        lm, student = nearness.load(_MODEL.value, _PROPOSAL.value, **options)
    print(lm)
    return lm, student


def _ks() -> list[int] | None:
    """Returns the numbers of --pass_at in rising order, or None for the default."""
    if _PASS_AT.value is None:
        return None
    if not all(k.isdecimal() and int(k) > 0 for k in _PASS_AT.value):
        raise ValueError(f"--pass_at={','.join(_PASS_AT.value)}: give numbers such as 1,4,16")
    return sorted({int(k) for k in _PASS_AT.value})


_SETTINGS = (
    *(_RECORDS, _DATA_DIR, _SPLIT, _LIMIT, _MODEL, _RANDOM_WEIGHTS, _ADAPTER, _REVISION),
    *(_UNSAFE_EXEC, _NUM_WORKERS, _PASS_AT, _PROPOSAL, _ALPHA),
)


if __name__ == "__main__":
    cli.run(main)
