"""The student of a run: trained on a teacher's records, or loaded where it was trained before."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from powerjax import distill, records
from powerjax.distill import metrics
from powerjax.models import LM
from powerjax.models.lora import LoraConfig
from powerjax.tasks import Problem
from powerjax.tasks.base import prompt_hash


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
    """The model with an adapter trained on the records of `teacher` (Algorithm 1).

    Checkpoints, metrics and the adapter's PEFT folder go to `folder`; a run that was stopped goes
    on from its last checkpoint, and one that was finished is loaded.

    problems: as they were asked; they give the prompts of records that hold none (secret ones).
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
    adapter = dataclasses.replace(trained.adapter, name=str(folder / "adapter"))
    return dataclasses.replace(lm, adapter=adapter), trained


def with_prompts(path: Path, problems: Sequence[Problem]):
    """The record file, or its records in memory where the problems have to give the prompts.

    Raises ValueError where a record holds no prompt and the problems do not have it either.
    """
    made = records.read(path)
    if all(record.get("prompt") is not None for record in made):
        return path
    by_hash = {prompt_hash(problem): problem.prompt for problem in problems}

    def filled(record: records.Record) -> records.Record:
        if record.get("prompt") is not None:
            return record
        prompt = by_hash.get(record.get("prompt_sha256"))
        if prompt is None:
            raise ValueError(
                f"{path}: the record {record.get('id')!r} holds no prompt, and it was not made with"
                " that of these problems: give the task and the chat template it was sampled with"
            )
        return {**record, "prompt": prompt}

    return [filled(record) for record in made]


def losses(folder: Path) -> tuple[int, float, float]:
    """(steps, first loss, last loss) of the student trained in `folder`."""
    rows = records.read(folder / metrics.METRICS)
    return len(rows), rows[0]["loss"], rows[-1]["loss"]
