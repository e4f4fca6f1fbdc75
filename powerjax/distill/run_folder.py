"""The lock of a training run's folder, and one kind of error for a full disk."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from powerjax import records
from powerjax.records import lock


def locked(folder: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Returns a context that holds the lock of a run folder, which is made if it does not exist.

    Entering it raises ValueError while another process holds the lock.
    """
    return lock.locked(
        folder,
        f"{folder}: another process is training in it; wait for that one or choose another --out",
    )


def check_free(folder: str | os.PathLike) -> None:
    """Raises ValueError while another process holds the folder's lock. It makes no file."""
    if (Path(folder) / lock.LOCK).exists():
        with locked(folder):
            pass


@contextlib.contextmanager
def disk_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Turns whatever TensorStore or safetensors raise for a full disk into an OSError.

    Meanwhile Orbax's errors are not logged: its threads would log a traceback each, for an error
    that is raised here as well.
    """

    def is_not_raised_here(record: logging.LogRecord) -> bool:
        return record.levelno != logging.ERROR or "orbax" not in record.pathname

    logging.getLogger("absl").addFilter(is_not_raised_here)
    full = {os.strerror(code): code for code in records.DISK_FULL}
    try:
        yield
    except Exception as error:
        code = next((code for text, code in full.items() if text in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(folder)) from None
    finally:
        logging.getLogger("absl").removeFilter(is_not_raised_here)
