"""A table's rows from one model: sampled, graded and summarised, each in a record file of its own.

And the student among the models: trained on a teacher's records where it is not there yet.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax import distill, evaluate, launch, records
from powerjax.models import LM
from powerjax.models.lora import LoraConfig
from powerjax.tasks import Problem, Task


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: a sampler with its keywords, on one model ("Base", "RandW", ...)."""

    model: str
    name: str
    sampler: str
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """The row's name in file names and record ids."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def path(self, folder: Path) -> Path:
        """Its record file in a run folder."""
        return folder / "records" / f"{self.model.lower()}_{self.slug}.jsonl"


def measure(
    lm: LM,
    problems: Sequence[Problem],
    row: Row,
    folder: Path,
    *,
    task: Task,
    progress: bool = True,
):
    """Draws what the row's record file lacks: (evaluate.Result, the sampler's stats or None)."""
    path = row.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.RecordFile(path) as file:
        stats = launch.collect(
            lm,
            problems,
            file,
            task=task,
            model=launch.model_name(lm, random_weights=row.model == "RandW"),
            sampler=row.sampler,
            label=row.slug,
            settings=row.settings,
            progress=progress,
        )
        made = file.records
    return evaluate.Result(row.model, row.name, made, evaluate.summarize(made)), stats


def student(
    lm: LM,
    teacher: Path,
    folder: Path,
    *,
    learning_rate: float,
    epochs: int = 3,
    batch_size: int = 8,
    max_length: int = 1024,
    lora_config: LoraConfig | None = None,
    seed: int = 0,
    remat: bool = True,
    progress: bool = True,
) -> tuple[LM, distill.Trained]:
    """The model with an adapter trained on the records of `teacher` (Algorithm 1).

    Checkpoints, metrics and the adapter's PEFT folder go to `folder`; a run that was stopped goes
    on from its last checkpoint, and one that was finished is loaded.
    """
    corpus = distill.load(lm, teacher, max_length=max_length)
    settings = distill.Settings(
        learning_rate=learning_rate,
        num_steps=epochs * distill.num_batches(corpus, batch_size),
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
