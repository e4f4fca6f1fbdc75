"""What a run leaves on disk: records, a manifest, and the counts beside them.

A record is one finished completion: one line of JSON, which is on disk before the run goes on.

    math500/precalculus-807/Qwen2.5-1.5B/power-9f8e7d6c/0/2
                                         task/problem/model/sampler-hash/seed/sample

This is the `id` of a record (`ids`). Its *law* is those of its fields that decide how the
completion was distributed (`identity.LAW`), and the hash in the id is made from them. A *row* of a
table pools the records of one model and one sampler name that state the same law; `identity` says
why records with one hash can still stand in two rows. A *pass* is one completion of every problem,
which is what the records of one (seed, sample) are.

`file` reads and appends records. `fields` says what each field may hold, and what happens to a
field that it does not know. `manifest` says which commands made a run, `shards` lets several
processes share one. Where this folder raises ValueError, its message is one line, made to be read
by the user of a launcher.
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
