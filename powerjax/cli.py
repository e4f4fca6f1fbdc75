"""What every launcher shares: --dtype and --traceback, and how a command ends."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from powerjax import records

_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show Python's traceback on an error, instead of one line."
)


def define_dtype(default: str) -> None:
    """Adds --dtype to a launcher that loads a model."""
    flags.DEFINE_enum(
        "dtype",
        default,
        ["auto", "float32", "bfloat16", "float16"],
        "The number format of the model's weights and of its cache. auto: float32 on a CPU and"
        " bfloat16 on other devices.",
    )


def dtype() -> str:
    """Returns the name of the dtype that --dtype means on this machine."""
    if flags.FLAGS.dtype != "auto":
        return flags.FLAGS.dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a launcher's `main`, as `app.run` does, and then exits.

    A user's mistake ends in one line on stderr and status 1, Ctrl-C in one line and status 130.
    """
    app.run(lambda argv: _guarded(main, argv))


def _guarded(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # app.run would show every backend JAX looks for
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}: flags begin with --")
        main(argv)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after the terminal's ^C
        _end(f"interrupted; {_kept()}to go on: {records.command()}", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = _one_line(error)
        if message is None or _TRACEBACK.value:
            raise
        _end(message, 1)


def _one_line(error: Exception) -> str | None:
    """Returns what to say of a user's mistake or a machine's limit; None for any other error.

    Any other error must be a fault of this project, and its traceback is shown.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in records.DISK_FULL:
            return f"the disk is full{where}; {_kept()}make room, then: {records.command()}"
        return f"{error.strerror}{where}"
    if isinstance(error, ValueError | OSError) and _raised_here(error):
        return str(error).strip().split("\n")[0] or None
    if "RESOURCE_EXHAUSTED" in str(error):
        return f"out of device memory; {_kept()}try a smaller --num_slots"
    return None


def _raised_here(error: Exception) -> bool:
    """Returns whether this project raised the error, as it does for mistakes, and not a library."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    package = Path(__file__).resolve().parent
    return any(last.is_relative_to(home) for home in (package, package.parent / "experiments"))


def _end(line: str, status: int) -> None:
    """Prints the line on stderr, after the program's name, and exits."""
    sys.stdout.flush()
    print(f"{Path(sys.argv[0]).stem}: {line}", file=sys.stderr)
    sys.exit(status)


def _kept() -> str:
    """Returns `12 records are safe in FOLDER; `, or "" where the run has no record on disk yet."""
    if "out" not in flags.FLAGS:
        return ""
    folder = Path(flags.FLAGS.out)
    files = [path for path in folder.rglob("*.jsonl") if path.name != "metrics.jsonl"]
    count = sum(path.read_bytes().count(b"\n") for path in files)
    return f"{count} records are safe in {folder}; " if count else ""
