"""Files of JSON lines: what is refused in which words, and what a kill may have cut short."""

import bz2
import gzip
import json
import lzma

import pytest

from powerjax.records import json_lines

ROW = b'{"id": "a", "n": 1}'


def _write(path, *parts):
    path.write_bytes(b"".join(parts))
    return path


def _read(path):
    return [row for _, row in json_lines.rows(path, json_lines.read_bytes(path))]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deep"),
        (b'{"a":' * 100_000, "it is nested too deep"),
        (b'{"x": ' + b"9" * 5000 + b"}", "Exceeds the limit (4300 digits)"),
        (b'{"x": NaN}', "NaN is no number"),
        (b'{"x": [-Infinity]}', "-Infinity is no number"),
        (b'{"x": 1e999}', "1e999 is too large"),
        (b'{"id": "a", "id": "b"}', "the key 'id' stands twice"),
        (b'{"x": "\xff"}', "byte 8 is no UTF-8"),
        (b'{"x": "\xed\xa0\x80"}', "byte 8 is no UTF-8"),
        (b"\0\0\0", "column 1"),
        (b"5", "expected a JSON object, found int"),
        (ROW + b"\r" + ROW, "Extra data"),
    ],
)
def test_a_line_that_is_no_object_is_named_by_file_and_line(tmp_path, line, words):
    path = _write(tmp_path / "r.jsonl", ROW, b"\n\n", line, b"\n", ROW)
    with pytest.raises(ValueError) as error:
        _read(path)
    assert str(error.value).startswith(f"{path}, line 3: ") and words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (gzip.compress(ROW, mtime=0), "compressed by gzip: convert it, gunzip -c"),
        (bz2.compress(ROW), "compressed by bzip2"),
        (lzma.compress(ROW), "compressed by xz"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"PAR1...", "a Parquet file"),
        ((ROW + b"\n").decode().encode("utf-16"), "UTF-16 and not UTF-8: convert it, iconv"),
        (b"[" + ROW + b"]", "a JSON array and not one object per line: convert it, python -c"),
        ((ROW + b"\n").decode().encode("utf-32"), "UTF-32 and not UTF-8: convert it, iconv"),
        (b"[" + ROW + b", ", "a JSON array"),
        (b" [\n" + ROW + b",\n" + ROW, "a JSON array"),
        (json.dumps({"a": [1, 2]}, indent=1).encode(), "one JSON object over several lines"),
    ],
)
def test_another_format_is_named_with_the_command_that_converts_it(tmp_path, text, words):
    path = _write(tmp_path / "my runs.jsonl", text)
    with pytest.raises(ValueError) as error:
        _read(path)
    assert str(error.value).startswith(f"{path} is {words}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'["a", 1]\n["b", 2]\n', "expected a JSON object, found list"),
        (b"[" * 100_000 + b"]" * 100_000, "not valid JSON (it is nested too deep)"),
    ],
)
def test_lists_that_no_command_makes_rows_of_are_named_by_line(tmp_path, text, words):
    path = _write(tmp_path / "r.jsonl", text)
    with pytest.raises(ValueError) as error:
        _read(path)
    assert str(error.value).startswith(f"{path}, line 1: {words}")


def test_the_command_for_an_array_makes_lines_of_it(tmp_path):
    import subprocess

    path = _write(tmp_path / "my runs.json", b"[" + ROW + b",\n" + ROW + b"]")
    with pytest.raises(ValueError) as error:
        _read(path)
    subprocess.run(str(error.value).split("convert it, ")[1], shell=True, check=True)
    assert _read(tmp_path / "my runs.jsonl") == [json.loads(ROW)] * 2


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give the file in it"):
        json_lines.read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        json_lines.read_bytes(tmp_path / "none")


def test_byte_order_marks_and_line_ends_of_windows_are_read(tmp_path):
    path = _write(tmp_path / "r.jsonl", b"\xef\xbb\xbf", ROW, b"\r\n", ROW, b"\r\n")
    assert _read(path) == [json.loads(ROW)] * 2


@pytest.mark.parametrize(
    ("tail", "whole"),
    [
        (b"", True),
        (b"  ", True),
        (ROW, True),
        (b'{"x": NaN}', True),  # refused when it is read, and no kill made it
        (ROW + b"\r" + ROW, True),
        (ROW[:-1], False),
        (b'{"id": "\xc3', False),
        (b"\0\0\0\0", False),
    ],
)
def test_only_what_a_kill_cuts_short_is_left_out(tail, whole):
    text = ROW + b"\n" + tail
    assert json_lines.end_of_whole_lines(text) == (len(text) if whole else len(ROW) + 1)


def test_a_document_is_read_as_strictly(tmp_path):
    assert json_lines.document(_write(tmp_path / "a.json", b"[1, 2]")) == [1, 2]
    for text in (b"[" * 100_000, b"[NaN]", b'{"a": 1, "a": 2}', b"\xff"):
        with pytest.raises(ValueError, match=r"b\.json is not valid JSON") as error:
            json_lines.document(_write(tmp_path / "b.json", text))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is a folder"):
        json_lines.document(tmp_path)
