"""A run's folder: one process at a time has it, and a full disk is said in one way."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from powerjax import records
from powerjax.records import lock


def locked(folder: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Holds the folder of a training run meanwhile; makes it where it is not there.

    Raises ValueError while another process holds it.
    """
    return lock.locked(
        folder,
        f"{folder}: another process is training in it; wait for that one or choose another --out",
    )


def check_free(folder: str | os.PathLike) -> None:
    """Raises ValueError while another process holds the folder; makes nothing."""
    if (Path(folder) / lock.LOCK).exists():
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
