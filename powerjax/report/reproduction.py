"""The paper's table for one model and task: what is measured, and the tables and page of it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from powerjax import runs
from powerjax.evaluation import Result
from powerjax.report import comparison, page
from powerjax.runs import Row
from powerjax.runs.setups import TEACHER
from powerjax.tasks import Problem, Task

_ORDER = {"RandW": 0, "Base": 1, "Distilled": 2}  # of the table's models


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of experiments.reproduce.

    Attributes:
      model: as the user named it.
      setup: the key of `setups.SETUPS`, such as "math".
      folder: the run folder.
      test: the task that the table's rows are measured on, with its `problems`.
      train: the task that the student learns from, with its problems, `lessons`.
      rows: the table's rows and the teacher's, in the order they are measured.
      learning_rate: the student's highest.
      schedule: of the learning rate, "constant" or "linear".
      paper_model: the model whose numbers in the paper stand beside the table's; None for none.
    """

    model: str
    setup: str
    folder: Path
    test: Task
    train: Task
    problems: list[Problem]
    lessons: list[Problem]
    rows: list[Row]
    learning_rate: float
    schedule: str
    paper_model: str | None

    @property
    def teacher(self) -> Row:
        """The row whose records the student learns from; it is not in the table."""
        return next(row for row in self.rows if row.name == TEACHER)

    def of(self, row: Row) -> tuple[Task, list[Problem]]:
        """Returns the task and the problems that the row is measured on."""
        is_teacher = row.name == TEACHER
        return (self.train, self.lessons) if is_teacher else (self.test, self.problems)

    def kept(self, row: Row) -> Result | None:
        """Returns what the row's files show, or None where a completion or verdict is missing."""
        task, problems = self.of(row)
        return runs.kept(problems, row, self.folder, task=task)


def write(job: Job, results: Mapping[str, Result], vocab_size: int) -> str:
    """Writes the tables and the report page; returns the text of table.md.

    Args:
      job: the run.
      results: the result of each of its rows, by the row's label.
      vocab_size: V of the model.
    """
    rows = [row for row in job.rows if row != job.teacher]
    shown = [results[row.label] for row in sorted(rows, key=lambda row: _ORDER[row.model])]
    lines = comparison.lines(shown, job.setup, job.paper_model)
    claims = comparison.pattern(shown)
    power = next(row for row in rows if row.label == "Base Power")
    sizes = len(job.problems), len(job.lessons)
    notes = comparison.departures(power, sizes, job.setup)
    notes += [_learnt(job, results), *comparison.laws(rows)]
    notes += comparison.notes(lines, job.paper_model, vocab_size)
    title = f"{job.model} on {job.test.name}"
    heading = "Beside the paper's numbers" if job.paper_model else "The table"
    text = comparison.write(job.folder, title, lines, claims, notes)
    page.write_report(
        job.folder,
        shown,
        title=title,
        task=job.test,
        problems=job.problems,
        lead={
            heading: comparison.cells(lines),
            "The paper's pattern, on these rows": comparison.claim_cells(claims),
        },
        notes=notes,
    )
    return text


def _learnt(job: Job, results: Mapping[str, Result]) -> str:
    """Returns a line on what the student learnt from."""
    steps, first, last = runs.losses(job.folder / "student")
    right = results[job.teacher.label].summary.accuracy
    rightly = "" if right is None else f", {100 * right.mean:.1f} % of them rightly"
    return (
        f"Student: {len(job.lessons)} problems of {job.train.name} answered by power sampling"
        f"{rightly}; {steps} steps, learning rate {job.learning_rate:g} ({job.schedule}), loss"
        f" {first:.3f} to {last:.3f}."
    )
