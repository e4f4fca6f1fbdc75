"""Checkpoints of a training run: the run that they belong to, the last one, and loading it."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from powerjax import records
from powerjax.distill import step as step_lib
from powerjax.distill.corpus import Corpus
from powerjax.models import LM, lora

CHECKPOINTS = "checkpoints"  # the folder of them, within a run folder


def identity(
    lm: LM,
    corpus: Corpus,
    lora_config: lora.LoraConfig,
    settings: step_lib.Settings,
    *,
    batch_size: int,
) -> dict[str, Any]:
    """Returns everything that decides what a run ends in, as values that JSON has.

    The mesh is not part of it, nor is anything else that changes speed and memory alone.
    """
    facts = {
        "model": Path(lm.name).name,
        "dtype": lm.dtype.name,
        "max_length": corpus.max_length,
        "batch_size": batch_size,
        "corpus": corpus.fingerprint,
        **{f"lora_{k}": v for k, v in dataclasses.asdict(lora_config).items()},
        **dataclasses.asdict(settings),
        # Last: `check` names the first fact that differs, and any other one explains more.
        "weights": lm.fingerprint,
    }
    del facts["remat"]  # changes speed and memory
    return json.loads(records.encode(facts))  # NumPy's numbers become Python's


def check(folder: str | os.PathLike, run: dict[str, Any] | None, *, resume: bool) -> None:
    """Raises ValueError if the folder has checkpoints and this run may not go on from them.

    It changes nothing on disk.

    Args:
      folder: the run folder.
      run: what `identity` returned; None where it is not known yet, and only `resume` is checked.
      resume: whether the user asked to go on from a checkpoint.
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


def check_processes(run: dict[str, Any]) -> None:
    """Raises ValueError, in all processes, where they do not all have the same `identity`."""
    digest = hashlib.sha256(json.dumps(run).encode()).digest()
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    if jax.process_count() > 1 and (digests != digests[0]).any():
        raise ValueError(
            "the processes of this run have different records or settings: give all of them the"
            " same, and one and the same state of the model's folder"
        )


def last_step(folder: str | os.PathLike) -> int | None:
    """Returns the step of the run folder's last whole checkpoint, or None where it has none."""
    paths = (Path(folder) / CHECKPOINTS).glob("*")
    return max((int(p.name) for p in paths if p.is_dir() and p.name.isdecimal()), default=None)


def checkpointer(folder: Path, keep: int):
    """Returns Orbax's checkpointer of the run folder, which removes what a killed save left behind.

    keep: how many checkpoints stay; older ones are deleted.
    """
    from orbax.checkpoint import v1 as ocp

    return ocp.training.Checkpointer(
        folder / CHECKPOINTS,
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=True,
    )


def start(
    checkpointer,
    lm: LM,
    lora_config: lora.LoraConfig,
    settings: step_lib.Settings,
    mesh: Mesh,
) -> step_lib.State:
    """Returns the State to go on from: the last checkpoint's, on this mesh, or else a fresh one.

    Raises ValueError where the checkpoint cannot be read.
    """
    if checkpointer.latest is None:
        return step_lib.init_state(lm.config, lora_config, settings, mesh)
    wanted = step_lib.abstract_state(lm.config, lora_config, settings, mesh)
    with _readable(checkpointer.latest.path):
        return checkpointer.load(checkpointer.latest.step, wanted)


@contextlib.contextmanager
def _readable(path: str | os.PathLike) -> Iterator[None]:
    """Turns whatever reading a checkpoint raises into one ValueError that says what to do."""
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the checkpoint {path} cannot be read ({reason}); delete that folder to go on from the"
            " one before it"
        ) from error
