"""Runs programs that a model wrote against tests, and keeps them from doing anything else.

A run is two processes (`confined/harness.py`). The tester holds the tests and their expected
values. The program's process holds the program and answers calls with plain data. So a program
passes only if it answers every call rightly: leaving early, printing, replacing builtins, an
`__eq__` that is always true and reading the frames of its caller change nothing, because the
assertions are made in another process, on values of Python's own types.

Each of the two processes runs in a bubblewrap sandbox of its own. It has no network and sees no
processes but its own. Of the file system it sees the system's libraries and this Python, both
read-only, and an empty /tmp in memory. It gets none of our environment, and cannot make the system
calls that lead past these walls (`bubblewrap` says what closes what). Resource limits bound its
time, memory, processes, files and output. When a run is over, its process namespace is killed with
whatever the program started. If this process is killed, the sandboxes die with it.

Without bubblewrap, `unsafe_exec=True` runs the same two processes with the resource limits alone.
The program can then read and write whatever this process can, and could tamper with the tester; as
root it can also start any number of processes. This is for programs that are trusted. Every verdict
says in which of the two ways the program ran.

Not prevented:
- The program may exploit a fault in the kernel.
- It may use more than `memory_bytes` in all, since the limit holds for each of `num_processes`, and
  what the kernel keeps for empty files and pipes is not counted.

Calls go by value: the tests do not see what a program does to its arguments, and iterators are run
to their end. Programs can import the standard library and numpy.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence

from powerjax.records.progress import progress_bar
from powerjax.tasks.sandbox import bubblewrap, pipes, seccomp
from powerjax.tasks.sandbox.confined import harness, plain
from powerjax.tasks.sandbox.limits import Limits

# How a program was kept apart: a verdict's `isolation`.
BUBBLEWRAP, RLIMITS = "bubblewrap", "rlimits"
UNSAFE = "or give --unsafe_exec to run programs that you trust with resource limits alone"

_START_S = 60.0  # until the tests must have started
_TESTER_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and its tests.

    Attributes:
      source: the program.
      tests: Python that raises unless the program is right. It calls the tested function as
        `entry_point` or as `candidate`.
      entry_point: the name of the tested function.
      setup: Python that runs before the tests (imports, helpers). The program does not see it.
    """

    source: str
    tests: str
    entry_point: str
    setup: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a run ended.

    Attributes:
      status: "passed"; "failed" if an assertion does not hold or the program raised; "ended" if the
        program ended before its tests did; "timeout" if wall or processor time ran out; "output"
        if it wrote too much.
      message: what happened, in one line; "" for "passed".
      isolation: BUBBLEWRAP, or RLIMITS for `unsafe_exec`.
    """

    status: str
    message: str
    isolation: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_all(
    programs: Sequence[Program],
    *,
    limits: Limits | None = None,
    unsafe_exec: bool = False,
    num_workers: int | None = None,
    progress: bool = False,
) -> list[Verdict]:
    """Returns the verdict on each program. Raises as `require` does.

    A program that occurs several times is run once.

    Args:
      programs: the programs.
      limits: what each may use; None for the default `Limits`.
      unsafe_exec: run them with resource limits alone (see the module's docstring).
      num_workers: how many run at a time; None for the number of cores.
      progress: whether a progress bar is shown.
    """
    bwrap = require(unsafe_exec)
    distinct = list(dict.fromkeys(programs))
    num_workers = num_workers or os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(_run, each, limits or Limits(), bwrap) for each in distinct]
        try:
            done = concurrent.futures.as_completed(futures)
            bar = progress_bar(
                done, desc="running", unit="program", total=len(futures), show=progress
            )
            for future in bar:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    verdicts = {each: future.result() for each, future in zip(distinct, futures, strict=True)}
    return [verdicts[program] for program in programs]


def run(program: Program, *, limits: Limits | None = None, unsafe_exec: bool = False) -> Verdict:
    """Returns the verdict on one program. Raises as `require` does."""
    return _run(program, limits or Limits(), require(unsafe_exec))


def require(unsafe_exec: bool = False) -> str | None:
    """Returns the path of bubblewrap; None with `unsafe_exec`, which needs none.

    Raises:
      FileNotFoundError: bubblewrap is not installed.
      OSError: it does not work. The message ends in the reason that bubblewrap or the system gave,
        or in how bubblewrap ended.
    """
    if unsafe_exec:
        return None
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        for path in (os.path.join(folder, "bwrap") for folder in os.get_exec_path()):
            if os.path.isfile(path):
                raise PermissionError(f"{path} is not executable: chmod +x {path}, {UNSAFE}")
        raise FileNotFoundError(
            "programs run in bubblewrap, which is not installed: apt-get install bubblewrap"
            f" (dnf, pacman, zypper alike; Linux only), {UNSAFE}"
        )
    machine = os.uname().machine
    if machine not in seccomp.MACHINES:
        known = ", ".join(seccomp.MACHINES)
        raise OSError(f"programs cannot be confined on {machine} (but on {known}); {UNSAFE}")
    _try(bwrap)
    return bwrap


@functools.cache
def _try(bwrap: str) -> None:
    """Runs a small program. Raises OSError if bubblewrap does not work."""
    try:
        is_new = "--size" in bubblewrap.options(bwrap)
        if is_new:
            _run(Program("def f(): return 1", "assert f() == 1", "f"), Limits(), bwrap)
    except OSError as error:
        raise OSError(f"bubblewrap does not work here: {error}; {UNSAFE}") from None
    if not is_new:
        raise OSError(f"bubblewrap is too old: version 0.7 or newer is needed, {UNSAFE}")


def _run(program: Program, limits: Limits, bwrap: str | None) -> Verdict:
    """Returns the verdict on one program.

    Args:
      program: the program and its tests.
      limits: what the program may use.
      bwrap: the path of bubblewrap; None to run with resource limits alone.
    """
    command = None if bwrap is None else bubblewrap.sandboxed(bwrap, limits.tmp_bytes)
    deadline = time.monotonic() + _START_S
    with contextlib.ExitStack() as stack:
        # --- the job, the folder and the pipes ---
        job = stack.enter_context(tempfile.TemporaryFile())
        job.write(plain.encode(dataclasses.asdict(program), limit=1 << 30))
        job.seek(0)
        folder = "/tmp"
        if bwrap is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        (requests, ask), (replies, reply) = _pipe(stack), _pipe(stack)
        (verdict, decide), (complaints, complain) = _pipe(stack), _pipe(stack)
        output, put = _pipe(stack)
        # --- start the two processes ---
        tester = bubblewrap.Process(
            ["tester", ask.fileno(), replies.fileno()],
            dataclasses.replace(limits, memory_bytes=_TESTER_BYTES),
            command,
            deadline,
            cwd=folder,
            pass_fds=(ask.fileno(), replies.fileno()),
            stdin=job,
            stdout=decide,
            stderr=complain,
        )
        stack.callback(tester.kill)
        child = bubblewrap.Process(
            ["program", reply.fileno(), bubblewrap.SITE if bwrap else bubblewrap.numpy().parent],
            limits,
            command,
            deadline,
            cwd=folder,
            pass_fds=(reply.fileno(),),
            stdin=requests,
            stdout=put,
            stderr=put,
        )
        stack.callback(child.kill)
        for end in (requests, ask, replies, reply, decide, complain, put):
            end.close()
        # --- wait for the verdict ---
        tails = {complaints.fileno(): b"", output.fileno(): b""}
        result = pipes.watch(verdict.fileno(), tails, limits, deadline)
        if result is None:
            pipes.read_rest(tails)
            said_by_tester, said_by_child = tails.values()
            raise OSError(_why_not_started((said_by_tester, tester), (said_by_child, child)))
        status, message = result
        if status == "ended":
            status, message = _how_it_ended(child.exit_status(), message)
        return Verdict(status, message, BUBBLEWRAP if bwrap else RLIMITS)


def _how_it_ended(exit_status: int | None, message: str) -> tuple[str, str]:
    """Returns (status, message) of a program that ended before its tests did."""
    number = (exit_status or 0) - 128
    if number == signal.SIGXCPU:
        return "timeout", "its processor time is used up"
    return "ended", f"{message} (signal {number})" if number > 0 else message


def _pipe(stack: contextlib.ExitStack) -> tuple[io.FileIO, io.FileIO]:
    """Returns a pipe's (read end, write end). Both are closed with the stack at the latest."""
    read, write = os.pipe()
    ends = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
    return stack.enter_context(ends[0]), stack.enter_context(ends[1])


def _why_not_started(
    tester: tuple[bytes, bubblewrap.Process], child: tuple[bytes, bubblewrap.Process]
) -> str:
    """Returns in one line why the tests did not start.

    Args:
      tester: (the end of what the tester's process said, the process).
      child: the same of the program's process.
    """
    first, second = tester, child
    if harness.NOT_READY.encode() in tester[0]:
        first, second = child, (b"", tester[1])
    reason = bubblewrap.reason(first[0]) or bubblewrap.reason(second[0])
    return reason or f"its process {bubblewrap.ending(first[1].exit_status())}"
