"""Reads JSON that a user hands in: a file with one object per line, or one document.

It is read more strictly than Python's `json` reads it: NaN, numbers beyond float64, a key that
stands twice in one object and bytes that are not UTF-8 are refused. A file in another format
(compressed, UTF-16, a JSON array) is refused with a message that names the format and gives the
command that converts it.
"""

import json
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BOM = b"\xef\xbb\xbf"
# First bytes of a file -> what the file is, and the command that makes JSON lines of it.
_FORMATS = {
    b"\x1f\x8b": ("compressed by gzip", "gunzip -c {path} > {to}"),
    b"BZh": ("compressed by bzip2", "bunzip2 -c {path} > {to}"),
    b"\xfd7zXZ\x00": ("compressed by xz", "unxz -c {path} > {to}"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unzstd -c {path} > {to}"),
    b"PK\x03\x04": ("a zip archive", "unzip -p {path} > {to}"),
    b"\xff\xfe\0\0": ("UTF-32 and not UTF-8", "iconv -f UTF-32 -t UTF-8 {path} > {to}"),
    b"\xff\xfe": ("UTF-16 and not UTF-8", "iconv -f UTF-16 -t UTF-8 {path} > {to}"),
    b"\xfe\xff": ("UTF-16 and not UTF-8", "iconv -f UTF-16 -t UTF-8 {path} > {to}"),
    b"PAR1": (
        "a Parquet file",
        'python -c "import pandas, sys; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2],'
        " orient='records', lines=True)\" {path} {to}",
    ),
}
_FROM_ARRAY = (
    'python -c "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"'
    " < {path} > {to}"
)


class Malformed(ValueError):
    """Text that is not JSON. A line that was cut short by a kill is of this kind."""


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the bytes of a file of JSON lines.

    Raises ValueError for a folder and for a file in another format, OSError where there is no such
    file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the file in it, such as {path}/records.jsonl")
    text = path.read_bytes()
    for magic, (what, command) in _FORMATS.items():
        if text.startswith(magic):
            raise ValueError(f"{path} is {what}: convert it, {_filled(command, path)}")
    if _is_array(text.removeprefix(_BOM).lstrip()):
        raise ValueError(
            f"{path} is a JSON array and not one object per line: convert it,"
            f" {_filled(_FROM_ARRAY, path)}"
        )
    return text


def rows(
    path: str | os.PathLike, text: bytes, end: int | None = None, as_written: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) for each line of a file that is not blank.

    Args:
      path: the file, for messages.
      text: what it holds (`read_bytes`).
      end: how many bytes of `text` to read; None for all.
      as_written: make each float a `Float`, which remembers the digits in the file.

    Raises ValueError, naming file and line, at the first line that is not a JSON object.
    """
    for number, line in enumerate(text[:end].split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse(line, as_written)
        except ValueError as error:
            if number == 1 and _is_one_document(text):
                raise ValueError(
                    f"{path} is one JSON object over several lines: write each object in a line"
                    " of its own"
                ) from None
            raise ValueError(
                f"{path}, line {number}: not valid JSON ({error}); mend or delete that line"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected a JSON object, found {type(row).__name__};"
                " mend or delete that line"
            )
        yield number, row


def end_of_whole_lines(text: bytes) -> int:
    """Returns how many bytes of a text, from its start, are whole lines.

    A last line without a newline counts as whole where it is JSON. Otherwise a kill cut it short.
    """
    end = text.rfind(b"\n") + 1
    try:
        parse(text[end:])
    except Malformed:
        return len(text) if not text[end:].strip() else end
    except ValueError:  # it is whole JSON that is refused, which no kill leaves behind
        pass
    return len(text)


def parse(text: bytes, as_written: bool = False) -> Any:
    """Returns the JSON value of a text.

    Raises Malformed where the text is not JSON, and ValueError where it is JSON that is refused.
    """
    try:
        decoder = _DECODER_AS_WRITTEN if as_written else _DECODER
        return decoder.decode(text.removeprefix(_BOM).decode("utf-8"))
    except json.JSONDecodeError as error:
        # Something follows a whole value: no kill leaves that.
        kind = ValueError if error.msg == "Extra data" else Malformed
        raise kind(f"column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start + 1} is no UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:  # from the hooks below, or for an int of thousands of digits
        raise ValueError(str(error).split(";")[0]) from None


def document(path: str | os.PathLike) -> Any:
    """Returns the value of a file that holds one JSON value, over however many lines.

    Raises ValueError, naming the file, for a folder and for a file that is not valid JSON; OSError
    where there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder and not a JSON file")
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None


def _is_array(text: bytes) -> bool:
    """Whether the text is a JSON array, in several lines or in its only line.

    A first line that is an array with other lines below it is a bad row rather than a bad file, and
    so is one that is nested too deep.
    """
    if not text.startswith(b"["):
        return False
    first, _, rest = text.partition(b"\n")
    try:
        parse(first)
    except Malformed:  # it goes on, or was cut short
        return True
    except ValueError:
        return False
    return not rest.strip()


def _is_one_document(text: bytes) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _filled(command: str, path: Path) -> str:
    """Returns the command with the file's name, and a .jsonl name for what it makes, filled in."""
    if path.stem.endswith(".jsonl"):  # records.jsonl.gz
        to = path.with_suffix("")
    else:
        to = path.with_suffix(".jsonl")
        to = path.with_name(f"{path.stem}-lines.jsonl") if to == path else to
    return command.format(path=shlex.quote(str(path)), to=shlex.quote(str(to)))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


class Float(float):
    """A number of a file that remembers the digits it is written with.

    Attributes:
      written: those digits, such as "0.10000000000000000001", which float64 does not hold.
    """

    written: str


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return number


def _as_written(digits: str) -> Float:
    number = Float(_finite(digits))
    number.written = digits
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of one JSON object as a dict. Raises ValueError for a repeated key."""
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return members


_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_distinct
)
_DECODER_AS_WRITTEN = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_as_written, object_pairs_hook=_distinct
)
