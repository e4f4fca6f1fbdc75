"""How many moves a sampler made and accepted in each of its stages, which no record holds.

The counts of records.jsonl stand beside it in records.stages.json, one entry for each start of the
run that came to its end:

    [{"num_records": 40, "moves": [400, 380], "accepted": [210, 95]}]     two stages

A start that was killed leaves no entry, so the counts may cover fewer chains than there are
records.
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
    """Returns the file with the counts of the record file `path`."""
    return Path(path).with_suffix(".stages.json")


def keep(path: str | os.PathLike, stats, num_records: int) -> None:
    """Adds the counts of one start to the file beside the records.

    A start that made no moves adds nothing; plain sampling makes none.

    Args:
      path: the record file.
      stats: what the sampler returned (`Completions.stats`).
      num_records: how many records the start added.

    Raises ValueError where the counts of earlier starts are damaged.
    """
    moves = [int(n) for n in stats.stage_moves]
    accepted = [int(n) for n in stats.stage_accepted]
    if not sum(moves):
        return
    entry = {"num_records": num_records, "moves": moves, "accepted": accepted}
    lock.replace_file(beside(path), json.dumps([*_entries(path), entry]) + "\n")


def read(path: str | os.PathLike, num_records: int) -> list[tuple[int, int]]:
    """Returns (moves, accepted moves) of each stage, summed over all starts.

    Returns [] where there are no counts, and where they cover more than `num_records` records: then
    some of the chains counted are not among the records at hand. If equally many records were
    exchanged for others, this is not noticed.

    Args:
      path: the record file.
      num_records: how many of its records are at hand.

    Raises ValueError where the file of counts is damaged.
    """
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
    counts = beside(path)
    if not counts.is_file():
        return []
    try:
        entries = json_lines.document(counts)
        for entry in entries:
            fields.check(entry, str(counts), needs=_KINDS, kinds=_KINDS)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{counts} is not valid JSON: delete it, or mend the counts in it"
        ) from None
    return entries
