"""The names of records: which task, problem, model, sampler, seed and sample a record is of."""

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
    """The unique name of one completion: task/problem/model/sampler-hash/seed/sample.

    law: the record's settings (`identity.LAW`), whose hash tells apart samplers of one name.
      Without it the id has no hash, and names the chain whatever its settings.
    """
    label = sampler if law is None else f"{sampler}-{identity.law_hash(law)}"
    return f"{task}/{problem_id}/{model}/{label}/{seed}/{sample_index}"


def sampler_label(record: Record) -> str:
    """The sampler's name in a record's id, without the hash; its `sampler` where the id has none.

    It is the name of the row where a run's rows have names of their own.
    """
    parts = str(record.get("id")).rsplit("/", 3)
    if len(parts) < 4:
        return str(record.get("sampler"))
    return _without_hash(record, parts[1])


def chain_name(record: Record) -> str:
    """A record's id without the hash, as records made before the hash have it."""
    parts = str(record.get("id")).rsplit("/", 3)
    if len(parts) == 4:
        parts[1] = _without_hash(record, parts[1])
    return "/".join(parts)


def _without_hash(record: Record, label: str) -> str:
    name, dash, end = label.rpartition("-")
    # Names that users chose may end like a hash: only the record's own is taken away.
    return name if dash and end == identity.law_hash(record) else label
