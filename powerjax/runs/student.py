"""The student of a run: an adapter that is trained on a teacher's records."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from powerjax import distill, records
from powerjax.distill import metrics
from powerjax.models import LM
from powerjax.models.lora import Adapter, LoraConfig
from powerjax.runs.prompts import Prompt, recover_prompts
from powerjax.tasks import Problem


def train_student(
    lm: LM,
    teacher: Path,
    folder: Path,
    *,
    learning_rate: float,
    problems: Sequence[Problem] = (),
    epochs: int = 3,
    batch_size: int = 8,
    max_length: int = 1024,
    schedule: str = "constant",
    lora_config: LoraConfig | None = None,
    seed: int = 0,
    remat: bool = True,
    progress: bool = True,
) -> tuple[LM, distill.Trained]:
    """Trains an adapter on the records of a teacher (Algorithm 1).

    Training that was stopped goes on from its last checkpoint, and one that was finished is loaded.

    Args:
      lm: the model, which is the base of the student.
      teacher: the record file.
      folder: where checkpoints, metrics and the adapter's PEFT folder `adapter` are kept.
      learning_rate: the highest learning rate, which the warm-up ends at.
      problems: the problems as the teacher was prompted with them; records of secret problems hold
        no prompts.
      epochs: passes through the records, in batches of `batch_size` records.
      max_length: tokens of prompt and completion; a longer example is cut there.
      schedule: "constant" after the warm-up, or "linear", which falls to 0.
      lora_config: the adapter's shape; None for the defaults.
      seed: decides the adapter's first weights, the dropout and the order of the records.
      remat: whether activations are computed again in the backward pass, to save memory.

    Returns the model with the adapter, and what training left (`distill.Trained`).

    Raises ValueError where records cannot be learnt from, or `folder` holds another training.
    """
    corpus = distill.load(lm, with_prompts(teacher, problems), max_length=max_length)
    settings = distill.Settings(
        learning_rate=learning_rate,
        num_steps=epochs * distill.num_batches(corpus, batch_size),
        schedule=schedule,
        seed=seed,
        remat=remat,
    )
    trained = distill.train(
        lm,
        corpus,
        lora_config or LoraConfig(),
        settings,
        folder,
        batch_size=batch_size,
        resume=True,
        progress=progress,
    )
    distill.save_adapter(folder / "adapter", lm, trained.adapter)
    adapter = _as_loaded(trained.adapter, folder / "adapter", lm)
    return dataclasses.replace(lm, adapter=adapter), trained


def _as_loaded(adapter: Adapter, folder: Path, lm: LM) -> Adapter:
    """Returns a trained adapter as `models.load` would make it of its folder.

    The adapter of a model without a mesh lies on the default device. If it stayed on the mesh of
    its training, samplers would compile their programs anew for it.
    """
    params = adapter.params
    if lm.mesh is None:
        params = jax.tree.map(jnp.asarray, jax.device_get(params))
    return dataclasses.replace(adapter, name=str(folder), params=params)


def with_prompts(path: Path, problems: Sequence[Problem]) -> Path | list[records.Record]:
    """Returns a file's records in a form that `distill.load` reads, each with its prompt.

    If all records hold their prompts, the result is `path` itself. Otherwise it is a list of the
    records, in which the prompts of secret problems are filled in.

    problems: the problems as the records' model was prompted with them (`prompts.prompted`).

    Raises ValueError where a record holds no prompt, and none of the problems' prompts is the one
    that it was made with.
    """
    drawn = records.read(path)
    if all(record.get("prompt") is not None for record in drawn):
        return path
    recovered = recover_prompts(drawn, problems)

    def filled(record: records.Record, prompt: Prompt | None) -> records.Record:
        if record.get("prompt") is not None:
            return record
        if prompt is None:
            raise ValueError(
                f"{path}: the record {record.get('id')!r} holds no prompt, and it was not made with"
                " that of these problems: give the task and the chat template it was sampled with"
            )
        return {**record, "prompt": prompt}

    return [filled(*pair) for pair in zip(drawn, recovered, strict=True)]


def losses(folder: Path) -> tuple[int, float, float]:
    """Returns (steps, first loss, last loss) of the student that was trained in `folder`.

    The losses are those of the first and the last step, in nats per token.
    """
    rows = records.read(folder / metrics.METRICS)
    return len(rows), rows[0]["loss"], rows[-1]["loss"]
