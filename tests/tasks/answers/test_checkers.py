"""Comparing answers in worker processes: verdicts, time limits, and workers that hang or die."""

import os
import signal
import time

import pytest

from powerjax.tasks.answers import checkers

HANGS = {"rules": ("(10^{10})!", "x"), "math_verify": ("9^{9^{9^9}}", "5")}


@pytest.fixture(scope="module")
def pool():
    workers = checkers.Checkers(num_workers=2, limit_s=2.0)
    yield workers
    workers.close()


def test_verdicts_come_in_the_order_of_the_jobs(pool):
    jobs = [(rule, str(i), str(i - i % 3)) for i in range(30) for rule in checkers.RULES]
    assert pool.check_all(jobs) == [int(given) % 3 == 0 for _, given, _ in jobs]
    assert pool.check_all([]) == []


@pytest.mark.parametrize("rule", checkers.RULES)
def test_a_comparison_that_hangs_returns_within_its_limit(pool, rule):
    assert pool.check(rule, "1", "1") is True  # the worker is up
    start, killed = time.monotonic(), pool.num_killed
    assert pool.check(rule, *HANGS[rule]) is None
    assert time.monotonic() - start < pool.limit_s + checkers.GRACE_S + 0.5
    assert pool.check(rule, "7", "7") is True
    assert pool.num_killed == killed  # an alarm was enough


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_does_not_answer_is_replaced(pool, number):
    pool.check_all([("rules", "x", "y")] * 2)
    before, killed = pool.num_killed, pool._workers[0]._process
    others = pool._workers[1:]
    for worker in pool._workers:
        if worker._process is killed:
            os.kill(killed.pid, number)
    verdicts = pool.check_all([("rules", str(i), str(i)) for i in range(6)])
    assert sorted(verdicts, key=str) == [None] + [True] * 5
    assert pool.num_killed == before + 1
    assert killed.poll() is not None  # nothing is left behind
    assert pool._workers[1:] == others
    assert pool.check_all([("rules", "1", "1")] * 4) == [True] * 4


def test_closing_ends_the_workers(pool):
    pool.check("rules", "1", "1")
    processes = [worker._process for worker in pool._workers]
    pool.close()
    assert processes and all(process.poll() is not None for process in processes)
    assert pool.check("rules", "1", "1") is True


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "sympy.py").write_text("raise ImportError('no sympy in this place')")
    monkeypatch.setattr(checkers.sys, "executable", _python_that_imports_from(tmp_path))
    with pytest.raises(OSError, match=r"did not start: .*no sympy in this place"):
        checkers.Checkers(1).check("rules", "1", "1")


def _python_that_imports_from(folder) -> str:
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH="{folder}:$PYTHONPATH" exec "{checkers.sys.executable}" "$@"\n'
    )
    script.chmod(0o755)
    return str(script)
