"""The student on disk: its adapter as a PEFT folder, or merged as a Hugging Face model folder.

A folder is written under another name and renamed when it is complete, so a failure leaves the old
folder, if there was one (`lock.replace_folder`). A full disk raises OSError. With several processes
all of them call these functions, because each holds a part of the arrays; process 0 writes.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from powerjax.distill import run_folder
from powerjax.models import LM, checkpoint, lora, peft
from powerjax.parallel import processes
from powerjax.records import lock

_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


def save_adapter(folder: str | os.PathLike, lm: LM, adapter: lora.Adapter) -> None:
    """Writes the adapter of `lm` as `models.load(..., adapter=folder)` and PEFT can read it."""
    whole = dataclasses.replace(adapter, params=_gathered(adapter.params))
    _write(folder, lambda partial: peft.save(partial, whole, lm.config, base_model=lm.name))


def save_merged(
    folder: str | os.PathLike,
    lm: LM,
    adapter: lora.Adapter,
    *,
    revision: str | None = None,
    donate: bool = False,
) -> None:
    """Writes a model folder: the weights with the adapter added, the tokenizer and the configs.

    Args:
      folder: where to.
      lm: the base model.
      adapter: the adapter to add.
      revision: the revision that `lm` was loaded with, where its name is a Hugging Face id.
      donate: reuse the memory of the weights; `lm` must then not be used afterwards.
    """
    source = checkpoint.find_folder(lm.name, revision=revision, weights=False)
    merged = dataclasses.replace(lm, adapter=adapter).merged(donate=donate)
    params = _gathered(merged.params)

    def write(partial: Path) -> None:
        checkpoint.save(partial, lm.config, params, stop_ids=lm.stop_ids)
        for name in _TEXT_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
        if source.is_file() and lm.tokenizer is not None:  # a GGUF file
            lm.tokenizer.save_pretrained(partial)

    _write(folder, write)


def _gathered(tree: dict) -> dict:
    """Returns the arrays as process 0 can write them.

    With several processes, each of which holds a part, these are NumPy's on process 0, and None on
    the others.
    """
    if jax.process_count() == 1:
        return tree

    def gather(x):
        x = multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x) if processes.is_main() else None

    return jax.tree.map(gather, tree)


def _write(folder: str | os.PathLike, write: Callable[[Path], None]) -> None:
    """Has process 0 replace the folder by one that `write` fills, while the others wait."""

    def replace() -> None:
        with run_folder.disk_errors(folder):
            lock.replace_folder(folder, write)

    on_main(replace)


def on_main(action: Callable[[], None]) -> None:
    """Runs an action on process 0 while the others wait.

    Raises on process 0 whatever the action raised, and then ValueError on the other processes.
    """
    problem = None
    if processes.is_main():
        try:
            action()
        except Exception as error:
            problem = error
    failed = multihost_utils.broadcast_one_to_all(np.int32(problem is not None))
    if problem is not None:
        raise problem
    if failed:
        raise ValueError("process 0 could not go on, and says why")
