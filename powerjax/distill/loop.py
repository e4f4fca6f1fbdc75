"""Epochs of training steps, with checkpoints and metrics: a run that can be killed at any moment.

A run folder holds checkpoints/ (Orbax), metrics.jsonl (a line for every step) and tensorboard/.
Batches and dropout are functions of (seed, step), and a checkpoint is the whole State, so a run
that is taken up again ends in the same adapter, bit for bit on the same mesh.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from powerjax import records
from powerjax.distill import data, metrics, run_folder
from powerjax.distill import step as step_lib
from powerjax.models import LM, lora
from powerjax.parallel import mesh as mesh_lib

CHECKPOINTS = "checkpoints"


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the run after a whole step, and that step's checkpoint is on disk."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"stopped after step {step}; its checkpoint is safe")
        self.step = step
        self.signal_number = signal_number


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What `train` returns.

    Attributes:
      adapter: the student, on the model's mesh.
      num_steps: optimizer steps of the run; num_done: those of this call.
      first_loss, last_loss: mean -log p per completion token, of the run's first and last batch.
      num_tokens: of prompts and completions, without padding, in this call.
      seconds: wall time of this call's steps, their compilation included.
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
    corpus: data.Corpus,
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
    """Trains an adapter on the corpus, settings.num_steps batches of it.

    Every process of a run calls this, with the same arguments and a folder that all of them see.

    Args:
      lm: the model to adapt, on the mesh to train on (one device where it has none).
      settings: with num_steps = epochs * `data.num_batches(corpus, batch_size)`.
      folder: where checkpoints and metrics go.
      batch_size: examples an optimizer step, on any mesh.
      tokens_per_device: what one device takes through the model at a time, at least one example;
        None: see `data.grid`.
      save_steps: steps between checkpoints; the end is one in any case.
      keep: how many checkpoints stay; older ones are deleted.
      resume: go on from the last checkpoint, where there is one.

    Raises:
      ValueError: what `check` finds, a batch that does not divide over the mesh, a loss that is not
        finite; OSError: a full disk.
      Stopped: after Ctrl-C or SIGTERM, once the checkpoint is on disk.
    """
    if lm.adapter is not None:
        raise ValueError(f"{lm.name} has an adapter already: take lm.merged() to train another")
    folder = Path(folder).absolute()
    run = identity(lm, corpus, lora_config, settings, batch_size=batch_size)
    check(folder, run, resume=resume)
    _check_processes(run)
    mesh = lm.mesh or mesh_lib.make_mesh(devices=jax.tree.leaves(lm.params)[0].devices())
    data.grid(1, batch_size=batch_size, data_size=mesh.shape["data"])  # raises before the work
    longest = max(map(len, corpus.examples))
    take_step = step_lib.make_step(lm, lora_config, settings, mesh, longest=longest)
    num_done = num_tokens = 0
    with (
        run_folder.disk_errors(folder),
        _checkpointer(folder, keep) as checkpointer,
        _Signals() as signals,
    ):
        state = _start(checkpointer, lm, lora_config, settings, mesh)
        log = metrics.Log(folder, int(state.step), settings.num_steps, progress=progress)
        with log:
            for step, epoch, indices in _order(corpus, settings, batch_size, int(state.step)):
                batch = data.make_batch(
                    corpus,
                    indices,
                    batch_size=batch_size,
                    data_size=mesh.shape["data"],
                    tokens_per_device=tokens_per_device,
                    sharding=step_lib.batch_sharding(mesh),
                )
                state, found = take_step(state, lm.params, batch)
                size = sum(len(corpus.examples[i]) for i in indices)
                num_done, num_tokens = num_done + 1, num_tokens + size
                log.add(step, epoch, size, found)
                stop = signals.at(step)
                if stop or step % save_steps == 0 or step == settings.num_steps:
                    log.flush()  # a step is on record, and finite, before its checkpoint is
                    checkpointer.save_async(step, state, force=True, custom_metadata=run)
                if stop and step < settings.num_steps:
                    checkpointer.wait()
                    raise Stopped(step, stop)
            checkpointer.wait()
    return Trained(
        adapter=lora.Adapter(lora_config, state.adapter),
        num_steps=settings.num_steps,
        num_done=num_done,
        first_loss=log.first_loss,
        last_loss=log.last_loss,
        num_tokens=num_tokens,
        seconds=log.seconds,
    )


def identity(
    lm: LM,
    corpus: data.Corpus,
    lora_config: lora.LoraConfig,
    settings: step_lib.Settings,
    *,
    batch_size: int,
) -> dict[str, Any]:
    """Everything that decides what a run ends in, as JSON has it; the mesh is not part of it."""
    found = {
        "model": Path(lm.name).name,
        "dtype": lm.dtype.name,
        "max_length": corpus.max_length,
        "batch_size": batch_size,
        "corpus": corpus.fingerprint,
        **{f"lora_{k}": v for k, v in dataclasses.asdict(lora_config).items()},
        **dataclasses.asdict(settings),
        "weights": lm.fingerprint,  # last: what else differs, dtype say, explains more
    }
    del found["remat"]  # changes speed and memory
    return json.loads(records.encode(found))  # NumPy's numbers too


def check(folder: str | os.PathLike, run: dict[str, Any] | None, *, resume: bool) -> None:
    """Raises ValueError if the folder's checkpoints are not for this run to go on from.

    run: what `identity` returned, or None where it is not known yet. Changes nothing on disk.
    """
    step = last_step(folder)
    if step is None:
        return
    if not resume:
        raise ValueError(
            f"{folder} holds a checkpoint of step {step}: add --resume to go on from there, or"
            " choose another --out"
        )
    if run is None:
        return
    from orbax.checkpoint import v1 as ocp  # here, because it is slow to import

    path = Path(folder).absolute() / CHECKPOINTS / str(step)
    with _readable(path):
        before = ocp.metadata(path).custom_metadata or {}
    for name in run:
        if before.get(name) == run[name]:
            continue
        what = "of a run on other examples"
        if name == "weights":
            what = (
                f"of a run on other weights under the name {run['model']} (--model, --revision and"
                " --random_weights decide them)"
            )
        elif name != "corpus":
            what = f"of a run with {name}={before.get(name)}, and this one has {run[name]}"
        raise ValueError(
            f"the checkpoints in {folder} are {what}: choose another --out, or give the flags and"
            " the records they were made with"
        )


def last_step(folder: str | os.PathLike) -> int | None:
    """The step of the folder's last whole checkpoint; None where it has none."""
    found = (Path(folder) / CHECKPOINTS).glob("*")
    return max((int(p.name) for p in found if p.is_dir() and p.name.isdecimal()), default=None)


def _check_processes(run: dict[str, Any]) -> None:
    """Raises ValueError, on all processes, where one of them read other records, say."""
    digest = hashlib.sha256(json.dumps(run).encode()).digest()
    found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    if jax.process_count() > 1 and (found != found[0]).any():
        raise ValueError(
            "the processes of this run have different records or settings: give all of them the"
            " same, and one and the same state of the model's folder"
        )


def _order(
    corpus: data.Corpus, settings: step_lib.Settings, batch_size: int, done: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(number of the step, from 1; epoch, from 0; its examples) of each step after `done`."""
    per_epoch = data.num_batches(corpus, batch_size)
    epoch, batches = None, []
    for index in range(done, settings.num_steps):
        if epoch != index // per_epoch:
            epoch = index // per_epoch
            batches = data.epoch_batches(
                corpus, batch_size=batch_size, seed=settings.seed, epoch=epoch
            )
        yield index + 1, epoch, batches[index % per_epoch]


def _checkpointer(folder: Path, keep: int):
    """Orbax's checkpointer; what a killed save left behind is cleaned up."""
    from orbax.checkpoint import v1 as ocp

    return ocp.training.Checkpointer(
        folder / CHECKPOINTS,
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=True,
    )


def _start(checkpointer, lm: LM, lora_config, settings, mesh) -> step_lib.State:
    """The State to go on from: the last checkpoint's, laid out on this mesh, or a fresh one."""
    if checkpointer.latest is None:
        return step_lib.init_state(lm.config, lora_config, settings, mesh)
    wanted = step_lib.abstract_state(lm.config, lora_config, settings, mesh)
    with _readable(checkpointer.latest.path):
        return checkpointer.load(checkpointer.latest.step, wanted)


@contextlib.contextmanager
def _readable(path):
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the checkpoint {path} cannot be read ({reason}); delete that folder to go on from the"
            " one before it"
        ) from error


class _Signals:
    """Ctrl-C and SIGTERM take effect between two steps; a second Ctrl-C at once.

    With several processes a signal to one of them stops all after the same step: JAX's pre-emption
    service, which owns SIGTERM there, spreads the word.
    """

    def __init__(self):
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def at(self, step: int) -> int:
        """The signal to stop for after this step, or 0."""
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
