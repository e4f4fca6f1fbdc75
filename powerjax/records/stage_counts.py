"""Moves and accepted moves stage by stage: counts that a run of a sampler has and no record holds.

They stand beside a record file, records.jsonl, in records.stages.json: a list with an entry for
each start of the run that came to its end. A start that was killed leaves none, so the counts may
cover fewer chains than there are records.
"""

import json
import os
from pathlib import Path

from powerjax.records import fields, json_lines, lock

_COUNTS = fields.Kind(
    lambda value: isinstance(value, list) and all(map(fields.WHOLE.fits, value)), "counts"
)
_KINDS = {"num_records": fields.WHOLE, "moves": _COUNTS, "accepted": _COUNTS}


def beside(path: str | os.PathLike) -> Path:
    """Where the counts of the record file `path` stand."""
    return Path(path).with_suffix(".stages.json")


def keep(path: str | os.PathLike, stats, num_records: int) -> None:
    """Adds a start's counts (`Completions.stats`), which cover `num_records` of the records."""
    entry = {
        "num_records": num_records,
        "moves": [int(n) for n in stats.stage_moves],
        "accepted": [int(n) for n in stats.stage_accepted],
    }
    if not sum(entry["moves"]):
        return
    lock.replace_file(beside(path), json.dumps([*_entries(path), entry]) + "\n")


def read(path: str | os.PathLike, num_records: int) -> list[tuple[int, int]]:
    """(moves, accepted) of each stage; [] where none are kept or they are of other records."""
    entries = _entries(path)
    if sum(entry["num_records"] for entry in entries) > num_records:
        return []
    stages = max((len(entry["moves"]) for entry in entries), default=0)
    totals = [[0, 0] for _ in range(stages)]
    for entry in entries:
        for total, moves, accepted in zip(totals, entry["moves"], entry["accepted"], strict=False):
            total[0] += moves
            total[1] += accepted
    return [(moves, accepted) for moves, accepted in totals]


def _entries(path: str | os.PathLike) -> list[dict]:
    there = beside(path)
    if not there.is_file():
        return []
    try:
        entries = json_lines.document(there)
        for entry in entries:
            fields.check(entry, str(there), needs=_KINDS, kinds=_KINDS)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{there} is not valid JSON: delete it, or mend the counts in it"
        ) from None
    return entries
