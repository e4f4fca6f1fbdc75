"""Programs that a model wrote, run against tests and kept from doing anything else.

A run is two processes (`confined/harness.py`). The tester holds the tests and their expected
values; the program's process holds the program and answers calls with plain data. So a program
passes by answering every call rightly, and in no other way: leaving early, printing, replacing
builtins, `__eq__` that is always true or reading its caller's frames reach nothing that is asked,
because the assertions are made in another process on values of Python's own types.

Each of the two runs in a bubblewrap sandbox of its own: no network; its own processes alone in
sight; of the file system the system's libraries and this Python, read-only, and an empty /tmp in
memory; none of our environment; and no system call that leads past these (`bubblewrap` says what
closes what). Resource limits bound its time, memory, processes, files and output. When a run is
over its process namespace is killed, and with it whatever the program started. If we are killed,
the sandboxes die with us.

Without bubblewrap, `unsafe_exec=True` runs the same two processes with the resource limits alone.
The program can then read and write what we can, and could tamper with the tester, and for root
there is no limit of processes; it is for programs that are trusted. Every verdict says which of the
two it was.

Not prevented: use of a fault in the kernel; more than `memory_bytes` in all, since the limit holds
for each of `num_processes`, and what the kernel keeps for empty files and pipes is not counted.
Calls go by value, so what a program does to its arguments is not seen by the tests, and iterators
are run to their end. Programs can import the standard library and numpy.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence

from powerjax.records.progress import progress_bar
from powerjax.tasks.sandbox import bubblewrap, seccomp
from powerjax.tasks.sandbox.confined import harness, plain

BUBBLEWRAP, RLIMITS = "bubblewrap", "rlimits"
UNSAFE = "or give --unsafe_exec to run programs that you trust with resource limits alone"

_START_S = 60.0
_LAST_WORDS_S = 5.0
_SAID_BYTES = 1 << 16
_TESTER_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
      wall_s: seconds from the start of the program to the end of its tests.
      cpu_s: processor seconds, of each process.
      memory_bytes: address space, of each process.
      num_processes: processes and threads at a time.
      file_bytes: size of each file it writes.
      tmp_bytes: of all files in /tmp.
      output_bytes: of standard output and error.
    """

    wall_s: float = 30.0
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    num_processes: int = 8
    file_bytes: int = 16 << 20
    tmp_bytes: int = 64 << 20
    output_bytes: int = 1 << 20


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and its tests.

    Attributes:
      source: the program.
      tests: Python that raises unless the program is right; it calls `entry_point` (or
        `candidate`, which is the same).
      entry_point: the function of the program that is tested.
      setup: Python run before the tests, and not seen by the program: imports and helpers.
    """

    source: str
    tests: str
    entry_point: str
    setup: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a run ended.

    Attributes:
      status: "passed"; "failed": an assertion does not hold or the program raised; "ended": the
        program ended before its tests did; "timeout": of wall or processor time; "output": it
        wrote too much.
      message: what happened, in one line; "" for "passed".
      isolation: "bubblewrap", or "rlimits" for unsafe_exec.
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
    """The verdict on each program, `num_workers` (the number of cores) at a time.

    A program that occurs again is not run again. Raises as `require` does.
    """
    bwrap = require(unsafe_exec)
    distinct = list(dict.fromkeys(programs))
    num_workers = num_workers or os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(_run, one, limits or Limits(), bwrap) for one in distinct]
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
    verdicts = {one: future.result() for one, future in zip(distinct, futures, strict=True)}
    return [verdicts[program] for program in programs]


def run(program: Program, *, limits: Limits | None = None, unsafe_exec: bool = False) -> Verdict:
    """The verdict on one program. Raises as `require` does."""
    return _run(program, limits or Limits(), require(unsafe_exec))


def require(unsafe_exec: bool = False) -> str | None:
    """The path of bubblewrap, None with `unsafe_exec`.

    Raises a FileNotFoundError where it is not installed, another OSError where it does not work:
    its message ends in the reason that bubblewrap or the system gave, or in how bubblewrap ended.
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
    try:
        new = "--size" in bubblewrap.options(bwrap)
        if new:
            _run(Program("def f(): return 1", "assert f() == 1", "f"), Limits(), bwrap)
    except OSError as error:
        raise OSError(f"bubblewrap does not work here: {error}; {UNSAFE}") from None
    if not new:
        raise OSError(f"bubblewrap is too old: version 0.7 or newer is needed, {UNSAFE}")


def _run(program: Program, limits: Limits, bwrap: str | None) -> Verdict:
    command = None if bwrap is None else bubblewrap.sandboxed(bwrap, limits.tmp_bytes)
    deadline = time.monotonic() + _START_S
    with contextlib.ExitStack() as stack:
        job = stack.enter_context(tempfile.TemporaryFile())
        job.write(plain.encode(dataclasses.asdict(program), limit=1 << 30))
        job.seek(0)
        folder = "/tmp"
        if bwrap is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        (asked, ask), (answered, answer), (verdict, give_verdict) = (_pipe(stack) for _ in "123")
        (complaints, complain), (output, put) = _pipe(stack), _pipe(stack)
        tester = bubblewrap.Process(
            ["tester", ask.fileno(), answered.fileno()],
            dataclasses.replace(limits, memory_bytes=_TESTER_BYTES),
            command,
            deadline,
            cwd=folder,
            pass_fds=(ask.fileno(), answered.fileno()),
            stdin=job,
            stdout=give_verdict,
            stderr=complain,
        )
        stack.callback(tester.kill)
        child = bubblewrap.Process(
            ["program", answer.fileno(), bubblewrap.SITE if bwrap else bubblewrap.numpy().parent],
            limits,
            command,
            deadline,
            cwd=folder,
            pass_fds=(answer.fileno(),),
            stdin=asked,
            stdout=put,
            stderr=put,
        )
        stack.callback(child.kill)
        for end in (asked, ask, answered, answer, give_verdict, complain, put):
            end.close()
        said = {complaints.fileno(): b"", output.fileno(): b""}
        ended = _watch(verdict.fileno(), said, limits, deadline)
        if ended is None:
            _listen(said)
            raise OSError(_why(*zip(said.values(), (tester, child), strict=True)))
        status, message = ended
        if status == "ended":
            status, message = _how_it_ended(child.exit_status(), message)
        return Verdict(status, message, BUBBLEWRAP if bwrap else RLIMITS)


def _how_it_ended(exit_status: int | None, message: str) -> tuple[str, str]:
    """(status, message) of a program that ended before its tests did."""
    number = (exit_status or 0) - 128
    if number == signal.SIGXCPU:
        return "timeout", "its processor time is used up"
    return "ended", f"{message} (signal {number})" if number > 0 else message


def _pipe(stack: contextlib.ExitStack):
    """(read end, write end), closed with the stack at the latest."""
    read, write = os.pipe()
    ends = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
    return tuple(stack.enter_context(end) for end in ends)


def _watch(
    verdict: int, said: dict[int, bytes], limits: Limits, deadline: float
) -> tuple[str, str] | None:
    """(status, message): the tester's, or of the limit that was broken before it spoke.

    None if the tester ended, or the time was over, before the tests started.

    Args:
      verdict: the pipe to which the tester writes.
      said: of each pipe of other output what it has given, added to here.
      deadline: the time of `time.monotonic()` until which the tests must start.
    """
    received, written, started = b"", 0, False
    with selectors.DefaultSelector() as selector:
        for pipe in (verdict, *said):
            selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if key.fd != verdict:
                    written += len(data)
                    said[key.fd] = (said[key.fd] + data)[-_SAID_BYTES:]
                    if not data:
                        selector.unregister(key.fd)
                    if started and written > limits.output_bytes:
                        return "output", f"more than {limits.output_bytes:,} bytes of output"
                    continue
                received += data
                messages = _messages(received)
                for status, message in messages[started:]:
                    if status == "broken":
                        raise ValueError(message)
                    if status != "started":
                        return status, message
                    started, deadline = True, time.monotonic() + limits.wall_s
                if not data:
                    return ("failed", "the tests ran out of memory or time") if started else None
    return ("timeout", f"not done after {limits.wall_s:g} s") if started else None


def _listen(said: dict[int, bytes]) -> None:
    """Adds what is still written to the pipes, until their last writers end or time is over.

    The end of the verdict's pipe is no sign that a reason has been given, far less that it has
    been read.
    """
    deadline = time.monotonic() + _LAST_WORDS_S
    with selectors.DefaultSelector() as selector:
        for pipe in said:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if data := os.read(key.fd, 1 << 16):
                    said[key.fd] = (said[key.fd] + data)[-_SAID_BYTES:]
                else:
                    selector.unregister(key.fd)


def _why(tester: tuple[bytes, bubblewrap.Process], child: tuple[bytes, bubblewrap.Process]) -> str:
    """Why the tests did not start, in one line, from what each process said and how it ended."""
    first, second = tester, child
    if harness.NOT_READY.encode() in tester[0]:
        first, second = child, (b"", tester[1])
    reason = bubblewrap.reason(first[0]) or bubblewrap.reason(second[0])
    return reason or f"its process {bubblewrap.ending(first[1].exit_status())}"


def _messages(received: bytes) -> list[tuple[str, str]]:
    """The whole messages in what the tester has written so far."""
    messages = []
    while len(received) >= 4 and len(received) >= (end := 4 + int.from_bytes(received[:4], "big")):
        messages.append(plain.decode(received[4:end]))
        received = received[end:]
    return messages
