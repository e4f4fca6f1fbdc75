"""Verdicts and scores for records that exist: long work, kept in a file beside them, resumable.

`grade_records` fills `correct`, `extracted_answer` and `grade_detail`; `rescore` adds what another
model thinks of the same completions. The records' own files are never written to. With a `path`,
each batch of results is on disk before the next begins: a run that was killed goes on from there, a
last line cut short is dropped and made again, and results for other completions than those at hand
are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from powerjax import records as files
from powerjax.models import text as texts
from powerjax.records import Record
from powerjax.records.progress import progress_bar
from powerjax.tasks.base import Problem, Task, prompt_hash

if TYPE_CHECKING:
    from powerjax.models import LM

_BATCH = 64


def load(paths: Sequence[str | os.PathLike]) -> list[Record]:
    """The records of all files, in order; a last line that a kill cut short is left out.

    A problem_id that is a number becomes text, as the problems of every task are named.

    Raises a ValueError of one line for a record without an id, for an id that occurs twice and for
    a field that is not what `fields` says; a FileNotFoundError for a file that is not there.
    """
    found, where = [], {}
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no record file {path}")
        for number, record in files.numbered(path, needs=("id",)):
            here = f"{path}, line {number}"
            name = record["id"]
            if name in where:
                raise ValueError(f"{here}: the id {name!r} is that of {where[name]}: drop one")
            where[name] = here
            if record.get("problem_id") is not None:
                record["problem_id"] = str(record["problem_id"])
            found.append(record)
    return found


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
    """The records with `correct`, `extracted_answer` and `grade_detail` (`Graded.detail`).

    All are graded, those that have a verdict too: second opinions are only given here. A record
    without text to grade keeps the verdict it has, with None for `grade_detail`, unless `path` has
    one that was given where there was a `decode`.

    Args:
      path: a JSONL file of verdicts, {"id", "of", "correct", ...}; "of" is a hash of completion and
        reference answer.
      decode: token ids -> text, for records that hold no text (those of secret problems, or of a
        model without a tokenizer). The text is graded and not kept.
      unsafe_exec: for tasks that run programs, see `tasks.sandbox`.

    Raises a ValueError of one line for a record without an id, for two of one id, for one that is
    not of these problems, and for a `path` that holds verdicts on other completions.
    """
    asked = _problems_of(records, task, problems)
    options = {"num_workers": num_workers, **({} if task.quick else {"unsafe_exec": unsafe_exec})}

    def verdicts(batch: Sequence[int]) -> list[dict[str, Any]]:
        completions = [_completion(records[i], decode) for i in batch]
        graded = task.grade_all([asked[i] for i in batch], completions, **options)
        return [
            {
                "correct": one.correct,
                "extracted_answer": one.extracted,
                "grade_detail": one.detail,
            }
            for one in graded
        ]

    hashes = [
        _hash(task.name, problem.answer, record.get("tokens"), record.get("completion"))
        for record, problem in zip(records, asked, strict=True)
    ]
    order = [i for i, r in enumerate(records) if decode is not None or not _has_verdict_alone(r)]
    filled = _filled(records, hashes, order, verdicts, path, "grading", progress)
    return [{"grade_detail": None, **record} for record in filled]


def rescore(
    lm: LM,
    records: Sequence[Record],
    problems: Sequence[Problem],
    path: str | os.PathLike | None = None,
    *,
    model: str | None = None,
    progress: bool = True,
) -> list[Record]:
    """The records with `lm`'s log-likelihood of each completion after its recorded prompt (Eq. 1).

    Adds `evaluated_log_prob` (nats, the sum), `evaluated_self_reward` (nats per token, the mean,
    EOS counted), `evaluated_model`, and `evaluated_as`: "tokens" where the record's own token ids
    were scored, "text" where `lm`'s tokenizer reads them otherwise and the text was encoded anew.
    The mean is then over `lm`'s tokens, and not comparable with means over another tokenizer's.

    Args:
      problems: they give the prompts of records that hold none (secret problems).
      path: a JSONL file of scores, kept like that of `grade_records`.
      model: the name for `evaluated_model`; that of `launch.model_name` if not given.

    Raises ValueError, which names the record, where a log-probability is not finite.
    """
    from powerjax.sample import failures  # here: grading alone needs no JAX

    if model is None:
        from powerjax.runs.collect import model_name  # here: it defines flags

        model = model_name(lm)
    _check_ids(records)
    by_id = {problem.id: problem for problem in problems}
    prompts = [_prompt(lm, record, by_id) for record in records]

    def scores(batch: Sequence[int]) -> list[dict[str, Any]]:
        contexts = [
            lm.encode(prompts[i], what=f"the record {records[i]['id']!r}: prompt") for i in batch
        ]
        pairs = [_as_tokens(lm, records[i]) for i in batch]
        found = lm.score(contexts, [tokens for tokens, _ in pairs])
        for i, one in zip(batch, found, strict=True):
            if not np.isfinite(one).all():
                raise ValueError(
                    f"the log-probabilities of the record {records[i]['id']!r} under {model} are"
                    f" not finite; {failures.remedy(lm.dtype)}"
                )
        return [
            {
                "evaluated_log_prob": float(one.sum(dtype=np.float64)),
                "evaluated_self_reward": float(one.mean(dtype=np.float64)) if one.size else None,
                "evaluated_model": model,
                "evaluated_as": how,
            }
            for one, (_, how) in zip(found, pairs, strict=True)
        ]

    hashes = [
        _hash(model, prompt, record.get("tokens"), record.get("completion"))
        for record, prompt in zip(records, prompts, strict=True)
    ]
    # Of like length together: a batch is padded to its longest.
    order = sorted(range(len(records)), key=lambda i: records[i].get("num_tokens") or 0)
    return _filled(records, hashes, order, scores, path, "scoring", progress)


def _filled(
    records: Sequence[Record],
    hashes: Sequence[str],
    order: Sequence[int],
    work: Callable[[Sequence[int]], list[dict[str, Any]]],
    path: str | os.PathLike | None,
    what: str,
    progress: bool,
) -> list[Record]:
    """The records with their fields from the file at `path`, else those in `order` from `work`."""
    with _opened(path) as file:
        known = {} if file is None else {row["id"]: row for row in file.records}
        fields: list[dict[str, Any] | None] = [
            _known(known.get(record["id"]), of, path)
            for record, of in zip(records, hashes, strict=True)
        ]
        todo = [i for i in order if fields[i] is None]
        with progress_bar(total=len(todo), desc=what, unit="record", show=progress) as bar:
            for start in range(0, len(todo), _BATCH):
                batch = todo[start : start + _BATCH]
                for i, found in zip(batch, work(batch), strict=True):
                    fields[i] = found
                    if file is not None:
                        file.append({"id": records[i]["id"], "of": hashes[i], **found})
                bar.update(len(batch))
    return [{**record, **(found or {})} for record, found in zip(records, fields, strict=True)]


@contextlib.contextmanager
def _opened(path: str | os.PathLike | None) -> Iterator[files.RecordFile | None]:
    if path is None:
        yield None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.RecordFile(path) as file:
        yield file


def _known(row: Record | None, of: str, path) -> dict[str, Any] | None:
    if row is None:
        return None
    if row.get("of") != of:
        raise ValueError(
            f"{path} holds a result for another completion, answer or model under the id"
            f" {row['id']!r}: delete that file, or choose another --out"
        )
    return {name: value for name, value in row.items() if name not in ("id", "of")}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _check_ids(records: Sequence[Record]) -> None:
    seen = set()
    for number, record in enumerate(records, start=1):
        name = record.get("id")
        if not isinstance(name, str):
            raise ValueError(f"record {number} of {len(records)} has no id")
        if name in seen:
            raise ValueError(f"two records have the id {name!r}: drop one")
        seen.add(name)


def _problems_of(
    records: Sequence[Record], task: Task, problems: Sequence[Problem]
) -> list[Problem]:
    _check_ids(records)
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


def _has_verdict_alone(record: Record) -> bool:
    return record.get("completion") is None and record.get("correct") is not None


def _completion(record: Record, decode: Callable[[list[int]], str] | None) -> str:
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


def _prompt(lm: LM, record: Record, problems: dict[str, Problem]) -> str | list[int]:
    if record.get("prompt") is not None:
        return texts.recorded_prompt(record)
    problem = problems.get(record.get("problem_id"))
    if problem is None:
        raise ValueError(f"the record {record['id']!r} has no prompt, and no problem gives it")
    if record.get("prompt_sha256") in (None, prompt_hash(problem)):
        return problem.prompt
    if texts.has_chat_template(lm.tokenizer) and isinstance(problem.prompt, str):
        chat = texts.format_prompt(lm.tokenizer, problem.prompt, chat=True)
        if record["prompt_sha256"] == prompt_hash(dataclasses.replace(problem, prompt=chat)):
            return chat
    raise ValueError(
        f"the record {record['id']!r} was made with another prompt than the task's, which it does"
        " not hold: it cannot be scored"
    )


def _as_tokens(lm: LM, record: Record) -> tuple[list[int], str]:
    """(token ids for `lm`, "tokens" or "text"), see `rescore`."""
    tokens, completion = record.get("tokens"), record.get("completion")
    ended = record.get("finish_reason") == "eos"
    here = f"the record {record['id']!r}"
    if tokens is not None and (completion is None or _reads_as(lm, tokens, completion, ended)):
        return lm.encode(tokens, what=f"{here}: tokens"), "tokens"
    if completion is None:
        raise ValueError(f"{here} has neither a completion nor tokens")
    found = lm.encode(completion, special=False, what=f"{here}: completion")
    return [*found, *lm.stop_ids[:1]] if ended else found, "text"


def _reads_as(lm: LM, tokens: list[int], completion: str, ended: bool) -> bool:
    outside = any(not 0 <= token < lm.config.vocab_size for token in tokens)
    if outside or (ended and (not tokens or tokens[-1] not in lm.stop_ids)):
        return False
    return lm.tokenizer is None or lm.decode(tokens[:-1] if ended else tokens) == completion
