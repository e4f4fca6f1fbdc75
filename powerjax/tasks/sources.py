"""Reads the rows of a data set from a folder of the user's, or from the Hugging Face hub.

A folder (`--data_dir`) holds `math500/test_prm800k.jsonl`, `math/math_full_minus_math500.json`,
`gsm8k/test.jsonl` and so on, as their authors publish them. Rows are counted and their fields
checked, so that a truncated or wrong file raises an error of one line and gives no wrong number.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax import records
from powerjax.records import fields, json_lines

Row = dict[str, Any]

# What kind of value each field must hold. A field that is not listed may hold anything.
_TEXTS = fields.Kind(
    lambda value: isinstance(value, list) and all(map(fields.TEXT.fits, value)), "a list of texts"
)
_KINDS = {
    **dict.fromkeys(("question", "problem", "solution", "answer", "subject", "type"), fields.TEXT),
    **dict.fromkeys(("prompt", "entry_point", "canonical_solution", "test", "code"), fields.TEXT),
    **dict.fromkeys(("task_id", "level", "unique_id"), fields.NAME),
    **dict.fromkeys(("test_list", "test_imports"), _TEXTS),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """One published file of rows.

    Attributes:
      name: the task's name, for messages.
      files: paths inside the data folder. The first one that exists is read.
      url: the address from which the first of `files` can be downloaded.
      hub: the data set's id on the Hugging Face hub.
      split: the split to load from the hub.
      fields: names of the fields that every row must have.
      num_rows: how many rows there must be.
      config: the data set's configuration on the hub; None if it has only one.
      help: what a user can do if the rows cannot be had; "" to say that `url` belongs into the
        data folder.
    """

    name: str
    files: tuple[str, ...]
    url: str
    hub: str
    split: str
    fields: tuple[str, ...]
    num_rows: int
    config: str | None = None
    help: str = ""


def rows(source: Source, data_dir: str | os.PathLike | None = None) -> list[Row]:
    """Returns the checked rows of `source`: from `data_dir` if it is given, else from the hub."""
    if data_dir is None:
        return checked(source, _from_hub(source), f"{source.hub} on the hub")
    path = find(source, data_dir)
    return checked(source, read(path), str(path))


def find(source: Source, data_dir: str | os.PathLike) -> Path:
    """Returns the path of the first of the source's files that exists.

    Raises FileNotFoundError, with what to do about it, if none does.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data_dir={folder} is not a folder; {_remedy(source)}")
    for name in source.files:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{source.name}: {folder} holds no {source.files[0]}; {_remedy(source)}"
    )


def read(path: Path) -> list[Row]:
    """Returns the rows of a .json, .jsonl or .jsonl.gz file."""
    if path.suffix == ".jsonl":
        return [row for _, row in records.rows(path)]
    try:
        if path.suffix == ".gz":
            return [row for _, row in json_lines.rows(path, gzip.decompress(path.read_bytes()))]
        return json_lines.document(path)
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch it again") from None


def checked(source: Source, content: Sequence[Row], where: str) -> list[Row]:
    """Returns the rows that were read, after checking their number and the fields of each.

    Args:
      source: says what the rows must be.
      content: what was read.
      where: the place it was read from, for messages.

    Raises:
      ValueError: the rows are not what `source` says they must be.
    """
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{source.name}: {where} is not a list of rows; {_remedy(source)}")
    kinds = {field: _KINDS[field] for field in source.fields if field in _KINDS}
    for number, row in enumerate(content, start=1):
        missing = [field for field in source.fields if row.get(field) is None]
        if missing:
            raise ValueError(
                f"{source.name}: row {number} of {where} has no {', '.join(missing)};"
                f" {_remedy(source)}"
            )
        fields.check(row, f"{source.name}: row {number} of {where}", kinds=kinds)
    if len(content) != source.num_rows:
        raise ValueError(
            f"{source.name}: {where} has {len(content):,} rows and not {source.num_rows:,}: the"
            f" file is cut short or another version; {_remedy(source)}"
        )
    return content


def _from_hub(source: Source) -> list[Row]:
    import datasets
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it logs every retry; the error below says it once
    try:
        dataset = datasets.load_dataset(source.hub, source.config, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FileNotFoundError(
            f"{source.name}: {source.hub} cannot be had from the hub ({reason}); "
            + (source.help or _remedy(source))
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    return dataset.to_list()


def _remedy(source: Source) -> str:
    return source.help or f"put {source.url} at DATA_DIR/{source.files[0]} and give --data_dir"
