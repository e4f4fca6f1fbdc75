"""Worker processes that compare answers, each comparison within a time limit.

sympy may take any time over an answer that a model wrote, and math-verify limits its own with
alarms that only work in a process's main thread. So comparisons run in processes of their own,
which are told `{"rule", "given", "reference"}` in a line and answer true, false, or null for "out
of time". An alarm ends what runs in Python; a worker that does not answer all the same is killed
and replaced. Workers stay for the next comparison, and end with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from powerjax.records.progress import progress_bar

RULES = ("rules", "math_verify")
LIMIT_S = 5.0  # of one comparison
GRACE_S = 1.0  # between the alarm and the kill
START_S = 120.0  # for a worker to import sympy and math-verify, on a machine that is busy
MEMORY_BYTES = 4 << 30
MAX_WORKERS = 16  # unless asked for; each holds 0.1 GB

Job = tuple[str, str, str]  # rule, given, reference


class Checkers:
    """A pool of such workers, started as jobs need them."""

    def __init__(self, num_workers: int | None = None, limit_s: float = LIMIT_S):
        self.num_workers = num_workers or min(_cores(), MAX_WORKERS)
        self.limit_s = limit_s
        self.num_killed = 0
        self._workers: list[_Worker] = []

    def check_all(self, jobs: Sequence[Job], *, progress: bool = False) -> list[bool | None]:
        """The verdict on each job, in their order; None where a job ran out of time."""
        verdicts: list[bool | None] = [None] * len(jobs)
        waiting = iter(enumerate(jobs))
        while len(self._workers) < min(self.num_workers, len(jobs)):
            self._workers.append(_Worker(self.limit_s))
        idle, busy = list(self._workers), {}
        bar = _bar(len(jobs), progress)
        try:
            with selectors.DefaultSelector() as selector:
                while True:
                    while idle and (job := next(waiting, None)) is not None:
                        worker = idle.pop()
                        index, (rule, given, reference) = job
                        worker.ask({"rule": rule, "given": given, "reference": reference})
                        selector.register(worker.output, selectors.EVENT_READ, worker)
                        busy[worker] = index
                    if not busy:
                        return verdicts
                    soonest = min(worker.deadline for worker in busy)
                    selector.select(max(0.0, soonest - time.monotonic()))
                    for worker in list(busy):
                        done, verdict = worker.answer()
                        if not done:
                            continue
                        selector.unregister(worker.output)
                        verdicts[busy.pop(worker)] = verdict
                        idle.append(worker if worker.alive else self._replace(worker))
                        bar.update()
        except BaseException:
            self.close()  # answers under way would be taken for those of later jobs
            raise
        finally:
            bar.close()

    def check(self, rule: str, given: str, reference: str) -> bool | None:
        """The verdict on one job."""
        return self.check_all([(rule, given, reference)])[0]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _replace(self, worker: _Worker) -> _Worker:
        self.num_killed += 1
        new = _Worker(self.limit_s)
        self._workers[self._workers.index(worker)] = new
        return new


class _Worker:
    """One process, and the line it owes."""

    def __init__(self, limit_s: float):
        package = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from powerjax.tasks.answers import checkers; checkers.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, "POWERJAX_CHECK_LIMIT_S": str(limit_s)},
        )
        self.output = self._process.stdout
        os.set_blocking(self.output.fileno(), False)
        self._limit_s, self._text = limit_s, b""
        self._ready = False
        self.alive = True
        self.deadline = math.inf

    def ask(self, question: dict[str, str]) -> None:
        """Sends a job; the time runs from when the worker is ready."""
        self.deadline = time.monotonic() + (self._limit_s + GRACE_S if self._ready else START_S)
        with contextlib.suppress(BrokenPipeError):  # `answer` finds out
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> tuple[bool, bool | None]:
        """(whether it is done with the job, verdict)."""
        while chunk := self.output.read(4096):
            self._text += chunk
        if not self._ready and b"\n" in self._text:
            self._text = self._text.partition(b"\n")[2]
            self._ready = True
            self.deadline = time.monotonic() + self._limit_s + GRACE_S
        if b"\n" in self._text:
            line, _, self._text = self._text.partition(b"\n")
            return True, json.loads(line)
        if self._process.poll() is None and time.monotonic() < self.deadline:
            return False, None
        self.kill()
        if not self._ready:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().split("\n")
            raise OSError(f"a process for comparing answers did not start: {lines[-1]}")
        return True, None

    def kill(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self.output):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class _OutOfTime(BaseException):
    """Not an Exception, which libraries swallow."""


def serve() -> None:
    """The worker: one JSON object a line in, one verdict a line out."""
    limit_s = float(os.environ["POWERJAX_CHECK_LIMIT_S"])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no verdict
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGALRM, _raise_out_of_time)
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import math_verify  # noqa: F401
    import sympy  # noqa: F401

    from powerjax.tasks.answers import equivalence

    rules = dict(zip(RULES, (equivalence.equivalent, equivalence.by_math_verify), strict=True))
    equivalence.by_math_verify("1", "1")  # its first call builds its patterns
    replies.write("ready\n")
    for line in sys.stdin:
        job = json.loads(line)
        _limit_cpu(limit_s)
        try:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            verdict = bool(rules[job["rule"]](job["given"], job["reference"]))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except (_OutOfTime, MemoryError):
            verdict = None
        except Exception:  # what a library makes of a strange answer is not equality
            verdict = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(verdict) + "\n")


def _raise_out_of_time(*_) -> None:
    raise _OutOfTime


def _limit_cpu(limit_s: float) -> None:
    """Lets the system end a worker that hangs in C and whose parent is gone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + limit_s + 10 * GRACE_S)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _bar(total: int, progress: bool):
    return progress_bar(total=total, desc="comparing", unit="answer", show=progress)


_POOLS: dict[tuple[int | None, float], Checkers] = {}


def pool(num_workers: int | None = None, limit_s: float = LIMIT_S) -> Checkers:
    """The pool of this process with so many workers (one a core if not given)."""
    key = num_workers, limit_s
    if key not in _POOLS:
        _POOLS[key] = Checkers(num_workers, limit_s)
        atexit.register(_POOLS[key].close)
    return _POOLS[key]
