"""A run's folder: one process at a time has it, and a full disk is said in one way."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from powerjax import records

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Holds the folder, which is made if it is not there; the lock goes with its process.

    Raises ValueError while another process holds it. The empty file .lock stays.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process is training in it; wait for that one or choose another"
                " --out"
            ) from None
        yield


def check_free(folder: str | os.PathLike) -> None:
    """Raises ValueError while another process holds the folder; makes nothing."""
    if (Path(folder) / LOCK).exists():
        with locked(folder):
            pass


@contextlib.contextmanager
def disk_errors(folder: str | os.PathLike) -> Iterator[None]:
    """A full disk as an OSError, also where TensorStore or safetensors has its own type for it.

    Orbax's threads log what goes wrong with a traceback each, and then raise it here.
    """

    def is_new(record: logging.LogRecord) -> bool:
        return record.levelno != logging.ERROR or "orbax" not in record.pathname

    logging.getLogger("absl").addFilter(is_new)
    full = {os.strerror(code): code for code in records.DISK_FULL}
    try:
        yield
    except Exception as error:
        code = next((code for text, code in full.items() if text in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from None
    finally:
        logging.getLogger("absl").removeFilter(is_new)
