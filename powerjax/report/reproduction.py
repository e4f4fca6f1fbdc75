"""The paper's table for one model and task: the job, its plan, and its tables and page."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from powerjax import runs
from powerjax.distill import checkpoints
from powerjax.evaluation import Result
from powerjax.models import LM
from powerjax.plan import lines as plan_lines
from powerjax.plan import probe
from powerjax.report import claims as paper_claims
from powerjax.report import comparison, comparison_notes, page
from powerjax.runs import Row
from powerjax.runs.setups import TEACHER
from powerjax.tasks import Problem, Task

EPOCHS, BATCH_SIZE = 3, 8  # of the student's training
_ORDER = {"RandW": 0, "Base": 1, "Distilled": 2}  # of the table's models


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of experiments.reproduce.

    Attributes:
      model: the model's name, as the user gave it.
      setup: the key of `setups.SETUPS`, such as "math".
      folder: the run folder.
      test: the task that the table's rows are measured on, with its `problems`.
      train: the task that the student learns from, with its problems, `lessons`.
      rows: the table's rows and the teacher's, in the order they are measured.
      learning_rate: the student's highest.
      schedule: the learning rate's schedule, "constant" or "linear".
      paper_model: the model whose numbers in the paper stand beside the table's; None for none.
      chat_template: how the chat template is used; see `runs.Chat`.
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
    chat_template: runs.Chat | str

    @property
    def remat(self) -> bool:
        """Whether the student's training saves memory; tiny is so small that it need not."""
        return self.model != "tiny"

    @property
    def teacher(self) -> Row:
        """The row whose records the student learns from; it is not in the table."""
        return next(row for row in self.rows if row.name == TEACHER)

    def of(self, row: Row) -> tuple[Task, list[Problem]]:
        """Returns the task and the problems that the row is measured on."""
        is_teacher = row.name == TEACHER
        return (self.train, self.lessons) if is_teacher else (self.test, self.problems)

    def asked(self, lm: LM, row: Row) -> list[Problem]:
        """Returns the row's problems as the model is to read them."""
        task, problems = self.of(row)
        return runs.prompted(lm, task, problems, self.chat_template)

    def kept(self, row: Row) -> Result | None:
        """Returns what the row's files show, or None where a completion or verdict is missing."""
        task, problems = self.of(row)
        return runs.finished_result(problems, row, self.folder, task=task)


def plan(
    lm: LM,
    job: Job,
    todo: Sequence[Row],
    *,
    seeds: int,
    max_length: int,
    num_slots: int | None,
) -> str:
    """Returns what is still to do and how long it will take, from a probe of some seconds.

    Args:
      lm: the base model.
      job: the run.
      todo: its rows that are not complete, at least one.
      seeds: passes through the problems.
      max_length: the most tokens that the student sees of an example.
      num_slots: how many chains the sampler works on at a time; None: as many as fit.
    """
    prompts = [[p.prompt for p in job.asked(lm, row)] for row in todo]
    longest_prompt = max(len(lm.encode(prompt)) for of_row in prompts for prompt in of_row)
    longest = max(row.settings["max_new_tokens"] for row in todo)
    speed = probe.probe_sampling(
        lm,
        prompts[0],
        num_samples=seeds,
        max_new_tokens=longest,
        num_slots=num_slots,
    )
    training = {}
    if any(row.model == "Distilled" for row in todo):
        steps = EPOCHS * math.ceil(len(job.lessons) / BATCH_SIZE)
        num_done = checkpoints.last_step(job.folder / "student") or 0
        if steps > num_done:
            training = {
                "steps": steps - num_done,
                "step_s": probe.probe_training(
                    lm,
                    longest_prompt + round(speed.length_within(longest)),
                    max_length=max_length,
                    batch_size=BATCH_SIZE,
                    remat=job.remat,
                ),
            }
    workloads = [row.to_do(job.folder, job.of(row)[1]) for row in todo]
    memory = probe.memory(lm, longest_prompt, longest)
    described = plan_lines.describe(workloads, speed, memory, **training)
    return "\n".join([f"\nPlan of {job.folder}: {job.model} on {job.setup}", *described])


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
    claims = paper_claims.pattern(shown)
    power = next(row for row in rows if row.label == "Base Power")
    sizes = len(job.problems), len(job.lessons)
    notes = comparison_notes.departures(power, sizes, job.setup)
    notes += [_learnt(job, results), *comparison_notes.laws(rows)]
    notes += comparison_notes.notes(lines, job.paper_model, vocab_size)
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
            "The paper's pattern, on these rows": paper_claims.claim_cells(claims),
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
