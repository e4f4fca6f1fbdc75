"""A training run as a user's command: its folder is its own, and errors end in one line."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from powerjax import records
from powerjax.distill import checkpoints, export, run_folder


def check_out(out: Path, *, resume: bool) -> None:
    """Raises ValueError where `out` holds files of something else, or a run and not `resume`.

    It looks at file names only, so that a mistake shows before anything is loaded.
    """
    checkpoints.check(out, None, resume=resume)
    foreign = [path for path in out.glob("*.jsonl") if path != out / "metrics.jsonl"]
    if not (out / checkpoints.CHECKPOINTS).is_dir():
        foreign += [path for name in ("adapter", "merged") if (path := out / name).exists()]
    if foreign:
        raise ValueError(f"{foreign[0]} is not of this run: choose another --out")


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps other commands from training in the folder meanwhile. All processes call it."""
    with contextlib.ExitStack() as stack:
        export.on_main(lambda: stack.enter_context(run_folder.locked(out)))
        yield


def resuming(resume: bool) -> str:
    """Returns the command that goes on with this run. resume: whether it has --resume already."""
    return records.command() + ("" if resume else " --resume")


@contextlib.contextmanager
def explained(out: Path, remedy: str, *, resume: bool, of: str = "") -> Iterator[None]:
    """Turns what stops the work into one line, with the command that goes on from a checkpoint.

    Ctrl-C and SIGTERM print that line and exit, with status 128 and the signal's number. A full
    disk and exhausted device memory raise ValueError.

    Args:
      out: the run folder.
      remedy: what to try where device memory runs out.
      resume: whether this command has --resume.
      of: the number of steps in the form ` of 96`, or "" where it is not known yet.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        step = checkpoints.last_step(out)
        if step is None:
            raise
        number = getattr(stop, "signal_number", signal.SIGINT)
        print(
            f"{Path(sys.argv[0]).stem}: {signal.Signals(number).name}; the checkpoint of step"
            f" {step}{of} is safe in {out}; to go on: {resuming(resume)}",
            file=sys.stderr,
        )
        sys.exit(128 + number)
    except OSError as error:
        if error.errno not in records.DISK_FULL:
            raise
        step = checkpoints.last_step(out)
        safe = "" if step is None else f"; the checkpoint of step {step} is safe"
        raise ValueError(
            f"the disk is full ({error.filename}){safe}; make room, then: {resuming(resume)}"
        ) from None
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"out of device memory: try {remedy}") from error
