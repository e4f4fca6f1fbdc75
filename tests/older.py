"""Records as an earlier version wrote them: without a hash in the id, and with fewer settings."""

from powerjax import records

_ADDED = ("top_k", "max_new_tokens", "prompt_style", "dtype")
_ADDED += ("adapter_hash", "adapter_merged", "weights")


def as_before(record: records.Record) -> records.Record:
    """Returns the record with its old id, without the fields that came with the hash."""
    fields = {name: value for name, value in record.items() if name not in _ADDED}
    return {**fields, "id": records.chain_name(record)}
