"""A file of records: JSON lines that are only ever appended, each on disk before the run goes on.

A process may be killed while it writes, so the last line of a file may be cut short:

    {"id": "a"}\n{"id": "b"}\n      two records
    {"id": "a"}\n{"id": "b"}        two records: the last line is whole JSON and only lacks its \n
    {"id": "a"}\n{"id": "           one record: the last line was cut short and is left out
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from powerjax.records import fields, json_lines, lock

Record = dict[str, Any]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room to write


def rows(path: str | os.PathLike, as_written: bool = False) -> Iterator[tuple[int, Record]]:
    """Yields (line number, JSON object) for each line of a file; blank lines are passed over.

    The file need not hold records.

    as_written: make each float a `json_lines.Float`, which remembers the digits in the file.

    Raises ValueError, naming file and line, at the first line that is not a JSON object, also at a
    last line that was cut short. Raises ValueError for a folder and for a file that holds something
    other than JSON lines, such as a JSON array or a gzip file.
    """
    yield from json_lines.rows(path, json_lines.read_bytes(path), as_written=as_written)


def whole_rows(path: str | os.PathLike) -> Iterator[tuple[int, Record]]:
    """Yields what `rows` does, but leaves out a last line that was cut short.

    A last line that is whole JSON and only lacks its newline is yielded.
    """
    text = json_lines.read_bytes(path)
    yield from json_lines.rows(path, text, json_lines.end_of_whole_lines(text))


def is_cut_short(path: str | os.PathLike) -> bool:
    """Whether the file's last line was cut short, so that `whole_rows` leaves it out."""
    text = json_lines.read_bytes(path)
    return json_lines.end_of_whole_lines(text) < len(text)


def read(path: str | os.PathLike, needs: Iterable[str] = ()) -> list[Record]:
    """Returns the finished records of a file, without a last line that was cut short.

    needs: names of fields that each record must have, with a value other than None.

    Raises ValueError, naming file and line, for a line that is not a JSON object, and for a field
    that is lacking or is not what `fields.FIELDS` says.
    """
    return [row for _, row in numbered(path, needs)]


def numbered(path: str | os.PathLike, needs: Iterable[str] = ()) -> list[tuple[int, Record]]:
    """Returns (line number, record) for each record that `read` returns, and raises as it does."""
    numbered_rows = list(whole_rows(path))
    for number, row in numbered_rows:
        fields.check(row, f"{path}, line {number}", needs=needs)
    return numbered_rows


class RecordFile:
    """An append-only file of records, open in one process at a time.

    Opening it reads the file, which is made where it is not there yet. A last line that was cut
    short is cut off the file. A last line that only lacks its newline is kept, and `append` writes
    the newline before the next record.

    Attributes:
      path: the file.
      records: the records of the file, in its order.

    Opening raises ValueError while another process has the file open, and where a record is
    malformed, has no id or has the id of another record.
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
        """Writes one record, and returns when it is on disk.

        Raises ValueError where the record has no id, has the id of another record, or holds NaN or
        infinity, and TypeError where it holds a value that JSON does not have. Raises OSError where
        the disk is full; the file then ends with its last whole record, and `append` may be called
        again.
        """
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
        """Closes the file, so that another process may open it."""
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
    """Returns a record as its line of a file: UTF-8 JSON and a newline.

    Numbers and arrays of NumPy and JAX become JSON's. Raises ValueError for NaN, for infinity and
    for too deep nesting; TypeError for a value of another kind that JSON does not have.
    """
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except RecursionError:
        raise ValueError(f"the record {record.get('id')!r} is nested too deep") from None
    return line.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """Returns a number or an array of NumPy or JAX as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")
