"""What a run leaves on disk: records, manifests, and the counts beside them.

A record is one finished completion: one line of JSON, on disk before the run goes on. Its `id` is
task/problem/model/sampler-hash/seed/sample (`ids`). `file` reads and appends them, `fields` checks
them, `identity` says from which law they were drawn, and `manifest` says which run made them.
"""

from powerjax.records.file import (
    DISK_FULL,
    Record,
    RecordFile,
    encode,
    is_cut_short,
    numbered,
    read,
    rows,
    whole_rows,
)
from powerjax.records.ids import chain_name, record_id, sampler_label
from powerjax.records.manifest import (
    MANIFEST,
    VERSIONS_OF,
    command,
    git_commit,
    note_prompts,
    open_run,
    read_manifest,
    software,
    versions,
)

__all__ = [
    "DISK_FULL",
    "MANIFEST",
    "VERSIONS_OF",
    "Record",
    "RecordFile",
    "chain_name",
    "command",
    "encode",
    "git_commit",
    "is_cut_short",
    "note_prompts",
    "numbered",
    "open_run",
    "read",
    "read_manifest",
    "record_id",
    "rows",
    "sampler_label",
    "software",
    "versions",
    "whole_rows",
]
