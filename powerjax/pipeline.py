"""A table's rows from one model: sampled, graded and summarised, each in a record file of its own.

And the student among the models: trained on a teacher's records where it is not there yet.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax import distill, evaluate, grading, launch, planning, records, stages, text
from powerjax.distill import metrics
from powerjax.models import LM
from powerjax.models.lora import LoraConfig
from powerjax.tasks import CHAT, RAW, Problem, Task
from powerjax.tasks.base import prompt_hash


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: a sampler with its keywords, on one model ("Base", "RandW", ...)."""

    model: str
    name: str
    sampler: str
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """`Base Power`: its name among the rows of a run."""
        return f"{self.model} {self.name}"

    @property
    def slug(self) -> str:
        """The row's name in file names and record ids."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def path(self, folder: Path) -> Path:
        """Its record file in a run folder."""
        return folder / "records" / f"{self.model.lower()}_{self.slug}.jsonl"

    def verdicts(self, folder: Path) -> Path:
        """The file of its records' verdicts, where they are graded after sampling."""
        return folder / "verdicts" / self.path(folder).name

    def own(
        self, made: Sequence[records.Record], problems: Sequence[Problem]
    ) -> list[records.Record]:
        """Those of the records that are of these problems and of the row's passes."""
        wanted = {(p.id, i) for p in problems for i in range(self.settings["num_samples"])}
        return [r for r in made if (r.get("problem_id"), r.get("sample_index")) in wanted]

    def lacking(self, folder: Path, problems: Sequence[Problem]) -> int:
        """How many of its completions are not in its record file."""
        path = self.path(folder)
        made = records.read(path) if path.exists() else []
        return len(problems) * self.settings["num_samples"] - len(self.own(made, problems))

    def to_do(self, folder: Path, problems: Sequence[Problem]) -> planning.Stage:
        """What it lacks, for a plan."""
        return self.stage(self.lacking(folder, problems))

    def stage(self, num_chains: int) -> planning.Stage:
        """So many of its chains, for a plan."""
        s = self.settings
        return planning.Stage(
            self.label,
            num_chains,
            s["max_new_tokens"],
            s.get("block_size", s["max_new_tokens"]),
            s.get("num_mcmc_steps", 0),
            s.get("stop") == "horizon",
            self.model == "RandW",
        )


def asked(
    lm: LM, task: Task, problems: Sequence[Problem], chat_template: str = "auto"
) -> list[Problem]:
    """The problems as the model is to read them: in raw text, or in its chat template.

    chat_template: "on", "off", or "auto", as the paper asks such a model.
    """
    style, _ = prompt_choice(lm, task, chat_template)

    def read(problem: Problem) -> Problem:
        if style == RAW or not isinstance(problem.prompt, str):
            return problem
        prompt = text.format_prompt(lm.tokenizer, problem.prompt, chat=True)
        chat = CHAT if problem.style == RAW else f"{problem.style}, {CHAT}"
        return dataclasses.replace(problem, prompt=prompt, style=chat)

    return [read(problem) for problem in problems]


def prompt_choice(lm: LM, task: Task, chat_template: str = "auto") -> tuple[str, str]:
    """(RAW or CHAT, the reason), see `asked`."""
    if chat_template != "auto":
        return {"on": CHAT, "off": RAW}[chat_template], f"--chat_template={chat_template}"
    return task.prompt_choice(lm.name, text.has_chat_template(lm.tokenizer))


def note_prompts(folder: Path, lm: LM, tasks: Sequence[Task], chat_template: str = "auto") -> None:
    """Writes into the run's manifest how the model is asked each task, and why."""
    choices = {task.name: prompt_choice(lm, task, chat_template) for task in tasks}
    styles = {name: {"style": style, "why": why} for name, (style, why) in choices.items()}
    records.note_prompts(folder, styles)


def measure(
    lm: LM,
    problems: Sequence[Problem],
    row: Row,
    folder: Path,
    *,
    task: Task,
    progress: bool = True,
    grade: bool = False,
    unsafe_exec: bool = False,
):
    """Draws what the row's record file lacks: (evaluate.Result, the sampler's stats or None).

    grade: grade all records afterwards as well, by `grading.grade_records`, which gives second
      opinions; tasks that run programs are graded there in any case.
    unsafe_exec: for tasks that run programs, see `tasks.sandbox`.
    """
    path = row.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.RecordFile(path) as file:
        before = len(file)
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
        if stats is not None:
            stages.keep(path, stats, len(file) - before)
        made = row.own(file.records, problems)
    if grade or not task.quick:
        made = grading.grade_records(
            made,
            task,
            problems,
            row.verdicts(folder),
            decode=lm.decode,
            unsafe_exec=unsafe_exec,
            progress=progress,
        )
    return _result(row, made, path), stats


def kept(
    problems: Sequence[Problem], row: Row, folder: Path, *, task: Task
) -> evaluate.Result | None:
    """The row as `measure(..., grade=True)` left it; None where completions or verdicts lack."""
    if row.lacking(folder, problems) or not row.verdicts(folder).exists():
        return None
    made = row.own(records.read(row.path(folder), needs=("id",)), problems)
    graded = {record["id"] for record in records.read(row.verdicts(folder), needs=("id",))}
    if any(record["id"] not in graded for record in made):
        return None
    made = grading.grade_records(made, task, problems, row.verdicts(folder), progress=False)
    return _result(row, made, row.path(folder))


def _result(row: Row, made: list[records.Record], path: Path) -> evaluate.Result:
    known = stages.read(path, len(made))
    return evaluate.Result(row.model, row.name, made, evaluate.summarize(made), known)


def student(
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
