"""One run's records in several files: which process makes which record, and how files are joined.

    records.jsonl                     the file of a run of one process, or all files joined
    records-00001-of-00003.jsonl      the part that process 1 of 3 appends to

Which process makes a record is decided by a hash of its chain name (`ids.chain_name`), so it does
not depend on which records are there already. Every process first reads the files of the others.
So a run may be taken up again with another number of processes, which draw only what is lacking.
A chain can be drawn twice only by processes that run at the same time and count differently many
processes (`Gathered.num_repeated`).
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
    """Which of a run's records one process makes.

    Attributes:
      process_id: the process, from 0.
      num_processes: how many processes make the run.
    """

    process_id: int = 0
    num_processes: int = 1

    def owns(self, chain_name: str) -> bool:
        """Whether this process makes the record of this chain (`records.chain_name`)."""
        digest = hashlib.sha256(chain_name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.num_processes == self.process_id

    def path(self, folder: Path) -> Path:
        """Returns the file that this process appends to."""
        if self.num_processes == 1:
            return folder / WHOLE
        return folder / f"records-{self.process_id:05d}-of-{self.num_processes:05d}.jsonl"


def parts(folder: Path) -> list[Path]:
    """Returns the parts that a run of several processes left, in the order of their names."""
    return sorted(folder.glob(_PARTS))


def elsewhere(folder: Path, own: Path) -> list[Record]:
    """Returns the records that a process finds in its run folder outside its own file.

    These are those of records.jsonl and of all parts except the file `own`, each id once. Raises
    ValueError as `records.read` does.
    """
    files = [path for path in (folder / WHOLE, *parts(folder)) if path != own and path.exists()]
    by_id = {record["id"]: record for path in files for record in read(path, needs=("id",))}
    return list(by_id.values())


class Gathered(NamedTuple):
    """What the files of a run hold together.

    Attributes:
      records: each record once: those that were wanted, in that order, then any others.
      missing: those chains that were wanted and have no record.
      num_repeated: how many records stand in more than one part.
      parts: the parts that were read.
    """

    records: list[Record]
    missing: list[Chain]
    num_repeated: int
    parts: list[Path]


def gather(folder: Path, wanted: Sequence[Chain]) -> Gathered:
    """Returns the records of records.jsonl and of all parts, each once.

    Where records.jsonl and a part both have a record, that of records.jsonl is taken: it may have
    been graded since.

    wanted: the chains that the run consists of.

    Raises ValueError where two records of one problem and sample index differ in their tokens, law,
    task, model, sampler's name or seed, and where a record lacks a field that this compares.
    """
    by_chain: dict[Chain, tuple[Record, Path]] = {}
    in_parts, num_repeated = set(), 0
    paths = parts(folder)
    for path in (folder / WHOLE, *paths):
        for record in read(path, needs=_NEEDED) if path.exists() else ():
            chain = (record["problem_id"], record["sample_index"])
            other, where = by_chain.setdefault(chain, (record, path))
            same_chain = ids.chain_name(other) == ids.chain_name(record)
            same_law = not identity.differences(other, record)
            if not (same_chain and same_law and other["tokens"] == record["tokens"]):
                raise ValueError(
                    f"{path}: record {record['id']!r} is another one in {where}; delete the line"
                    " that is not of this run"
                )
            if path in paths:
                num_repeated += chain in in_parts
                in_parts.add(chain)
    order = {chain: i for i, chain in enumerate(wanted)}
    chains = sorted(
        by_chain, key=lambda chain: (order.get(chain, len(order)), str(chain[0]), chain[1])
    )
    missing = [chain for chain in wanted if chain not in by_chain]
    return Gathered([by_chain[chain][0] for chain in chains], missing, num_repeated, paths)


def write(folder: Path, gathered: Gathered) -> Path:
    """Writes the gathered records to records.jsonl, all or none, and returns that path.

    The parts stay where they are. Raises ValueError while a process appends to records.jsonl, and
    OSError where the disk is full.
    """
    path = folder / WHOLE
    with RecordFile(path):
        lock.replace_file(path, (encode(record) for record in gathered.records))
    return path
