"""Epochs of training steps, with checkpoints and metrics: a run that can be killed at any moment.

A run folder holds checkpoints/ (Orbax), metrics.jsonl (a line per step) and tensorboard/. Batches
and dropout are functions of (seed, step), and a checkpoint is the whole State, so a run that is
resumed ends in the same adapter; on the same mesh bit for bit.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from powerjax.distill import batches, checkpoints, metrics, run_folder
from powerjax.distill import step as step_lib

# Earlier versions had the next four names here.
from powerjax.distill.checkpoints import CHECKPOINTS as CHECKPOINTS
from powerjax.distill.checkpoints import check as check
from powerjax.distill.checkpoints import identity as identity
from powerjax.distill.checkpoints import last_step as last_step
from powerjax.distill.corpus import Corpus
from powerjax.distill.signals import Signals, Stopped
from powerjax.models import LM, lora
from powerjax.parallel import mesh as mesh_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What `train` returns.

    Attributes:
      adapter: the student's adapter, on the model's mesh.
      num_steps: optimizer steps of the whole run.
      num_done: optimizer steps of this call; fewer where it went on from a checkpoint.
      first_loss: mean -log p per completion token on the run's first batch; None where the run was
        done before this call, and its metrics.jsonl is gone.
      last_loss: the same on the run's last batch.
      num_tokens: tokens of prompts and completions in this call, padding left out.
      seconds: wall time of this call's steps, compilation included.
    """

    adapter: lora.Adapter
    num_steps: int
    num_done: int
    first_loss: float | None
    last_loss: float | None
    num_tokens: int
    seconds: float


def train(
    lm: LM,
    corpus: Corpus,
    lora_config: lora.LoraConfig,
    settings: step_lib.Settings,
    folder: str | os.PathLike,
    *,
    batch_size: int = 8,
    tokens_per_device: int | None = None,
    save_steps: int = 100,
    keep: int = 2,
    resume: bool = False,
    progress: bool = True,
) -> Trained:
    """Trains an adapter on settings.num_steps batches of the corpus.

    Every process of a run calls this, with the same arguments and a folder that all can see.

    Args:
      lm: the model to adapt, on the mesh to train on (one device where it has none).
      settings: its num_steps is epochs * `batches.num_batches(corpus, batch_size)`.
      folder: where checkpoints and metrics go.
      batch_size, tokens_per_device: see `batches.grid`.
      save_steps: steps between checkpoints; the last step has one in any case.
      keep: how many checkpoints stay; older ones are deleted.
      resume: go on from the last checkpoint, if there is one.

    Raises:
      ValueError: `checkpoints.check` refuses the folder, the batch does not divide over the mesh,
        or the loss is not finite.
      OSError: the disk is full.
      Stopped: Ctrl-C or SIGTERM came. The checkpoint is on disk.
    """
    if lm.adapter is not None:
        raise ValueError(f"{lm.name} has an adapter already: take lm.merged() to train another")
    folder = Path(folder).absolute()
    run = checkpoints.identity(lm, corpus, lora_config, settings, batch_size=batch_size)
    checkpoints.check(folder, run, resume=resume)
    checkpoints.check_processes(run)
    mesh = lm.mesh or mesh_lib.make_mesh(devices=jax.tree.leaves(lm.params)[0].devices())
    feed = _Feed(corpus, settings, mesh, batch_size, tokens_per_device)
    take_step = step_lib.make_step(lm, lora_config, settings, mesh, longest=feed.longest)
    with (
        run_folder.disk_errors(folder),
        checkpoints.checkpointer(folder, keep) as checkpointer,
        Signals() as signals,
    ):
        state = checkpoints.start(checkpointer, lm, lora_config, settings, mesh)
        with metrics.Log(folder, int(state.step), settings.num_steps, progress=progress) as log:
            states = _steps(take_step, lm.params, state, feed, log)
            for step, state in states:
                stop = signals.at(step)
                if stop or step % save_steps == 0 or step == settings.num_steps:
                    log.flush()  # metrics are written, and the loss is found finite, first
                    checkpointer.save_async(step, state, force=True, custom_metadata=run)
                if stop and step < settings.num_steps:
                    checkpointer.wait()
                    raise Stopped(step, stop)
            checkpointer.wait()
    return _trained(lora.Adapter(lora_config, state.adapter), settings, log)


def _steps(
    take_step: Callable, params: dict, state: step_lib.State, feed: "_Feed", log: metrics.Log
) -> Iterator[tuple[int, step_lib.State]]:
    """Takes the steps that the state has not taken, and yields (its number, from 1; state) of each.

    A state is donated to the next step, so it may be used only until then.
    """
    for step, epoch, indices in _order(
        feed.corpus, feed.settings, feed.batch_size, int(state.step)
    ):
        state, numbers = take_step(state, params, feed.batch(indices))
        log.add(step, epoch, feed.num_tokens(indices), numbers)
        yield step, state


@dataclasses.dataclass(frozen=True)
class _Feed:
    """Where a run's batches come from.

    tokens_per_device: the most tokens a device computes at a time, or None; see `batches.grid`.
    """

    corpus: Corpus
    settings: step_lib.Settings
    mesh: Mesh
    batch_size: int
    tokens_per_device: int | None

    def __post_init__(self):
        """Raises ValueError, before any work, where a batch does not divide over the mesh."""
        batches.grid(1, batch_size=self.batch_size, data_size=self.mesh.shape["data"])

    @property
    def longest(self) -> int:
        """The tokens of the longest example."""
        return max(map(len, self.corpus.examples))

    def num_tokens(self, indices: np.ndarray) -> int:
        """Returns how many tokens the examples of a batch have, padding left out."""
        return sum(len(self.corpus.examples[i]) for i in indices)

    def batch(self, indices: np.ndarray) -> step_lib.Batch:
        """Returns these examples as global arrays on the mesh."""
        return batches.make_batch(
            self.corpus,
            indices,
            batch_size=self.batch_size,
            data_size=self.mesh.shape["data"],
            tokens_per_device=self.tokens_per_device,
            sharding=step_lib.batch_sharding(self.mesh),
        )


def _order(
    corpus: Corpus, settings: step_lib.Settings, batch_size: int, done: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (number from 1, epoch from 0, indices of its examples) of each step after `done`."""
    per_epoch = batches.num_batches(corpus, batch_size)
    epoch, drawn = None, []
    for index in range(done, settings.num_steps):
        if epoch != index // per_epoch:
            epoch = index // per_epoch
            drawn = batches.epoch_batches(
                corpus, batch_size=batch_size, seed=settings.seed, epoch=epoch
            )
        yield index + 1, epoch, drawn[index % per_epoch]


def _trained(adapter: lora.Adapter, settings: step_lib.Settings, log: metrics.Log) -> Trained:
    """Returns what `train` returns, with the numbers that the log has kept."""
    losses = {"first_loss": log.first_loss, "last_loss": log.last_loss}
    cost = {"num_tokens": log.num_tokens, "seconds": log.seconds}
    return Trained(adapter, settings.num_steps, num_done=log.num_done, **losses, **cost)
