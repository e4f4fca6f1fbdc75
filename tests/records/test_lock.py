"""Locks, and the replacement of files and folders: what a refusal, a full disk or a kill leaves."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from powerjax.records import lock

# Holds the lock of the folder argv[1] until a line comes on its input.
_HOLDER = """
import sys
from powerjax.records import lock
with lock.locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "run")]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_is_refused(tmp_path, holder):
    with pytest.raises(ValueError) as caught, lock.locked(tmp_path / "run", "it is taken"):
        raise AssertionError("two processes hold one lock")
    assert str(caught.value) == "it is taken"
    with (tmp_path / "run" / lock.LOCK).open("a") as file, pytest.raises(ValueError) as caught:
        lock.take(file.fileno(), "so is this")
    assert str(caught.value) == "so is this"


@pytest.mark.parametrize("sent", [signal.SIGKILL, None], ids=["killed", "finished"])
def test_a_lock_ends_with_its_process_and_one_without_a_refusal_waits_for_that(
    tmp_path, holder, sent
):
    if sent:
        holder.send_signal(sent)
    else:
        holder.stdin.write("\n")
        holder.stdin.flush()
    with lock.locked(tmp_path / "run"):  # waits
        pass
    holder.wait()
    with lock.locked(tmp_path / "run", "refused"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [lock.LOCK]


def test_a_folder_that_is_lacking_is_made_and_its_lock_may_be_taken_again(tmp_path):
    for _ in range(2):
        with lock.locked(tmp_path / "a" / "b", "refused"):
            assert (tmp_path / "a" / "b" / lock.LOCK).read_bytes() == b""


@pytest.mark.parametrize(
    "content, expected",
    [
        ("é\n", b"\xc3\xa9\n"),
        ("a\ud800b", b"a?b"),
        (b"\0\xff", b"\0\xff"),
        ((part for part in (b"1", b"2")), b"12"),
    ],
    ids=["text", "surrogate", "bytes", "pieces"],
)
def test_a_file_is_replaced_whole(tmp_path, content, expected):
    path = tmp_path / "table.md"
    path.write_text("a longer text that was there before")
    lock.replace_file(path, content)
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["table.md"]


def test_a_full_disk_leaves_the_old_file_and_is_told_by_its_name(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError) as caught:
            lock.replace_file(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.md"]


def test_pieces_that_cannot_be_made_leave_the_old_file(tmp_path):
    def pieces():
        yield b"half"
        raise ValueError("no more")

    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="no more"):
        lock.replace_file(tmp_path / "file", pieces())
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def _folder_of(text):
    """Returns a function that makes a folder with one file, which holds the text."""

    def write(folder):
        folder.mkdir()
        (folder / "file").write_text(text)

    return write


def test_a_folder_is_made_and_replaced(tmp_path):
    for text in ("old", "new"):
        lock.replace_folder(tmp_path / "model", _folder_of(text))
        assert os.listdir(tmp_path) == ["model"]
        assert (tmp_path / "model" / "file").read_text() == text


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_filled_leaves_the_old_one(tmp_path, error):
    def write(folder):
        _folder_of("half")(folder)
        raise error

    lock.replace_folder(tmp_path / "model", _folder_of("old"))
    with pytest.raises(type(error)):
        lock.replace_folder(tmp_path / "model", write)
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "old"


# Replaces the folder argv[1] and dies before its rename number argv[2], counted from 1.
_KILLED = """
import os, signal, sys
from pathlib import Path
from powerjax.records import lock

renames, replace = [], os.replace

def counted(*paths):
    renames.append(paths)
    if len(renames) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)

def write(folder):
    folder.mkdir()
    (folder / "file").write_text("new")

os.replace = counted
lock.replace_folder(sys.argv[1], write)
"""


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_at_a_rename_loses_nothing(tmp_path, rename):
    folder = tmp_path / "model"
    lock.replace_folder(folder, _folder_of("old"))
    command = [sys.executable, "-c", _KILLED, str(folder), str(rename)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert folder.exists() == (rename == 1)

    def fails(partial):
        raise ValueError("the next call fails")

    with pytest.raises(ValueError, match="the next call fails"):
        lock.replace_folder(folder, fails)
    assert os.listdir(tmp_path) == ["model"]
    assert (folder / "file").read_text() == "old"


def test_what_a_kill_after_the_renames_left_is_deleted(tmp_path):
    _folder_of("old")(tmp_path / "model.old")
    _folder_of("new")(tmp_path / "model")
    lock.replace_folder(tmp_path / "model", _folder_of("newer"))
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "newer"
