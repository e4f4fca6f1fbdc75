"""Records as they were before ids had a hash and records all settings of their law."""

from powerjax import records

_ADDED = ("top_k", "max_new_tokens", "prompt_style", "dtype")
_ADDED += ("adapter_hash", "adapter_merged", "weights")


def as_before(record: records.Record) -> records.Record:
    """The record with its old id, without the fields that were added with the hash."""
    kept = {name: value for name, value in record.items() if name not in _ADDED}
    return {**kept, "id": records.chain_name(record)}
