"""One run's records in several files: which process makes which, and the files as one.

Each process of a run appends to a file of its own, records-00001-of-00003.jsonl, and a run of one
process to records.jsonl. Who makes a record is decided by a hash of its chain's name, so it does
not depend on what there is already; and since every process first reads what the others' files
hold, a run may go on with another number of processes and makes no record twice.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from powerjax.records import identity, ids, lock
from powerjax.records.file import Record, RecordFile, encode, read

WHOLE = "records.jsonl"
_PARTS = "records-*-of-*.jsonl"
_NEEDED = ("id", "problem_id", "sample_index", "tokens")

Chain = tuple[str, int]  # problem id, sample index


class Share(NamedTuple):
    """The part of one process among several in a run's records."""

    process_id: int = 0
    num_processes: int = 1

    def owns(self, chain_name: str) -> bool:
        """Whether this process makes the record of this `records.chain_name`."""
        digest = hashlib.sha256(chain_name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.num_processes == self.process_id

    def path(self, folder: Path) -> Path:
        """The file that this process appends to."""
        if self.num_processes == 1:
            return folder / WHOLE
        return folder / f"records-{self.process_id:05d}-of-{self.num_processes:05d}.jsonl"


def parts(folder: Path) -> list[Path]:
    """The files that a run of several processes left."""
    return sorted(folder.glob(_PARTS))


def elsewhere(folder: Path, mine: Path) -> list[Record]:
    """The records that the folder's other files hold, each once."""
    files = [path for path in (folder / WHOLE, *parts(folder)) if path != mine and path.exists()]
    by_id = {record["id"]: record for path in files for record in read(path, needs=("id",))}
    return list(by_id.values())


class Gathered(NamedTuple):
    """What the files of a run hold together."""

    records: list[Record]  # in the order wanted, then any others
    missing: list[Chain]
    num_repeated: int  # records that stand in two parts
    parts: list[Path]


def gather(folder: Path, wanted: Sequence[Chain]) -> Gathered:
    """The records of records.jsonl and of all parts, each once.

    Where both have one, records.jsonl's is taken: it may have been graded since.

    Raises ValueError where two files have different tokens for one record, or a record lacks one
    of the fields that name it.
    """
    found: dict[Chain, tuple[Record, Path]] = {}
    in_parts, repeated = set(), 0
    paths = parts(folder)
    for path in (folder / WHOLE, *paths):
        for record in read(path, needs=_NEEDED) if path.exists() else ():
            chain = (record["problem_id"], record["sample_index"])
            other, where = found.setdefault(chain, (record, path))
            same_chain = ids.chain_name(other) == ids.chain_name(record)
            same_law = not identity.differences(other, record)
            if not (same_chain and same_law and other["tokens"] == record["tokens"]):
                raise ValueError(
                    f"{path}: record {record['id']!r} is another one in {where}; delete the line"
                    " that is not of this run"
                )
            if path in paths:
                repeated += chain in in_parts
                in_parts.add(chain)
    order = {chain: i for i, chain in enumerate(wanted)}
    chains = sorted(
        found, key=lambda chain: (order.get(chain, len(order)), str(chain[0]), chain[1])
    )
    missing = [chain for chain in wanted if chain not in found]
    return Gathered([found[chain][0] for chain in chains], missing, repeated, paths)


def write(folder: Path, found: Gathered) -> Path:
    """Writes records.jsonl, whole or not at all. Raises ValueError while a process appends to it.

    The parts stay where they are.
    """
    path = folder / WHOLE
    with RecordFile(path):
        lock.replace_file(path, (encode(record) for record in found.records))
    return path
