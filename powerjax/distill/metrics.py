"""What a training run says of its steps: metrics.jsonl, TensorBoard event files, a progress bar."""

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

    A row: step (from 1), epoch (from 0), loss (mean -log p per completion token before the update),
    num_tokens (completion tokens), grad_norm, learning_rate, seconds (of the step, compilation
    included), tokens_per_s (of prompts and completions, padding left out).
    """

    def __init__(self, folder: Path, done: int, num_steps: int, *, progress: bool = True):
        """done: steps of the checkpoint to go on from; rows of later ones are cut off the file."""
        self.seconds = 0.0
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
        """Takes a step that was just dispatched, `size` tokens, and writes the one before it."""
        self._write()
        self._pending = (step, epoch, size, metrics)

    def flush(self) -> None:
        """Waits for the last step, and returns when its row is on disk.

        Raises ValueError if its loss or gradient is not finite.
        """
        self._write()
        if self._file is not None:
            os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def _write(self) -> None:
        if self._pending is None:
            return
        (step, epoch, size, metrics), self._pending = self._pending, None
        found = {name: value.item() for name, value in jax.device_get(metrics)._asdict().items()}
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self.seconds += seconds
        if not (math.isfinite(found["loss"]) and math.isfinite(found["grad_norm"])):
            raise ValueError(
                f"step {step}: the loss is {found['loss']}, its gradient's norm"
                f" {found['grad_norm']}: try a smaller --learning_rate, or --max_grad_norm=1; the"
                " checkpoints before it are kept"
            )
        row = {"step": step, "epoch": epoch, **found}
        row |= {"tokens_per_s": size / seconds, "seconds": seconds}
        self.first_loss = found["loss"] if self.first_loss is None else self.first_loss
        self.last_loss = found["loss"]
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for name in (*found, "tokens_per_s"):
                self._board.add_scalar(name, row[name], step)
        shown = {"loss": f"{row['loss']:.4f}", "tokens/s": f"{row['tokens_per_s']:,.0f}"}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        lock.replace_file(self._path, "".join(json.dumps(row) + "\n" for row in rows))


def _board(folder: Path, done: int):
    """TensorBoard's writer; on the same steps a later file overrules an earlier one."""
    try:
        from tensorboardX import SummaryWriter  # here, because it is slow to import
    except ImportError:
        log.warning("no TensorBoard files: pip install tensorboardX")
        return None
    return SummaryWriter(
        str(folder), purge_step=done + 1, flush_secs=30, filename_suffix=f".{done}"
    )
