"""The ids of records, which say the task, problem, model, sampler, law, seed and sample.

    arithmetic/test-7/tiny/power-9f8e7d6c/0/2     an id: task/problem/model/sampler-hash/seed/sample
    arithmetic/test-7/tiny/power/0/2              its chain name, the same without the hash

The hash is that of the record's law (`identity.law_hash`). It was added later, so the ids of older
records are what is called the chain name here, and both kinds of ids are read.
"""

from collections.abc import Mapping
from typing import Any

from powerjax.records import identity
from powerjax.records.file import Record


def record_id(
    *,
    task: str,
    problem_id: str,
    model: str,
    sampler: str,
    seed: int,
    sample_index: int,
    law: Mapping[str, Any] | None = None,
) -> str:
    """Returns the id of one completion: task/problem/model/sampler-hash/seed/sample.

    Args:
      task, problem_id, model, sampler, seed, sample_index: the parts of the id. `sampler` is the
        name of the sampler, or of the row that the record is made for.
      law: the record's fields, of which those in `identity.LAW` are hashed. None leaves the hash
        out, which gives the chain name. Records that differ only in alpha, for example, have
        different ids and one chain name.
    """
    label = sampler if law is None else f"{sampler}-{identity.law_hash(law)}"
    return f"{task}/{problem_id}/{model}/{label}/{seed}/{sample_index}"


def sampler_label(record: Record) -> str:
    """Returns the sampler's name in a record's id, without the hash that may follow it.

    It is the row's name where the rows of a run have names of their own. Where the id is not made
    as `record_id` makes it (fewer than three slashes), the record's field `sampler` is returned.
    """
    parts = str(record.get("id")).rsplit("/", 3)
    if len(parts) < 4:
        return str(record.get("sampler"))
    return _without_hash(record, parts[1])


def chain_name(record: Record) -> str:
    """Returns a record's id without the hash.

    An older record, whose id never had a hash, has the chain name that a new record of the same
    chain has, so that a run which is taken up again finds it.
    """
    parts = str(record.get("id")).rsplit("/", 3)
    if len(parts) == 4:
        parts[1] = _without_hash(record, parts[1])
    return "/".join(parts)


def _without_hash(record: Record, label: str) -> str:
    name, dash, end = label.rpartition("-")
    # A name that a user chose may end in what looks like a hash, so that only the hash which this
    # record's law has is taken away.
    return name if dash and end == identity.law_hash(record) else label
