"""The flywheel: each student proposes the power samples that the next student learns from.

Round 1 is the paper's Algorithm 1 on a first slice of the training problems: power sampling with
the base's own proposals answers them, and a student learns from the answers. In each later round
the last student proposes the moves for another slice, which takes fewer of them, and the next
student learns from all answers so far. The target is the base's pi^alpha in every round.

A run folder has records/base_teacher.jsonl, records/base_teacher_round_2.jsonl, the students'
records/round_1_standard.jsonl, students/round_1/, importance/round_1.jsonl, and so on.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from powerjax import evaluation, records, sample
from powerjax.evaluation import estimates
from powerjax.models import LM
from powerjax.records import Record, lock
from powerjax.runs.row import Row, measure
from powerjax.runs.setups import TEACHER
from powerjax.runs.student import train_student
from powerjax.sample import diagnostics, proposals
from powerjax.tasks import Problem, Task


@dataclasses.dataclass(frozen=True)
class Job:
    """What a flywheel's run is made of.

    Attributes:
      lm: the base.
      folder: the run folder.
      test, problems: the task that students are measured on, and its problems as they are prompted.
      train, lessons: the same of the problems that are learnt from.
      slices: how many of the lessons each round answers, one after the other.
      teacher: keywords of `sample.power` with the base's own proposals.
      num_student_moves: moves of the chains that a student proposes.
      plain: keywords of `sample.standard`, by which students are measured.
      num_importance: draws of each held-out problem by which a student is weighed.
      training: keywords of `train_student`.
      merges: whether a student's adapter is added to the weights before it draws. That is faster,
        and holds the weights twice.
      unsafe_exec, progress: as for `row.measure`.
    """

    lm: LM
    folder: Path
    test: Task
    problems: Sequence[Problem]
    train: Task
    lessons: Sequence[Problem]
    slices: Sequence[int]
    teacher: dict[str, Any]
    num_student_moves: int
    plain: dict[str, Any]
    num_importance: int
    training: dict[str, Any]
    merges: bool = False
    unsafe_exec: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if not self.slices or min(self.slices) < 1:
            raise ValueError("a flywheel needs one slice or more, each of one problem or more")
        if sum(self.slices) > len(self.lessons):
            raise ValueError(
                f"the slices have {sum(self.slices)} problems in all, and the task"
                f" {self.train.name} has {len(self.lessons)}: make them smaller"
            )

    @property
    def base_teacher(self) -> Row:
        """The row of lessons that are answered with the base's own proposals."""
        return Row("Base", TEACHER, "power", self.teacher)

    def student_teacher(self, round_index: int) -> Row:
        """The row of lessons that a student proposes the answers to, in a round from 1 on."""
        settings = {
            **self.teacher,
            "move": "restart",
            "num_mcmc_steps": self.num_student_moves,
            "block_size": self.teacher["max_new_tokens"],
        }
        return Row("Base", f"{TEACHER}, round {round_index + 1}", "power", settings)


@dataclasses.dataclass(frozen=True)
class Weighed:
    """What the weights of a student's draws say about one problem.

    Attributes:
      k_hat: None where too few weights are distinct (`diagnostics.k_hat`).
      kl: KL(student || pi^alpha), in nats.
    """

    problem_id: str
    ess_fraction: float
    k_hat: float | None
    kl: float


@dataclasses.dataclass(frozen=True)
class Student:
    """A student and what its teacher cost.

    Attributes:
      name: such as "round 1" or "Algorithm 1, all".
      taught_by: who proposed the last answers that it learnt from, as a phrase.
      lessons: the records that it learnt from.
      result: its plain samples of the held-out problems.
      weighed: one entry for each held-out problem.
    """

    name: str
    taught_by: str
    lessons: Sequence[Record]
    result: evaluation.Result
    weighed: Sequence[Weighed]

    @property
    def forward_tokens(self) -> float:
        """The tokens that the teacher fed to both models, for all lessons."""
        return cost(self.lessons)

    @property
    def num_by_student(self) -> int:
        """How many of the forward tokens were fed to a student that proposed."""
        return sum(record.get("num_proposal_forward_tokens") or 0 for record in self.lessons)

    @property
    def teacher_accuracy(self) -> float | None:
        """The share of right answers among the lessons; None where none is graded."""
        verdicts = [r["correct"] for r in self.lessons if r.get("correct") is not None]
        return float(np.mean(verdicts)) if verdicts else None

    @property
    def ess_fraction(self) -> evaluation.Estimate:
        """The mean of ESS/n over the held-out problems."""
        values = np.array([[problem.ess_fraction] for problem in self.weighed])
        return estimates.Estimator(len(values), 2000).known(values)

    @property
    def kl(self) -> float:
        """The mean of KL(student || pi^alpha) over the held-out problems, in nats."""
        return float(np.mean([problem.kl for problem in self.weighed]))

    @property
    def k_hats(self) -> list[float]:
        """The k-hat of each held-out problem that has one."""
        return [problem.k_hat for problem in self.weighed if problem.k_hat is not None]

    @property
    def num_high_k_hats(self) -> int:
        """On how many held-out problems k-hat is above 0.7."""
        return sum(k_hat > diagnostics.KHAT_THRESHOLD for k_hat in self.k_hats)


def cost(lessons: Sequence[Record]) -> float:
    """Returns the tokens fed to the models for these records, those of proposals added."""
    return sum(estimates.forward_tokens(record) or 0.0 for record in lessons)


def rounds(job: Job) -> Iterator[Student]:
    """Yields the student of each round, as it is trained and measured.

    What the run folder has is not drawn or trained again.
    """
    lessons: list[Record] = []
    proposal: LM | None = None
    first = 0
    for i, size in enumerate(job.slices):
        row = job.base_teacher if proposal is None else job.student_teacher(i)
        lessons += _answers(job, row, job.lessons[first : first + size], proposal)
        first += size
        moves = row.settings["num_mcmc_steps"]
        taught_by = f"round {i}'s student" if i else "base"
        taught_by += f", {moves} move{'s' if moves > 1 else ''}"
        proposal, student = _taught(job, f"round {i + 1}", taught_by, lessons)
        yield student


def algorithm_1(job: Job, forward_tokens: float | None) -> Student:
    """Returns the student of the paper's Algorithm 1: one round, with the base's own proposals.

    forward_tokens: what its teacher may cost; it answers problems in their order until the next one
      would cost more. None: it answers all problems of the job's slices.
    """
    lessons = job.lessons[: sum(job.slices)]
    name = "Algorithm 1, all"
    if forward_tokens is not None:
        name = "Algorithm 1, equal cost"
        first = _answers(job, job.base_teacher, lessons[: job.slices[0]])
        affordable = int(forward_tokens / cost(first) * len(first))
        lessons = lessons[: max(1, affordable)]
    drawn = _answers(job, job.base_teacher, lessons)
    if forward_tokens is not None:
        spent = np.cumsum([estimates.forward_tokens(record) or 0.0 for record in drawn])
        drawn = drawn[: max(1, int((spent <= forward_tokens).sum()))]
    moves = job.teacher["num_mcmc_steps"]
    return _taught(job, name, f"base, {moves} moves", drawn)[1]


def _answers(
    job: Job, row: Row, problems: Sequence[Problem], proposal: LM | None = None
) -> list[Record]:
    """Returns the row's records of these problems, in the problems' order."""
    result, _ = measure(
        job.lm,
        problems,
        row,
        job.folder,
        task=job.train,
        proposal=proposal,
        unsafe_exec=job.unsafe_exec,
        progress=job.progress,
    )
    at = {problem.id: i for i, problem in enumerate(problems)}
    return sorted(result.records, key=lambda record: at[record["problem_id"]])


def _taught(job: Job, name: str, taught_by: str, lessons: Sequence[Record]) -> tuple[LM, Student]:
    """Trains a student on these records and measures it on the held-out problems."""
    row = Row(name.replace(", ", "_").replace(" ", "_"), "Standard", "standard", job.plain)
    lm, _ = train_student(
        job.lm,
        lessons,
        job.folder / "students" / row.model.lower(),
        problems=job.lessons,
        progress=job.progress,
        **job.training,
    )
    if job.merges:
        lm = lm.merged()
    result, _ = measure(
        lm,
        job.problems,
        row,
        job.folder,
        task=job.test,
        unsafe_exec=job.unsafe_exec,
        progress=job.progress,
    )
    path = job.folder / "importance" / f"{row.model.lower()}.jsonl"
    return lm, Student(name, taught_by, list(lessons), result, _weighed(job, lm, path))


def _weighed(job: Job, student: LM, path: Path) -> list[Weighed]:
    """Returns what a student's weights say about each held-out problem; `path` keeps it."""
    made_with = {
        "proposal_hash": proposals.stated(job.lm, student)["proposal_hash"],
        "num_samples": job.num_importance,
    }
    of = _read(path, made_with)
    missing = [problem for problem in job.problems if problem.id not in of]
    if missing:
        drawn = sample.importance(
            job.lm,
            [problem.prompt for problem in missing],
            student,
            num_samples=job.num_importance,
            alpha=job.teacher["alpha"],
            max_new_tokens=job.teacher["max_new_tokens"],
            seed=job.teacher["seed"],
            ids=[problem.id for problem in missing],
            num_slots=job.plain.get("num_slots"),
            progress=job.progress,
        )
        for item in drawn:
            of[str(item.id)] = Weighed(str(item.id), item.ess_fraction, item.k_hat, item.kl)
        lines = [json.dumps(made_with | dataclasses.asdict(entry)) for entry in of.values()]
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.replace_file(path, "\n".join(lines) + "\n")
    return [of[problem.id] for problem in job.problems]


def _read(path: Path, made_with: dict[str, Any]) -> dict[str, Weighed]:
    """Returns {problem: its entry} of a file that `_weighed` wrote for this same student."""
    if not path.exists():
        return {}
    names = [field.name for field in dataclasses.fields(Weighed)]
    return {
        line["problem_id"]: Weighed(**{name: line[name] for name in names})
        for line in records.read(path)
        if all(line.get(name) == value for name, value in made_with.items())
    }


def run(job: Job, *, compares_all: bool, on_student: Callable[[Student], None]) -> list[Student]:
    """Runs every round, then Algorithm 1 at the cost of all rounds, and on all problems.

    Args:
      compares_all: whether Algorithm 1 also answers all problems, whatever that costs.
      on_student: called with each student once it is measured.

    Returns the students, in that order.
    """
    students: list[Student] = []

    def keep(student: Student) -> None:
        students.append(student)
        on_student(student)

    for student in rounds(job):
        keep(student)
    keep(algorithm_1(job, students[-1].forward_tokens))
    if compares_all:
        keep(algorithm_1(job, None))
    return students
