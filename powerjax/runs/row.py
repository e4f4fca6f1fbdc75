"""A row of a table: sampled, graded and summarised, in a record file of its own.

A row has these files in its run folder:

    records/base_power.jsonl           the records of the row "Base Power"
    records/base_power.stages.json     how many moves each stage made (`stage_counts`)
    verdicts/base_power.jsonl          verdicts, where it was graded after sampling (`grading`)
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax import evaluation, records, sample
from powerjax.models import LM
from powerjax.plan.workload import Workload
from powerjax.records import stage_counts
from powerjax.runs import collect, grading
from powerjax.sample import job
from powerjax.tasks import Problem, Task


@dataclasses.dataclass(frozen=True)
class Row:
    """What to sample for one row of a table: a sampler with its keywords, on one model.

    `measure` samples it, which gives an `evaluation.Result`.

    Attributes:
      model: which model, as the table calls it: "Base", "Distilled", or "RandW" (random weights).
      name: the row's name in the table, such as "Power, alpha 2".
      sampler: the name of a function of `powerjax.sample`.
      settings: that function's keywords, among them num_samples, the row's number of passes.
    """

    model: str
    name: str
    sampler: str
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """The row's name among all rows of a run: `Base Power`."""
        return f"{self.model} {self.name}"

    @property
    def slug(self) -> str:
        """The row's name in file names and record ids: `power_alpha_2`."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def path(self, folder: Path) -> Path:
        """Returns the row's record file in a run folder."""
        return folder / "records" / f"{self.model.lower()}_{self.slug}.jsonl"

    def verdicts(self, folder: Path) -> Path:
        """Returns the path of the verdicts on the row's records, a file that need not exist."""
        return folder / "verdicts" / self.path(folder).name

    def own(
        self, drawn: Sequence[records.Record], problems: Sequence[Problem]
    ) -> list[records.Record]:
        """Returns those of the records that are of these problems and of the row's passes.

        A record file holds others where it was made for more problems or passes.
        """
        wanted = {(p.id, i) for p in problems for i in range(self.settings["num_samples"])}
        return [r for r in drawn if (r.get("problem_id"), r.get("sample_index")) in wanted]

    def lacking(self, folder: Path, problems: Sequence[Problem]) -> int:
        """Returns the number of the row's completions that are not in its record file."""
        path = self.path(folder)
        drawn = records.read(path) if path.exists() else []
        return len(problems) * self.settings["num_samples"] - len(self.own(drawn, problems))

    def to_do(self, folder: Path, problems: Sequence[Problem]) -> Workload:
        """Returns the `workload` of the completions that are `lacking`, for a plan."""
        return self.workload(self.lacking(folder, problems))

    def workload(self, num_chains: int) -> Workload:
        """Returns the Workload, for a plan, of drawing `num_chains` completions of the row."""
        sampler, _ = job.parse(self.sampler, self.settings)
        return Workload(self.label, sampler, num_chains, is_endless=self.model == "RandW")


def measure(
    lm: LM,
    problems: Sequence[Problem],
    row: Row,
    folder: Path,
    *,
    task: Task,
    proposal: LM | None = None,
    progress: bool = True,
    grade: bool = False,
    unsafe_exec: bool = False,
) -> tuple[evaluation.Result, sample.Stats | None]:
    """Samples a row: draws what its record file lacks, grades it and summarises all of the row.

    Args:
      lm: the model.
      problems: the problems, as `prompts.prompted` returns them.
      row: the row.
      folder: the run folder.
      task: the problems' task.
      proposal: the model that draws the moves, for a row whose settings name a `move`.
      progress: whether bars are shown.
      grade: grade all records once more afterwards, for the second opinions that
        `grading.grade_records` gives. Tasks that run programs are graded there in any case.
      unsafe_exec: for tasks that run programs: run them without the sandbox (`tasks.sandbox`).

    Returns (result, stats). `result` has all of the row's records. `stats` is what the sampler did
    in this call, or None where nothing was lacking.

    Raises ValueError as `collect.collect` and `grading.grade_records` do.
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
            settings=row.settings if proposal is None else {**row.settings, "proposal": proposal},
            progress=progress,
        )
        if stats is not None:
            stage_counts.keep(path, stats, len(file) - before)
        own = row.own(file.records, problems)
    if grade or not task.quick:
        own = grading.grade_records(
            own,
            task,
            problems,
            row.verdicts(folder),
            decode=lm.decode,
            unsafe_exec=unsafe_exec,
            progress=progress,
        )
    return _result(row, own, path), stats


def finished_result(
    problems: Sequence[Problem], row: Row, folder: Path, *, task: Task
) -> evaluation.Result | None:
    """Returns the result that `measure(..., grade=True)` left in the folder, without the model.

    Returns None where any of its completions or verdicts is lacking. Raises ValueError where a file
    of the row is malformed.
    """
    if row.lacking(folder, problems) or not row.verdicts(folder).exists():
        return None
    own = row.own(records.read(row.path(folder), needs=("id",)), problems)
    graded = {record["id"] for record in records.read(row.verdicts(folder), needs=("id",))}
    if any(record["id"] not in graded for record in own):
        return None
    own = grading.grade_records(own, task, problems, row.verdicts(folder), progress=False)
    return _result(row, own, row.path(folder))


def _result(row: Row, own: list[records.Record], path: Path) -> evaluation.Result:
    stages = stage_counts.read(path, len(own))
    return evaluation.Result(row.model, row.name, own, evaluation.summarize(own), stages)
