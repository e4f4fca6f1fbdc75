"""What experiments.flywheel prints and writes: a line per student, report.md and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from powerjax import evaluation
from powerjax.evaluation import Estimate
from powerjax.records import lock
from powerjax.report import cost_curves
from powerjax.report.cells import interval, law, markdown
from powerjax.report.plot_style import graded, new_figure
from powerjax.runs.flywheel import Job, Student

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = (
    *("student", "taught by", "answers", "right %", "forward tokens", "by student"),
    *("accuracy %", "95 %", "ESS/n", "95 %", "k-hat > .7", "KL"),
)
_WIDTHS = (24, 27, 8, 8, 15, 11, 11, 14, 6, 15, 11, 6)
_FIGURE = "flywheel"


def cells(student: Student) -> list[str]:
    """Returns one row of the table, in the columns of `HEAD`."""
    accuracy, right = student.result.summary.accuracy, student.teacher_accuracy
    ess = student.ess_fraction
    return [
        *(student.name, student.taught_by, f"{len(student.lessons):,}"),
        "-" if right is None else f"{100 * right:.1f}",
        *(f"{student.forward_tokens:,.0f}", f"{student.num_by_student:,}"),
        "-" if accuracy is None else f"{100 * accuracy.mean:.1f}",
        interval(accuracy, 100, 1),
        *(f"{ess.mean:.3f}", interval(ess)),
        *(f"{student.num_high_k_hats} of {len(student.k_hats)}", f"{student.kl:.3f}"),
    ]


def line(columns: Sequence[str]) -> str:
    """Returns one line of the printed table."""
    first, second, *rest = zip(columns, _WIDTHS, strict=True)
    left = [f"{cell:<{width}}" for cell, width in (first, second)]
    return " ".join(left + [f"{cell:>{width}}" for cell, width in rest])


def comparison(rounds: Sequence[Student], others: Sequence[Student]) -> list[str]:
    """Returns the last round's accuracy minus each of the others', as lines of text.

    The differences are paired: all students answer the same problems. There are no lines where
    nothing is graded.
    """
    last = rounds[-1]
    if last.result.summary.accuracy is None:
        return []
    lines = [f"{last.name} minus (points of accuracy, 95 % interval; forward tokens of theirs):"]
    for other in others:
        gap = evaluation.paired_difference(last.result.records, other.result.records)
        ends = f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        times = other.forward_tokens / last.forward_tokens
        lines.append(f"  {other.name:24} {100 * gap.mean:+5.1f} {ends:14} ({times:.2f} times ours)")
    return lines


def write(folder: Path, job: Job, rounds: Sequence[Student], others: Sequence[Student]) -> None:
    """Writes report.md and its figure.

    Args:
      folder: the run folder.
      job: the run.
      rounds: the students of the flywheel's rounds.
      others: those of Algorithm 1, the dearest last.
    """
    students = [*rounds, *others]
    draw(rounds, others).savefig(folder / f"{_FIGURE}.png")
    summary = rounds[0].result.summary
    text = REPORT.format(
        table=markdown([HEAD, *map(cells, students)]),
        gaps="\n".join(comparison(rounds, [*rounds[:-1], *others])),
        num_problems=summary.num_problems,
        n=summary.num_passes,
        num_importance=job.num_importance,
        alpha=f"{job.teacher['alpha']:g}",
        seed=job.teacher["seed"],
        law=law("power", job.teacher),
        test=job.test.name,
        train=job.train.name,
        figure=_FIGURE,
    )
    lock.replace_file(folder / "report.md", text)


def draw(rounds: Sequence[Student], others: Sequence[Student]) -> Figure:
    """Draws accuracy and ESS/n of the students against what their teachers cost.

    Round 1 is Algorithm 1 on the first slice, so both curves begin there.
    """
    figure = new_figure(9.0, 3.8)
    panels = figure.subplots(1, 2)
    has_accuracy = rounds[0].result.summary.accuracy is not None
    paper = sorted([rounds[0], *others], key=lambda student: student.forward_tokens)

    def curves(value) -> list[cost_curves.Curve]:
        return [
            cost_curves.Curve(
                name,
                [
                    cost_curves.Point(student.forward_tokens, value(student), label(student))
                    for student in students
                ],
                *(colour, marker, above),
            )
            for name, students, label, colour, marker, above in (
                ("Algorithm 1 (problems answered)", paper, _num, cost_curves.BASE, "D", False),
                ("flywheel", rounds, lambda s: s.name, cost_curves.STUDENT, "o", True),
            )
        ]

    if has_accuracy:
        accuracy = curves(lambda student: graded(student.result.summary.accuracy))
        cost_curves.fill(panels[0], accuracy, "accuracy of the student (%)", 100)
    ess: list[cost_curves.Curve] = curves(_ess)
    cost_curves.fill(panels[1], ess, "ESS/n of the student's weights", 1)
    for panel in panels:
        panel.set_xlabel("the teacher's forward tokens, of both models (log scale)")
        panel.xaxis.set_major_formatter("{x:,.0f}")
    figure.suptitle("What a student's teacher costs, and what the student becomes")
    return figure


def _num(student: Student) -> str:
    return f"{len(student.lessons):,}"


def _ess(student: Student) -> Estimate:
    return student.ess_fraction


REPORT = """# The flywheel: students that propose the next student's lessons

Round 1 is the paper's Algorithm 1 on a first slice of the training problems ({train}). In each
later round the last student proposes the power samples, and the next student learns from all
answers so far. Every answer is the end of a chain whose target is the base's pi^{alpha}. Each
student answers {num_problems} held-out problems ({test}) x {n}, plainly. Seed {seed}. Flags,
versions and device are in manifest.json, every completion in records/.

{table}

```
{gaps}
```

- **answers**: how many training problems the student learnt from. **right %**: the share of right
  answers among them. Wrong ones are learnt from too, as in Algorithm 1.
- **forward tokens**: what the teacher of this student fed to both models so far, prefill left out;
  **by student**: how many of them went to a student that proposed. The training of students is left
  out, and so is what it takes to measure them.
- **accuracy**, **95 %**: of plain samples; bootstrap intervals over problems.
- **ESS/n**: the effective share of {num_importance} draws of the student as samples of
  pi^{alpha}, a mean over the held-out problems: 1 where the student is pi^{alpha}.
  **k-hat > .7**: on how many problems the student gives that law too little mass for its weights to
  be trusted, of those that have a k-hat; a problem has none where fewer than five of its largest
  weights are distinct, as where most draws are one completion. **KL**: KL(student || pi^{alpha}) in
  nats, a mean. All three are blind to what no draw visits.
- *Equal cost*: Algorithm 1 answers problems in their order for the forward tokens of all rounds.
- Students of fewer answers make fewer steps, since each is trained for as many epochs.

The base's own chains: {law}.

![accuracy and ESS against the teacher's forward tokens]({figure}.png)
"""
