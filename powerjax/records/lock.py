"""The lock by which processes take turns with a file or folder, and how these are replaced whole.

A lock ends with the process that holds it, however that process ends. A replacement is written
beside its target, under a name that ends in `.partial`, and is renamed when it is complete. So a
kill or a full disk loses nothing. A reader of a file sees the old content or the new at any time.
For a folder this takes two renames (`replace_folder`), and between them a reader finds no folder.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

LOCK = ".lock"  # the name of a folder's lock file, which is empty and stays


def take(descriptor: int, refusal: str | None = None) -> None:
    """Locks an open file for this process, until the file is closed.

    Args:
      descriptor: the number of the open file.
      refusal: what to do where another process holds the lock: a text is the message of the
        ValueError that is raised at once; None waits until the other process lets go.
    """
    mode = fcntl.LOCK_EX if refusal is None else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        raise ValueError(refusal) from None


@contextlib.contextmanager
def locked(folder: str | os.PathLike, refusal: str | None = None) -> Iterator[None]:
    """Holds the lock of a folder while the `with` block runs, so that processes take turns there.

    The folder is made where it is lacking. The lock is an empty file in it, which stays.

    refusal: where another process holds the lock, None waits for that process, and a text is the
      message of the ValueError that is raised (`take`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        take(file.fileno(), refusal)
        yield


def replace_file(path: str | os.PathLike, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a whole file in place of the one that was there, and returns when it is on disk.

    content: a text, bytes, or pieces of bytes. A text is written as UTF-8; what UTF-8 cannot hold
      becomes `?`.

    Raises OSError, naming the file, where the disk is full; the old file then stays.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8", "replace")
    pieces = [content] if isinstance(content, bytes) else content
    # Two processes may replace one file at the same time, so each writes under its own number.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # it names the partial file or none
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def replace_folder(folder: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Replaces a folder by one that `write` fills.

    When `write` has returned, the folder is renamed to FOLDER.old, the new one to FOLDER, and
    FOLDER.old is deleted. A kill between the renames leaves FOLDER.old and no FOLDER; the next call
    starts by putting the old folder back.

    write: is called with the path of a folder that does not exist yet, makes it and fills it.

    Whatever `write` raises passes through, and the old folder stays.
    """
    folder = Path(folder).absolute()
    partial = folder.with_name(f"{folder.name}.partial")
    old = folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for leftover in (partial, old):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        write(partial)
    except BaseException:  # Ctrl-C too: half a model must not go on filling the disk
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
