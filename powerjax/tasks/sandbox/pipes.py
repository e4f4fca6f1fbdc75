"""Reads what the two processes of a run write, until the tester gives its verdict."""

from __future__ import annotations

import os
import selectors
import time

from powerjax.tasks.sandbox.confined import plain
from powerjax.tasks.sandbox.limits import Limits

_READ_BYTES = 1 << 16
_TAIL_BYTES = 1 << 16
_LAST_WORDS_S = 5.0


def watch(
    verdict: int, tails: dict[int, bytes], limits: Limits, deadline: float
) -> tuple[str, str] | None:
    """Returns (status, message): the tester's, or those of a limit that was broken before.

    None if the tests did not start before the tester ended or the time was over.

    Args:
      verdict: the file descriptor of the pipe to which the tester writes.
      tails: the file descriptor of each pipe of other output -> the end of what it has given. What
        is read is added here.
      limits: the limits of the program.
      deadline: the time of `time.monotonic()` at which the tests must have started.

    Raises:
      ValueError: the tests themselves do not run.
    """
    received, num_written, started = b"", 0, False
    with selectors.DefaultSelector() as selector:
        for pipe in (verdict, *tails):
            selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data = os.read(key.fd, _READ_BYTES)
                # --- output of the program, or a complaint of the tester ---
                if key.fd != verdict:
                    num_written += len(data)
                    tails[key.fd] = (tails[key.fd] + data)[-_TAIL_BYTES:]
                    if not data:
                        selector.unregister(key.fd)
                    if started and num_written > limits.output_bytes:
                        return "output", f"more than {limits.output_bytes:,} bytes of output"
                    continue
                # --- a message of the tester: first "started", then the verdict ---
                received += data
                for status, message in _messages(received)[started:]:
                    if status == "broken":
                        raise ValueError(message)
                    if status != "started":
                        return status, message
                    started, deadline = True, time.monotonic() + limits.wall_s
                if not data:
                    return ("failed", "the tests ran out of memory or time") if started else None
    return ("timeout", f"not done after {limits.wall_s:g} s") if started else None


def read_rest(tails: dict[int, bytes]) -> None:
    """Adds to `tails` what is still written to its pipes, until their writers end.

    A reason may be written after the verdict's pipe has been closed, and read later still. So the
    pipes are read until the last process that can write to them has ended, for a few seconds at
    most.
    """
    deadline = time.monotonic() + _LAST_WORDS_S
    with selectors.DefaultSelector() as selector:
        for pipe in tails:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if data := os.read(key.fd, _READ_BYTES):
                    tails[key.fd] = (tails[key.fd] + data)[-_TAIL_BYTES:]
                else:
                    selector.unregister(key.fd)


def _messages(received: bytes) -> list[tuple[str, str]]:
    """Returns the complete messages in what the tester has written so far."""
    messages = []
    while len(received) >= 4 and len(received) >= (end := 4 + int.from_bytes(received[:4], "big")):
        messages.append(plain.decode(received[4:end]))
        received = received[end:]
    return messages
