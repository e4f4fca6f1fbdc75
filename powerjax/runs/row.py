"""A row of a table: sampled, graded and summarised, in a record file of its own."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax import evaluation, records
from powerjax.models import LM
from powerjax.plan.workload import Workload
from powerjax.records import stage_counts
from powerjax.runs import collect, grading
from powerjax.sample import spec
from powerjax.tasks import Problem, Task


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

    def to_do(self, folder: Path, problems: Sequence[Problem]) -> Workload:
        """What is still to draw of the row, for a plan."""
        return self.workload(self.lacking(folder, problems))

    def workload(self, num_chains: int) -> Workload:
        """`num_chains` of the row's chains, for a plan."""
        sampler = spec.of(self.sampler, self.settings)
        return Workload(self.label, sampler, num_chains, is_endless=self.model == "RandW")


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
        stats = collect.collect(
            lm,
            problems,
            file,
            task=task,
            model=collect.model_name(lm, random_weights=row.model == "RandW"),
            sampler=row.sampler,
            label=row.slug,
            settings=row.settings,
            progress=progress,
        )
        if stats is not None:
            stage_counts.keep(path, stats, len(file) - before)
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
) -> evaluation.Result | None:
    """The row as `measure(..., grade=True)` left it; None where completions or verdicts lack."""
    if row.lacking(folder, problems) or not row.verdicts(folder).exists():
        return None
    made = row.own(records.read(row.path(folder), needs=("id",)), problems)
    graded = {record["id"] for record in records.read(row.verdicts(folder), needs=("id",))}
    if any(record["id"] not in graded for record in made):
        return None
    made = grading.grade_records(made, task, problems, row.verdicts(folder), progress=False)
    return _result(row, made, row.path(folder))


def _result(row: Row, made: list[records.Record], path: Path) -> evaluation.Result:
    known = stage_counts.read(path, len(made))
    return evaluation.Result(row.model, row.name, made, evaluation.summarize(made), known)
