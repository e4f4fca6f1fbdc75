"""Results for records that exist, such as verdicts and scores, in a file that a run can resume.

    {"id": ..., "of": "3f7a...", "correct": true, ...}       a line of such a file

`id` is the record's id, and `of` a hash of what the result was computed from. Each batch of results
is on disk before the next begins, so a run that was killed goes on where it stopped. A last line
that was cut short is computed again. The records' own files are never written to.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from powerjax.records import Record, RecordFile
from powerjax.records.progress import progress_bar

_BATCH = 64  # records per batch

Fields = dict[str, Any]
Work = Callable[[Sequence[int]], list[Fields]]  # indices of records -> the new fields of each


def add_results(
    records: Sequence[Record],
    sources: Sequence[str],
    order: Sequence[int],
    work: Work,
    path: str | os.PathLike | None,
    *,
    desc: str,
    progress: bool,
) -> list[Record]:
    """Returns the records with the fields of their results added.

    Args:
      records: records whose ids are distinct (`check_ids`).
      sources: for each record, the hash (`source_hash`) of what its result is computed from.
      order: indices of the records that need a result, in the order in which to compute them. The
        others get a result only where the file has one.
      work: computes the results of a batch.
      path: the file of results; None keeps them in memory alone.
      desc: the name of the progress bar.
      progress: whether the bar is shown.

    Raises ValueError where the file has a result for one of the ids from another source.
    """
    with _opened(path) as file:
        known = {} if file is None else {row["id"]: row for row in file.records}
        results: list[Fields | None] = [
            _known_result(known.get(record["id"]), source, path)
            for record, source in zip(records, sources, strict=True)
        ]
        todo = [i for i in order if results[i] is None]
        with progress_bar(total=len(todo), desc=desc, unit="record", show=progress) as bar:
            for start in range(0, len(todo), _BATCH):
                batch = todo[start : start + _BATCH]
                for i, result in zip(batch, work(batch), strict=True):
                    results[i] = result
                    if file is not None:
                        file.append({"id": records[i]["id"], "of": sources[i], **result})
                bar.update(len(batch))
    return [{**record, **(result or {})} for record, result in zip(records, results, strict=True)]


def source_hash(*parts: Any) -> str:
    """Returns 16 hexadecimal digits that name what a result is computed from.

    parts: values that JSON can hold, such as the completion and the reference answer.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def check_ids(records: Sequence[Record]) -> None:
    """Raises ValueError for a record without an id, and for two records with the same id."""
    seen = set()
    for number, record in enumerate(records, start=1):
        name = record.get("id")
        if not isinstance(name, str):
            raise ValueError(f"record {number} of {len(records)} has no id")
        if name in seen:
            raise ValueError(f"two records have the id {name!r}: drop one")
        seen.add(name)


@contextlib.contextmanager
def _opened(path: str | os.PathLike | None) -> Iterator[RecordFile | None]:
    if path is None:
        yield None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with RecordFile(path) as file:
        yield file


def _known_result(row: Record | None, source: str, path: str | os.PathLike | None) -> Fields | None:
    """Returns the fields of a line of the file at `path`, or None where it has no such line."""
    if row is None:
        return None
    if row.get("of") != source:
        raise ValueError(
            f"{path} holds a result for another completion, answer or model under the id"
            f" {row['id']!r}: delete that file, or choose another --out"
        )
    return {name: value for name, value in row.items() if name not in ("id", "of")}
