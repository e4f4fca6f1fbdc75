r"""Grades records and turns them into a table, a page and the numbers behind them.

    python -m experiments.evaluate --records=runs/power --out=runs/eval

takes record files, or folders of runs of experiments.sample or experiments.reproduce, separated by
commas; several seeds of one sampler make one row with several passes. All records are graded, those
that had no verdict yet (programs) and those that had one, for second opinions. It prints the table
and writes to --out: table.md, table.csv, table.tex, summary.json, report.html (one self-contained
page), and verdicts.jsonl, from which the same command goes on when it was stopped.

With --model (and --adapter) that model scores every completion, whatever model wrote it:

    python -m experiments.evaluate --records=runs/teacher,runs/student --task=math500 \
      --data_dir=data --model=Qwen/Qwen2.5-Math-7B --adapter=runs/student/adapter --out=runs/eval

Code tasks run their programs in bubblewrap; where it is missing, see --unsafe_exec.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from powerjax import cli, evaluation, models, records
from powerjax.evaluation import Result
from powerjax.records import identity, stage_counts
from powerjax.report import page, tables
from powerjax.runs import collect, grading, setups
from powerjax.tasks import Problem, Task, registry

cli.define_dtype("auto")
_RECORDS = flags.DEFINE_list(
    "records", None, "Record files, or run folders that hold records.jsonl or records/*.jsonl."
)
_TASK = flags.DEFINE_string(
    "task",
    None,
    f"{', '.join(registry.NAMES)}, or the JSONL file the prompts are from; by default what the"
    " records or their run say.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the task's published files; else the hub is asked."
)
_SPLIT = flags.DEFINE_string("split", None, "Which split; by default those the records are of.")
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Only records of the task's first so many problems.", lower_bound=1
)
_MODEL = flags.DEFINE_string(
    "model", None, "Score the completions under this model too: a Hugging Face id, or a folder."
)
_RANDOM_WEIGHTS = flags.DEFINE_bool("random_weights", False, "That model with random weights.")
_ADAPTER = flags.DEFINE_string("adapter", None, "A PEFT LoRA folder for that model.")
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a Hugging Face id.")
_UNSAFE_EXEC = flags.DEFINE_bool(
    "unsafe_exec",
    False,
    "Run programs that you trust with resource limits alone, where there is no bubblewrap.",
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Processes that grade; one a core if not given.", lower_bound=1
)
_PASS_AT = flags.DEFINE_list(
    "pass_at", None, "For which k to estimate pass@k; by default the powers of two that there are."
)
_OUT = flags.DEFINE_string("out", "runs/eval", "The run folder.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show progress bars.")

_FREE = ("records", "limit", "split", "data_dir", "num_workers", "pass_at", "dtype")
_ENDLESS = "arithmetic"  # its problems are made as they are asked for
_MOST_MADE = 1_000_000

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    if not _RECORDS.value:
        raise ValueError("give --records: record files or run folders, separated by commas")
    out = Path(_OUT.value)
    paths = files(_RECORDS.value)
    if any(path.resolve().is_relative_to(out.resolve()) for path in paths):
        raise ValueError(f"--out={out} is where the records are: choose a folder of its own")
    made = grading.load(paths)
    if not made:
        raise ValueError(f"--records={','.join(_RECORDS.value)}: no record in {len(paths)} files")
    task = task_of(made, paths)
    problems = problems_of(task, made)
    if _LIMIT.value is not None:
        kept = {problem.id for problem in problems}
        made = [record for record in made if record.get("problem_id") in kept]
    settings = {flag.name: flag.value for flag in _SETTINGS} | {"task": _TASK.value or task.name}
    folder = records.open_run(out, settings, free=_FREE)
    lm = _load() if _MODEL.value else None
    print(f"{len(made):,} records of {task.name} in {len(paths)} files")
    made = grading.grade_records(
        made,
        task,
        problems,
        folder / "verdicts.jsonl",
        decode=None if lm is None else lm.decode,
        unsafe_exec=_UNSAFE_EXEC.value,
        num_workers=_NUM_WORKERS.value,
        progress=_PROGRESS.value,
    )
    if lm is not None:
        made = grading.rescore(
            lm,
            made,
            problems,
            folder / "scores.jsonl",
            model=collect.model_name(lm, _RANDOM_WEIGHTS.value),
            progress=_PROGRESS.value,
        )
    results = with_stages(evaluation.rows(made, pass_at=_ks()), paths)
    write(folder, results, task, problems, [*cut_short(paths), *notes(made, task, lm)])


def files(given: Sequence[str]) -> list[Path]:
    """The record files meant: each a file, or a run folder's."""
    found = []
    for name in given:
        path = Path(name)
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"--records={name}: there is no such file or folder")
        inside = setups.record_files(path)
        if not inside:
            raise FileNotFoundError(
                f"--records={name} holds neither records.jsonl nor records/*.jsonl"
            )
        found += inside
    return found


def task_of(made: Sequence[records.Record], paths: Sequence[Path]) -> Task:
    """The task by --task, else by the records; a prompt file's path is in its run's manifest."""
    if _TASK.value:
        return registry.get(_TASK.value)
    names = sorted({str(record.get("task")) for record in made})
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


def problems_of(task: Task, made: Sequence[records.Record]) -> list[Problem]:
    """The problems of the task, of the splits that the records are of."""
    options = {"data_dir": _DATA_DIR.value, "limit": _LIMIT.value}
    names = [str(record.get("problem_id")) for record in made]
    if not task.splits:
        return task.load_for(_MODEL.value or "", **options)
    splits = [_SPLIT.value] if _SPLIT.value else task.splits
    found = []
    for split in splits:
        of_split = [name for name in names if name.startswith(f"{split}-")]
        if of_split or _SPLIT.value:
            if task.name == _ENDLESS and _LIMIT.value is None:
                numbers = (name.rsplit("-", 1)[1] for name in of_split)
                last = max((int(n) for n in numbers if n.isdecimal() and len(n) < 10), default=0)
                if last >= _MOST_MADE:
                    raise ValueError(
                        f"a record is of problem number {last:,} of {task.name}, of which evaluate"
                        f" makes at most {_MOST_MADE:,}: give --limit, or mend that record"
                    )
                options["limit"] = 1 + last
            found += task.load_for(_MODEL.value or "", **options, split=split)
    return found


def with_stages(results: list[Result], paths: Sequence[Path]) -> list[Result]:
    """The rows with the acceptance of each stage, where a file of one row has it beside it."""
    found = list(results)
    for path in paths:
        ids = {record["id"] for record in records.read(path)}
        known = stage_counts.read(path, len(ids))
        for i, result in enumerate(found):
            if known and {record["id"] for record in result.records} == ids:
                found[i] = dataclasses.replace(result, stages=known)
    return found


def cut_short(paths: Sequence[Path]) -> list[str]:
    """What to say of files whose last line is no record."""
    found = [path for path in paths if records.is_cut_short(path)]
    return [f"{path}: its last line is cut short (no newline), and left out." for path in found]


def notes(made: Sequence[records.Record], task: Task, lm: models.LM | None) -> list[str]:
    """What a reader of the numbers should know."""
    found = []
    if unsafe := tables.num_unsafe(made):
        found.append(f"{unsafe} programs ran with resource limits alone (--unsafe_exec).")
    if spread := tables.several_boxes(made):
        found.append(spread)
    if lm is not None:
        found.append(f"evaluated r is under {made[0]['evaluated_model']}.")
        anew = sum(record["evaluated_as"] == "text" for record in made)
        if anew:
            found.append(
                f"{anew} of {len(made)} completions were written with another tokenizer: their text"
                " was encoded anew, and their evaluated r is a mean over other tokens."
            )
    num_stated = [len(identity.stated(record)) for record in made]
    if fewer := sum(number < max(num_stated) for number in num_stated):
        found.append(
            f"{fewer} of {len(made)} records do not state all settings of their law, as those of"
            " older versions do not: they stand in rows of their own."
        )
    if task.secret:
        found.append("The authors of this task ask that its text be shown nowhere.")
    if lm is None and task.secret:
        found.append("Verdicts are those given in sampling: --model would read the tokens anew.")
    ungraded = sum(record["correct"] is None for record in made)
    if ungraded:
        found.append(f"{ungraded} completions are of problems without a known answer.")
    return found


def write(
    folder: Path,
    results: list[Result],
    task: Task,
    problems: Sequence[Problem],
    told: Sequence[str],
) -> None:
    """Prints the table, and writes it, the summaries and the page."""
    table, costs = tables.main(results), tables.costs(results)
    print(f"\n{tables.plain(table)}\n")
    if costs:
        print(f"{tables.COSTS}\n{tables.plain(costs)}\n")
    for line in told:
        print(line)
    (folder / "table.md").write_text(tables.markdown(table) + "\n", encoding="utf-8")
    (folder / "table.csv").write_text(tables.csv(table), encoding="utf-8")
    (folder / "table.tex").write_text(tables.latex(table), encoding="utf-8")
    summary = [
        {
            "model": result.model,
            "sampler": result.sampler,
            **dataclasses.asdict(result.summary),
            "best_of": [dataclasses.asdict(one) for one in evaluation.best_of(result.records)],
            "stages": result.stages,
        }
        for result in results
    ]
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    written = page.write_report(
        folder, results, title=f"{task.name}, evaluated", task=task, problems=problems, notes=told
    )
    print(f"{written}, and the table as table.md, table.csv and table.tex beside it")


def _load() -> models.LM:
    lm = models.load(
        _MODEL.value,
        dtype=cli.dtype(),
        random_weights=_RANDOM_WEIGHTS.value,
        adapter=_ADAPTER.value,
        revision=_REVISION.value,
    )
    print(lm)
    return lm


def _ks() -> list[int] | None:
    if _PASS_AT.value is None:
        return None
    if not all(k.isdecimal() and int(k) > 0 for k in _PASS_AT.value):
        raise ValueError(f"--pass_at={','.join(_PASS_AT.value)}: give numbers such as 1,4,16")
    return sorted({int(k) for k in _PASS_AT.value})


_SETTINGS = (
    *(_RECORDS, _DATA_DIR, _SPLIT, _LIMIT, _MODEL, _RANDOM_WEIGHTS, _ADAPTER, _REVISION),
    *(_UNSAFE_EXEC, _NUM_WORKERS, _PASS_AT),
)


if __name__ == "__main__":
    cli.run(main)
