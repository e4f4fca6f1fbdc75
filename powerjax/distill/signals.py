"""Ctrl-C and SIGTERM stop a training run between two steps."""

import os
import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the run after a whole step, and that step's checkpoint is on disk."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"stopped after step {step}; its checkpoint is safe")
        self.step = step
        self.signal_number = signal_number


class Signals:
    """Notes Ctrl-C and SIGTERM, so that the run can stop between two steps; see `at`.

    A second Ctrl-C raises KeyboardInterrupt at once. With several processes a signal to one of them
    stops all of them after the same step: JAX's pre-emption service, which handles SIGTERM there,
    tells the others.
    """

    def __init__(self):
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def at(self, step: int) -> int:
        """Returns the number of the signal to stop for after this step, or 0 to go on."""
        if jax.process_count() == 1:
            return self._received
        reached = multihost_utils.reached_preemption_sync_point(step)
        return (self._received or signal.SIGTERM) if reached else 0

    def _receive(self, number: int, frame) -> None:
        if self._received and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._received = number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
