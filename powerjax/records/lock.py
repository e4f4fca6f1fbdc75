"""The one lock of run folders, and the one way to replace a file or folder as a whole.

A lock ends with the process that holds it, however that process ends. A replacement is written
beside its target, under a name that ends in `.partial`, and renamed when it is complete: a reader
sees the old state or the new one, and a kill or a full disk leaves the old one.
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

    refusal: the message of the ValueError that is raised where another process holds the lock.
        None waits for that process instead.
    """
    mode = fcntl.LOCK_EX if refusal is None else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        raise ValueError(refusal) from None


@contextlib.contextmanager
def locked(folder: str | os.PathLike, refusal: str | None = None) -> Iterator[None]:
    """Holds a folder's lock meanwhile; makes the folder where it is not there. See `take`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        take(file.fileno(), refusal)
        yield


def replace_file(path: str | os.PathLike, content: str | bytes | Iterable[bytes]) -> None:
    """Writes a whole file in the place of what was there, and returns when it is on disk.

    content: a text (UTF-8; what UTF-8 cannot hold becomes `?`), bytes, or pieces of bytes.
    Raises OSError where the disk is full; the old file stays then.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8", "replace")
    pieces = [content] if isinstance(content, bytes) else content
    # The number of the process, because two may replace one file at a time.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # which names the partial file, or none
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def replace_folder(folder: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Has `write(partial)` fill a new folder, which then takes the place of the old one.

    Whatever `write` raises passes through; the old folder stays then.
    """
    folder = Path(folder).absolute()
    partial = folder.with_name(f"{folder.name}.partial")
    old = folder.with_name(f"{folder.name}.old")
    for left in (partial, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        write(partial)
    except BaseException:  # Ctrl-C too: half a model may be what fills the disk
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
