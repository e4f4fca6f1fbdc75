"""Records survive what interrupts a run, and what is no record is named by file and line."""

import errno
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from powerjax import records


def _record(index: int, **fields) -> dict:
    name = records.record_id(
        task="t", problem_id=f"p{index}", model="m", sampler="power", seed=0, sample_index=0
    )
    return {"id": name, "tokens": [1, 2, index], **fields}


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "r.jsonl"
    odd = {"text": "a\nb\u2028 \ud800 7 é", "reward": np.float32(-0.5), "ids": np.arange(3)}
    with records.RecordFile(path) as file:
        file.append(_record(0, **odd))
        assert "t/p0/m/power/0/0" in file
    (row,) = records.read(path)
    assert row == {**_record(0), "text": odd["text"], "reward": -0.5, "ids": [0, 1, 2]}
    with records.RecordFile(path) as file:
        assert file.records == [row]


def test_what_json_cannot_say_is_refused_and_nothing_is_written(tmp_path):
    with records.RecordFile(tmp_path / "r.jsonl") as file:
        with pytest.raises(ValueError, match="JSON compliant"):
            file.append(_record(0, log_prob=float("nan")))
        assert file.path.read_bytes() == b"" and not len(file)


@pytest.mark.parametrize("cut", [2, 20])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    with records.RecordFile(path) as file:
        for index in range(3):
            file.append(_record(index))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [r["id"] for r in records.read(path)] == [_record(i)["id"] for i in range(2)]
    with records.RecordFile(path) as file:
        assert len(file) == 2
        file.append(_record(2))
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line, complaint",
    [
        (b'{"id": "x", ', "line 2: not valid JSON"),
        (b"[1, 2]", "line 2: expected a JSON object, found list"),
        (b"\xff\xfe", "line 2: not valid JSON"),
        (b'{"tokens": []}', "line 2: a record without an id"),
        (json.dumps(_record(0)).encode(), "line 2: a second record 't/p0/m/power/0/0'"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, line, complaint):
    path = tmp_path / "r.jsonl"
    rows = [json.dumps(_record(i)).encode() for i in (0, 1)]
    before = b"\n".join([rows[0], line, rows[1], b""])
    path.write_bytes(before)
    with pytest.raises(ValueError) as found:
        records.RecordFile(path)
    assert str(found.value).startswith(f"{path}, {complaint}")
    assert "\n" not in str(found.value)
    assert path.read_bytes() == before


def test_an_id_is_written_once(tmp_path):
    with records.RecordFile(tmp_path / "r.jsonl") as file:
        file.append(_record(0))
        with pytest.raises(ValueError, match="second record"):
            file.append(_record(0))
    assert len(records.read(tmp_path / "r.jsonl")) == 1


def test_a_full_disk_loses_nothing_finished(tmp_path):
    path = tmp_path / "r.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with records.RecordFile(path) as file:
        file.append(_record(0))
        whole = path.read_bytes()
        # A file size limit stops a write half way, as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
        try:
            with pytest.raises(OSError) as found:
                file.append(_record(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert found.value.errno in records.DISK_FULL and found.value.filename == str(path)
        assert path.read_bytes() == whole
        file.append(_record(1))  # there is room again
    assert len(records.read(path)) == 2


def test_a_disk_that_is_found_full_on_flushing(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with records.RecordFile(tmp_path / "r.jsonl") as file:
        file.append(_record(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                file.append(_record(1))
        assert len(records.read(file.path)) == len(file) == 1


_WRITER = """
import sys
from powerjax import records
with records.RecordFile(sys.argv[1]) as file:
    for index in range(len(file), 10**6):
        file.append({"id": str(index), "tokens": list(range(200))})
"""


def test_kill_in_the_middle_of_writing(tmp_path):
    path = tmp_path / "r.jsonl"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)])
        size = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size < size + 50_000:
            time.sleep(0.01)
            assert writer.poll() is None
        with pytest.raises(ValueError, match="another process is writing"):
            records.RecordFile(path)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    with records.RecordFile(path) as file:
        assert [r["id"] for r in file.records] == [str(i) for i in range(len(file))]


def test_a_whole_last_record_without_its_newline_is_kept_by_every_reader(tmp_path):
    path = tmp_path / "r.jsonl"
    for count in (1, 2):
        rows = [_record(i) for i in range(count)]
        path.write_text("\n".join(json.dumps(row) for row in rows))
        before = path.read_bytes()
        assert records.read(path) == [row for _, row in records.rows(path)] == rows
        assert not records.is_cut_short(path)
        with records.RecordFile(path) as file:
            assert file.records == rows and path.read_bytes() == before
            file.append(_record(8))
            file.append(_record(9))
        assert records.read(path) == [*rows, _record(8), _record(9)]
        assert path.read_bytes().count(b"\n") == count + 2


def test_a_full_disk_leaves_a_record_without_newline_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(_record(0)))

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with records.RecordFile(path) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                file.append(_record(1))
        assert records.read(path) == [_record(0)]
        file.append(_record(1))
    assert records.read(path) == [_record(0), _record(1)]


def test_opening_another_format_changes_nothing(tmp_path):
    """A torn end would be cut off, and half a compressed file with it."""
    path = tmp_path / "r.jsonl"
    whole = json.dumps(_record(0)).encode()
    for text in (gzip.compress(whole + b"\n" + whole), b"[" + whole + b",\n{", b"{\n" + whole[:9]):
        path.write_bytes(text)
        for reader in (records.RecordFile, records.read):
            with pytest.raises(ValueError, match=r"r\.jsonl"):
                reader(path)
        assert path.read_bytes() == text
