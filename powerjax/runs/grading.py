"""Verdicts on completions that are in records: `correct`, `extracted_answer` and `grade_detail`.

Grading many completions takes long where programs have to run, so verdicts are kept in a file
beside the records, from which a run that was killed goes on (`result_files`).
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from powerjax.records import Record, numbered
from powerjax.runs import result_files
from powerjax.tasks.base import Graded, Problem, Task


def load(paths: Sequence[str | os.PathLike]) -> list[Record]:
    """Returns the records of all files, in order, without last lines that were cut short.

    A problem_id that is a number is turned into text, because the ids of a task's problems are
    texts.

    Raises FileNotFoundError for a file that is not there; ValueError for a record without an id,
    for an id that occurs twice, and for a field that is not what `records.fields` says.
    """
    records: list[Record] = []
    places: dict[str, str] = {}
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no record file {path}")
        for number, record in numbered(path, needs=("id",)):
            place, name = f"{path}, line {number}", record["id"]
            if name in places:
                raise ValueError(f"{place}: the id {name!r} is that of {places[name]}: drop one")
            places[name] = place
            if record.get("problem_id") is not None:
                record["problem_id"] = str(record["problem_id"])
            records.append(record)
    return records


def grade_records(
    records: Sequence[Record],
    task: Task,
    problems: Sequence[Problem],
    path: str | os.PathLike | None = None,
    *,
    decode: Callable[[list[int]], str] | None = None,
    unsafe_exec: bool = False,
    num_workers: int | None = None,
    progress: bool = True,
) -> list[Record]:
    """Returns the records with `correct`, `extracted_answer` and `grade_detail` (`Graded.detail`).

    A verdict in the file at `path` is taken from there. All other records are graded, even those
    with a verdict of their own, because only `Task.grade_all` gives the second opinions in
    `grade_detail`. There is one exception: a record of token ids without text cannot be graded
    without `decode`. If it has a verdict, it keeps it, and its `grade_detail` is None.

    Args:
      records: records of the task, whose ids are distinct.
      task: the task, whose `grade_all` is called.
      problems: the task's problems, among them those of all records.
      path: a JSONL file of verdicts, {"id", "of", "correct", ...}, to resume from and to add to;
        "of" is a hash of task, reference answer and completion. None keeps no file.
      decode: token ids -> text, for records that hold no text (those of secret problems, or of a
        model without a tokenizer). The text is graded and then forgotten.
      unsafe_exec: for tasks that run programs: run them without the sandbox (`tasks.sandbox`).
      num_workers: processes that grade at a time; None lets the task choose.
      progress: whether a bar is shown.

    Raises ValueError for a record without an id, for two records with one id, for a record of
    another task or of a problem that is not among these, for a record with neither text nor tokens,
    for one without text and verdict where there is no `decode`, and for a `path` that holds
    verdicts on other completions.
    """
    own_problems = _problems_of(records, task, problems)
    options = {"num_workers": num_workers, **({} if task.quick else {"unsafe_exec": unsafe_exec})}

    def grade(batch: Sequence[int]) -> list[dict[str, Any]]:
        completions = [_completion(records[i], decode) for i in batch]
        verdicts = task.grade_all([own_problems[i] for i in batch], completions, **options)
        return [_fields(verdict) for verdict in verdicts]

    sources = [
        result_files.source_hash(
            task.name, problem.answer, record.get("tokens"), record.get("completion")
        )
        for record, problem in zip(records, own_problems, strict=True)
    ]
    order = [
        i for i, record in enumerate(records) if decode is not None or not _keeps_verdict(record)
    ]
    graded = result_files.add_results(
        records, sources, order, grade, path, desc="grading", progress=progress
    )
    return [{"grade_detail": None, **record} for record in graded]


def _problems_of(
    records: Sequence[Record], task: Task, problems: Sequence[Problem]
) -> list[Problem]:
    """Returns the problem of each record. Raises ValueError where a record has none of these."""
    result_files.check_ids(records)
    by_id = {problem.id: problem for problem in problems}
    for record in records:
        if record.get("task", task.name) != task.name:
            raise ValueError(
                f"the record {record['id']!r} is of the task {record['task']}, and not of"
                f" {task.name}: give --task={record['task']}, or other records"
            )
        if record.get("problem_id") not in by_id:
            raise ValueError(
                f"the record {record['id']!r} is of the problem {record.get('problem_id')!r}, which"
                f" is not among the {len(problems)} of {task.name}: give the --split, --limit and"
                " data it was made with"
            )
    return [by_id[record["problem_id"]] for record in records]


def _fields(verdict: Graded) -> dict[str, Any]:
    return {
        "correct": verdict.correct,
        "extracted_answer": verdict.extracted,
        "grade_detail": verdict.detail,
    }


def _keeps_verdict(record: Record) -> bool:
    """Whether a record, where nothing decodes its tokens, keeps the verdict that it has."""
    return record.get("completion") is None and record.get("correct") is not None


def _completion(record: Record, decode: Callable[[list[int]], str] | None) -> str:
    """Returns a record's text, decoded from its tokens where it holds none."""
    if record.get("completion") is not None:
        return record["completion"]
    tokens = record.get("tokens")
    if tokens is None:
        raise ValueError(f"the record {record['id']!r} has neither a completion nor tokens")
    if decode is None:
        raise ValueError(
            f"the record {record['id']!r} holds token ids and no text: give --model, whose"
            " tokenizer reads them"
        )
    try:
        return decode(tokens[:-1] if record.get("finish_reason") == "eos" else tokens)
    except ValueError as error:
        raise ValueError(f"the record {record['id']!r}: {error}") from None
