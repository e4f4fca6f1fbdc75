"""The numbers of each training step: in metrics.jsonl, for TensorBoard, and on a progress bar."""

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import jax

from powerjax import records
from powerjax.records import lock
from powerjax.records.progress import progress_bar

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Log:
    """Writes a line of metrics.jsonl, and TensorBoard's scalars, for each step.

    A step's numbers are read when the next step is under way, so that the device never waits for
    the host. Process 0 alone writes; every process knows the numbers.

    A line holds: step (from 1), epoch (from 0), loss (mean -log p per completion token before the
    update), num_tokens (completion tokens), grad_norm, learning_rate, seconds (of the step,
    compilation included), tokens_per_s (tokens of prompts and completions, padding left out).

    Attributes:
      first_loss, last_loss: the losses of the run's first and latest step; None before these.
      num_done, num_tokens: the steps that `add` took, and their tokens.
      seconds: wall time of the steps written by this object.
    """

    def __init__(self, folder: Path, done: int, num_steps: int, *, progress: bool = True):
        """Opens the files.

        Args:
          folder: the run folder.
          done: the step of the checkpoint to go on from. Lines of later steps are cut off.
          num_steps: steps of the whole run.
          progress: whether process 0 shows a progress bar.
        """
        self.seconds = 0.0
        self.num_done = self.num_tokens = 0
        self._path = folder / METRICS
        self._pending: tuple[int, int, int, Any] | None = None
        rows = records.read(self._path, needs=("step", "loss")) if self._path.exists() else []
        rows = [row for row in rows if row["step"] <= done]
        self.first_loss = rows[0]["loss"] if rows else None
        self.last_loss = rows[-1]["loss"] if rows else None
        self._writes = jax.process_index() == 0
        self._file = self._board = None
        if self._writes:
            self._rewrite(rows)
            self._file = self._path.open("a", encoding="utf-8")
            self._board = _board(folder / TENSORBOARD, done)
        self._bar = progress_bar(
            total=num_steps,
            initial=done,
            desc="distilling",
            unit="step",
            show=progress and self._writes,
        )
        self._since = time.monotonic()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        for file in (self._file, self._board):
            if file is not None:
                file.close()

    def add(self, step: int, epoch: int, size: int, metrics) -> None:
        """Takes the numbers of a step that was just dispatched, and writes the step before it.

        Args:
          step: its number, from 1.
          epoch: its epoch, from 0.
          size: the tokens of its examples, padding left out.
          metrics: the `step.Metrics` that it returned; they may still be computed.
        """
        self._write()
        self.num_done, self.num_tokens = self.num_done + 1, self.num_tokens + size
        self._pending = (step, epoch, size, metrics)

    def flush(self) -> None:
        """Waits for the last step, and returns when its line is on disk.

        Raises ValueError if its loss or gradient is not finite.
        """
        self._write()
        if self._file is not None:
            os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def _write(self) -> None:
        """Waits for the pending step, if there is one, and writes its numbers everywhere."""
        if self._pending is None:
            return
        (step, epoch, size, metrics), self._pending = self._pending, None
        numbers = {name: value.item() for name, value in jax.device_get(metrics)._asdict().items()}
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self.seconds += seconds
        if not (math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])):
            raise ValueError(
                f"step {step}: the loss is {numbers['loss']}, its gradient's norm"
                f" {numbers['grad_norm']}: try a smaller --learning_rate, or --max_grad_norm=1;"
                " the checkpoints before it are kept"
            )
        row = {"step": step, "epoch": epoch, **numbers}
        row |= {"tokens_per_s": size / seconds, "seconds": seconds}
        self.first_loss = numbers["loss"] if self.first_loss is None else self.first_loss
        self.last_loss = numbers["loss"]
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for name in (*numbers, "tokens_per_s"):
                self._board.add_scalar(name, row[name], step)
        shown = {"loss": f"{row['loss']:.4f}", "tokens/s": f"{row['tokens_per_s']:,.0f}"}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        lock.replace_file(self._path, "".join(json.dumps(row) + "\n" for row in rows))


def _board(folder: Path, done: int):
    """Returns TensorBoard's writer, or None where it is not installed.

    TensorBoard then shows this start's numbers, not an earlier start's, for steps after `done`.
    """
    try:
        from tensorboardX import SummaryWriter  # here, because it is slow to import
    except ImportError:
        log.warning("no TensorBoard files: pip install tensorboardX")
        return None
    return SummaryWriter(
        str(folder), purge_step=done + 1, flush_secs=30, filename_suffix=f".{done}"
    )
