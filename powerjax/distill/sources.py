"""Where a student's examples are read from: a JSONL file, a dataset, or rows in memory."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from powerjax import records
from powerjax.records import scalars

log = logging.getLogger(__name__)

Named = tuple[str, Any]  # (what messages call a row, the row)


def rows(source: Any) -> tuple[str, Iterator[Named]]:
    """Returns (what messages call the source, its rows), for a source as `corpus.load` takes it.

    Raises ValueError or FileNotFoundError for a source that cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
            raise ValueError(
                f"the records are {scalars.shown(source)}: give a file, a folder, a dataset id, or"
                " a list of dicts"
            )
        name = type(source).__name__ if hasattr(source, "features") else "records"
        return name, _numbered(name, source)
    name, path = str(source), Path(source)
    if not name:
        raise ValueError("the records' name is empty: give a file, a folder or a dataset id")
    if path.is_file():
        return name, ((f"{name}, line {n}", row) for n, row in _lines(path))
    return name, _numbered(name, _dataset(name, path))


def _numbered(name: str, values: Iterable[Any]) -> Iterator[Named]:
    return ((f"{name}, row {n}", row) for n, row in enumerate(values, start=1))


def _lines(path: Path) -> Iterator[tuple[int, records.Record]]:
    """Returns (line number, row) of a JSONL file, without a last line that a kill cut short."""
    whole = list(records.whole_rows(path))
    if not records.is_cut_short(path):
        return iter(whole)
    if not whole:
        return records.rows(path)  # raises: the only line is not JSON, so this is no record file
    log.warning("%s: the last line is cut short and left out", path)
    return iter(whole)


def _dataset(name: str, path: Path) -> Iterable[Any]:
    """Returns the rows of a dataset of the `datasets` library, from a folder or the hub."""
    if (path / "records.jsonl").is_file():
        raise ValueError(f"{name} is the folder of a run: give {path / 'records.jsonl'}")
    looks_like_file = path.suffix in (".json", ".jsonl") or path.is_absolute()
    if not path.exists() and (looks_like_file or name.count("/") > 1):
        raise FileNotFoundError(f"{name}: no such file")
    import datasets  # here, because it is slow to import

    try:
        if path.is_dir():
            dataset = datasets.load_from_disk(name)
        else:
            dataset = datasets.load_dataset(name)
    except Exception as error:  # many kinds: of the folder, the hub, the network, the builder
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = "not a folder of datasets.save_to_disk" if path.is_dir() else "no file or folder"
        hub = "" if path.is_dir() else ", and the Hugging Face hub does not give it"
        raise ValueError(f"{name}: {what}{hub} ({reason})") from None
    if hasattr(dataset, "keys"):  # a DatasetDict
        if "train" not in dataset:
            raise ValueError(f"{name} has no split 'train', only {', '.join(dataset)}")
        dataset = dataset["train"]
    return dataset
