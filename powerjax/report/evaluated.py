"""What experiments.evaluate prints and writes: the table, its numbers, notes and a page."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from powerjax import evaluation, records
from powerjax.evaluation import Result
from powerjax.records import identity, lock, stage_counts
from powerjax.report import nearness, page, tables
from powerjax.tasks import Problem, Task


def with_stages(results: list[Result], paths: Sequence[Path]) -> list[Result]:
    """Returns the rows with the acceptance counts of each stage, where they are known.

    They stand in a file beside a record file, and are of a row if that file holds exactly its
    records.
    """
    rows = list(results)
    for path in paths:
        ids = {record["id"] for record in records.read(path)}
        stages = stage_counts.read(path, len(ids))
        for i, result in enumerate(rows):
            if stages and {record["id"] for record in result.records} == ids:
                rows[i] = dataclasses.replace(result, stages=stages)
    return rows


def cut_short(paths: Sequence[Path]) -> list[str]:
    """Returns a line on each file whose last line a kill cut short."""
    cut = [path for path in paths if records.is_cut_short(path)]
    return [f"{path}: its last line is cut short (no newline), and left out." for path in cut]


def notes(graded: Sequence[records.Record], task: Task, *, is_scored: bool) -> list[str]:
    """Returns what a reader of the numbers should know, a line each.

    is_scored: whether a model scored the completions.
    """
    lines = []
    if num_unsafe := tables.num_unsafe(graded):
        lines.append(f"{num_unsafe} programs ran with resource limits alone (--unsafe_exec).")
    if spread := tables.several_boxes(graded):
        lines.append(spread)
    if is_scored:
        lines.append(f"evaluated r is under {graded[0]['evaluated_model']}.")
        num_encoded = sum(record["evaluated_as"] == "text" for record in graded)
        if num_encoded:
            lines.append(
                f"{num_encoded} of {len(graded)} completions were written with another tokenizer:"
                " their text was encoded anew, and their evaluated r is a mean over other tokens."
            )
    num_stated = [len(identity.stated(record)) for record in graded]
    if num_fewer := sum(number < max(num_stated) for number in num_stated):
        lines.append(
            f"{num_fewer} of {len(graded)} records do not state all settings of their law, as those"
            " of older versions do not: they stand in rows of their own."
        )
    if task.secret:
        lines.append("The authors of this task ask that its text be shown nowhere.")
    if not is_scored and task.secret:
        lines.append("Verdicts are those given in sampling: --model would read the tokens anew.")
    ungraded = sum(record["correct"] is None for record in graded)
    if ungraded:
        lines.append(f"{ungraded} completions are of problems without a known answer.")
    return lines


def write(
    folder: Path,
    results: list[Result],
    task: Task,
    problems: Sequence[Problem],
    lines: Sequence[str],
) -> None:
    """Prints the table, and writes it, the summaries and the page to the folder.

    lines: what stands below the table; see `notes`.
    """
    table, costs = tables.main(results), tables.costs(results)
    lines = [*lines, *nearness.notes(results)]
    print(f"\n{tables.plain(table)}\n")
    if costs:
        print(f"{tables.COSTS}\n{tables.plain(costs)}\n")
    for line in lines:
        print(line)
    lock.replace_file(folder / "table.md", tables.markdown(table) + "\n")
    lock.replace_file(folder / "table.csv", tables.csv(table))
    lock.replace_file(folder / "table.tex", tables.latex(table))
    summary = [
        {
            "model": result.model,
            "sampler": result.sampler,
            **dataclasses.asdict(result.summary),
            "best_of": [dataclasses.asdict(best) for best in evaluation.best_of(result.records)],
            "stages": result.stages,
            **({} if result.mixing is None else {"mixing": result.mixing.numbers()}),
            **({} if result.nearness is None else {"nearness": result.nearness.numbers()}),
        }
        for result in results
    ]
    lock.replace_file(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    path = page.write_report(
        folder, results, title=f"{task.name}, evaluated", task=task, problems=problems, notes=lines
    )
    print(f"{path}, and the table as table.md, table.csv and table.tex beside it")
