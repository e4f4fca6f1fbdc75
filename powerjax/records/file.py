"""A file of records: append-only JSON lines, each on disk before the run goes on."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from powerjax.records import fields, json_lines, lock

Record = dict[str, Any]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def rows(path: str | os.PathLike, as_written: bool = False) -> Iterator[tuple[int, Record]]:
    """Yields (line number, row) of any file of JSON lines; blank lines are passed over.

    as_written: whether floats are `json_lines.Float`, with their digits.
    Raises a ValueError of one line, with file and line number, at the first line that is not a JSON
    object, and for a file that is no file of lines.
    """
    yield from json_lines.rows(path, json_lines.read_bytes(path), as_written=as_written)


def whole_rows(path: str | os.PathLike) -> Iterator[tuple[int, Record]]:
    """`rows` without a last line that a kill cut short. One without its newline alone is whole."""
    text = json_lines.read_bytes(path)
    yield from json_lines.rows(path, text, json_lines.end_of_whole_lines(text))


def is_cut_short(path: str | os.PathLike) -> bool:
    """Whether `whole_rows` leaves out the file's last line."""
    text = json_lines.read_bytes(path)
    return json_lines.end_of_whole_lines(text) < len(text)


def read(path: str | os.PathLike, needs: Iterable[str] = ()) -> list[Record]:
    """The finished records of a file; a last line that a kill cut short is no record.

    needs: fields that each record must have.
    Raises a ValueError of one line, with file and line number, for a line that is no JSON object
    and for a field that is not what `fields` says.
    """
    return [row for _, row in numbered(path, needs)]


def numbered(path: str | os.PathLike, needs: Iterable[str] = ()) -> list[tuple[int, Record]]:
    """(line number, record) of each record that `read` returns."""
    found = list(whole_rows(path))
    for number, row in found:
        fields.check(row, f"{path}, line {number}", needs=needs)
    return found


class RecordFile:
    """An append-only file of records, open in one process at a time.

    Opening it drops a torn last line and reads the rest into `records`; `append` returns when the
    record is on disk. A last record that only lacks its newline stays, and gets it with the next
    record. When the disk is full, `append` leaves the file at its last whole record and raises
    OSError.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.records: list[Record] = []
        self._ids: set[str] = set()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            lock.take(
                self._fd,
                f"{self.path}: another process is writing to it; wait for that one or choose"
                " another --out",
            )
            text = json_lines.read_bytes(self.path)
            self._end = json_lines.end_of_whole_lines(text)
            for number, row in json_lines.rows(self.path, text, self._end):
                fields.check(row, f"{self.path}, line {number}")
                self._admit(row, f"{self.path}, line {number}")
            if self._end < len(text):
                os.ftruncate(self._fd, self._end)
            lacks_newline = self._end > 0 and text[self._end - 1 : self._end] != b"\n"
            self._newline = b"\n" if lacks_newline else b""
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._ids

    def __len__(self) -> int:
        return len(self.records)

    def append(self, record: Record) -> None:
        """Writes one record, and returns when it is on disk."""
        line = encode(record)
        self._admit(json.loads(line), f"{self.path}")
        data = self._newline + line
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
            os.fsync(self._fd)
        except OSError as error:
            self._ids.discard(record["id"])
            self.records.pop()
            os.ftruncate(self._fd, self._end)
            raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from None
        self._end += len(data)
        self._newline = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _admit(self, row: Record, where: str) -> None:
        if not isinstance(row.get("id"), str):
            raise ValueError(f"{where}: a record without an id; mend or delete that line")
        if row["id"] in self._ids:
            raise ValueError(f"{where}: a second record {row['id']!r}; delete one of the two")
        self._ids.add(row["id"])
        self.records.append(row)


def encode(record: Record) -> bytes:
    """A record as its line of a file."""
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except RecursionError:
        raise ValueError(f"the record {record.get('id')!r} is nested too deep") from None
    return line.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """A number or array of NumPy or JAX as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")
