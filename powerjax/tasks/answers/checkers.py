"""Worker processes that compare answers, each comparison within a time limit.

sympy may take any time over an answer that a model wrote, and math-verify limits its own time with
alarms, which only work in the main thread of a process. So comparisons run in processes of their
own. Such a worker reads `{"rule", "given", "reference"}` in one line, and answers true, false, or
null for "out of time". An alarm ends what runs in Python. A worker that does not answer even then
is killed and replaced. Workers stay for the next comparison, and end with this process.
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
LIMIT_S = 5.0  # seconds for one comparison
GRACE_S = 1.0  # seconds between the alarm and the kill
START_S = 120.0  # seconds for a worker to import sympy and math-verify on a busy machine
MEMORY_BYTES = 4 << 30  # address space of a worker
MAX_WORKERS = 16  # unless the caller gives a number; each worker holds 0.1 GB

Job = tuple[str, str, str]  # rule, given, reference


class Checkers:
    """A pool of worker processes, which start when there are jobs for them.

    Args:
      num_workers: how many at most; None for the number of cores, and at most MAX_WORKERS.
      limit_s: seconds for one comparison.

    Attributes:
      num_killed: how many workers had to be killed because they did not answer.
    """

    def __init__(self, num_workers: int | None = None, limit_s: float = LIMIT_S):
        self.num_workers = num_workers or min(_cores(), MAX_WORKERS)
        self.limit_s = limit_s
        self.num_killed = 0
        self._workers: list[_Worker] = []

    def check_all(self, jobs: Sequence[Job], *, progress: bool = False) -> list[bool | None]:
        """Returns the verdict on each job, in their order; None for a job that ran out of time."""
        verdicts: list[bool | None] = [None] * len(jobs)
        waiting = iter(enumerate(jobs))
        while len(self._workers) < min(self.num_workers, len(jobs)):
            self._workers.append(_Worker(self.limit_s))
        idle = list(self._workers)
        busy: dict[_Worker, int] = {}  # worker: the index of its job
        bar = _bar(len(jobs), progress)
        try:
            with selectors.DefaultSelector() as selector:
                while True:
                    # --- give jobs to idle workers ---
                    while idle and (job := next(waiting, None)) is not None:
                        worker = idle.pop()
                        index, (rule, given, reference) = job
                        worker.ask({"rule": rule, "given": given, "reference": reference})
                        selector.register(worker.output, selectors.EVENT_READ, worker)
                        busy[worker] = index
                    if not busy:
                        return verdicts
                    # --- wait for an answer or a deadline ---
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
            self.close()  # else late answers would be taken for those of later jobs
            raise
        finally:
            bar.close()

    def check(self, rule: str, given: str, reference: str) -> bool | None:
        """Returns the verdict on one job; None if it ran out of time."""
        return self.check_all([(rule, given, reference)])[0]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _replace(self, worker: _Worker) -> _Worker:
        """Returns a new worker in the place of one that was killed."""
        self.num_killed += 1
        new = _Worker(self.limit_s)
        self._workers[self._workers.index(worker)] = new
        return new


class _Worker:
    """One process, and the answer that it owes.

    Attributes:
      output: the pipe on which the process answers.
      alive: False once the process has been killed.
      deadline: the time of `time.monotonic()` until which it has to answer.
    """

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
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout
        os.set_blocking(self.output.fileno(), False)
        self._limit_s, self._text = limit_s, b""
        self._ready = False
        self.alive = True
        self.deadline = math.inf

    def ask(self, question: dict[str, str]) -> None:
        """Sends a job. Its time runs from when the worker is ready."""
        self.deadline = time.monotonic() + (self._limit_s + GRACE_S if self._ready else START_S)
        with contextlib.suppress(BrokenPipeError):  # `answer` notices that the process ended
            self._input.write(json.dumps(question).encode() + b"\n")
            self._input.flush()

    def answer(self) -> tuple[bool, bool | None]:
        """Returns (whether the worker is done with the job, the verdict), without waiting."""
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
        for pipe in (self._input, self.output):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class _OutOfTime(BaseException):
    """Ends a comparison. It is no Exception, because libraries catch those."""


def serve() -> None:
    """Runs the worker: it reads one JSON object per line, and writes one verdict per line."""
    limit_s = float(os.environ["POWERJAX_CHECK_LIMIT_S"])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that nothing that a library prints is taken for a verdict
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends this process
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
        except Exception:  # a library that stumbles over a strange answer finds no equality
            verdict = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(verdict) + "\n")


def _raise_out_of_time(*_) -> None:
    raise _OutOfTime


def _limit_cpu(limit_s: float) -> None:
    """Has the system end a worker that hangs in C code and whose parent has ended."""
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
    """Returns the pool of this process for these arguments (see `Checkers`)."""
    key = num_workers, limit_s
    if key not in _POOLS:
        _POOLS[key] = Checkers(num_workers, limit_s)
        atexit.register(_POOLS[key].close)
    return _POOLS[key]
