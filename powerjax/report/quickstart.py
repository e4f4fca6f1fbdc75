"""What experiments.quickstart prints and writes: lines of its table, report.md and its figures."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from powerjax import evaluation
from powerjax.records import lock
from powerjax.report import plots, student_moves
from powerjax.report.cells import cells, header, law, markdown
from powerjax.report.side_by_side import side_by_side_markdown
from powerjax.tasks import Problem

FOUR = ("Standard", "Temperature", "Power", "Power(inf)")  # the samplers that are compared
_WIDTHS = (11, 13, 15, 16, 8, 14, 7, 8, 7)  # of the columns of `cells.cells`, in characters


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run that its report names; see the flags of the launcher."""

    num_samples: int
    seed: int
    alpha: float
    num_mcmc_steps: int
    max_new_tokens: int


def line(model: str, sampler: str, columns: Sequence[str], seconds: str) -> str:
    """Returns one line of the printed table."""
    shown = " ".join(f"{cell:>{width}}" for cell, width in zip(columns, _WIDTHS, strict=True))
    return f"{model:9} {sampler:16} {shown} {seconds:>7}"


def example(problems: Sequence[Problem], standard: evaluation.Result) -> Problem:
    """Returns the first problem that standard sampling gets right and wrong, else the first one."""
    for problem in problems:
        correct = [r["correct"] for r in standard.records if r["problem_id"] == problem.id]
        if any(correct) and not all(correct):
            return problem
    return problems[0]


def differences(results: Sequence[evaluation.Result]) -> list[str]:
    """Returns the student's accuracy by plain sampling minus that of Base's rows, as lines of text.

    The differences are paired: both rows are of the same problems. Without a student there are no
    lines.
    """
    by_name = {(result.model, result.sampler): result for result in results}
    student = by_name.get(("Distilled", "Standard"))
    if student is None:
        return []
    lines = ["Distilled by standard sampling, minus Base by (points of accuracy, 95 % interval):"]
    cost = student.summary.forward_tokens
    for (model, sampler), other in by_name.items():
        if model == "Base" and sampler.startswith(("Standard", "Temperature", "Power")):
            gap = evaluation.paired_difference(student.records, other.records)
            times = other.summary.forward_tokens / cost
            ends = f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            lines.append(
                f"  {sampler:16} {100 * gap.mean:+5.1f} {ends:14}"
                f" ({times:.1f} times the student's forward tokens)"
            )
    return lines


def write(
    folder: Path,
    problem: Problem,
    results: Sequence[evaluation.Result],
    settings: Settings,
    *,
    learnt: str | None,
    vocab_size: int,
) -> None:
    """Writes report.md and its figures.

    Args:
      folder: the run folder.
      problem: the problem whose completions are shown side by side.
      results: the rows of the table, in its order.
      settings: the settings of the run.
      learnt: a line on what the student learnt from; None where there is no student.
      vocab_size: V of the model.
    """
    figures = _write_figures(folder, results)
    base = [result for result in results if result.model == "Base"]
    base_four = [result for result in base if result.sampler in FOUR]
    greedy = next(result for result in base if result.sampler == "Greedy").summary.accuracy
    n, power = settings.num_samples, base_four[2].records[0]
    power_settings = {**power, "max_new_tokens": settings.max_new_tokens}
    student = STUDENT.format(
        learnt=learnt,
        gaps="\n".join(differences(results)),
        costs=markdown(student_moves.costs(results) or [[""]]),
        headline=f"![accuracy against forward tokens]({student_moves.HEADLINE}.png)",
    )
    text = REPORT.format(
        num_problems=base[0].summary.num_problems,
        n=n,
        seed=settings.seed,
        alpha=f"{settings.alpha:g}",
        temperature=f"{1 / settings.alpha:g}",
        max_new_tokens=settings.max_new_tokens,
        steps=settings.num_mcmc_steps,
        law=law("power", power_settings),
        greedy=f"{100 * greedy.mean:.1f}",
        vocab_size=vocab_size,
        uniform=f"{-math.log(vocab_size):.2f}",
        table=markdown(_table(results, n)),
        student=student if learnt else "",
        prompt="\n".join(f"> {row}" for row in problem.prompt.split("\n")),
        answer=problem.answer,
        completions=side_by_side_markdown(base_four, problem.id),
        figures="\n\n".join(
            f"![{name.replace('_', ' ')}]({name}.png)"
            for name in figures
            if name != student_moves.HEADLINE
        ),
    )
    lock.replace_file(folder / "report.md", text)


def _table(results: Sequence[evaluation.Result], n: int) -> list[list[str]]:
    """Returns the cells of the report's table, its head first. n: passes through the problems."""
    rows = [
        [
            *(result.model, result.sampler, *cells(result.summary)),
            f"{100 * result.summary.finished:.0f} %",
            f"{result.summary.num_tokens:.1f}",
        ]
        for result in results
    ]
    return [["model", "sampler", *header(n), "ended in EOS", "length"], *rows]


def _write_figures(folder: Path, results: Sequence[evaluation.Result]) -> list[str]:
    """Writes the figures as PNG and returns their names."""
    base = [result for result in results if result.model == "Base"]
    student = [result for result in results if result.model == "Distilled"]
    four = [result for result in results if result.sampler in FOUR]
    base_four = [result for result in base if result in four]
    by_base = sorted(
        (
            result
            for result in base
            if student_moves.is_power(result) and not student_moves.is_by_student(result)
        ),
        key=student_moves.num_moves,
    )
    by_student = sorted(
        (result for result in base if student_moves.is_by_student(result)),
        key=student_moves.num_moves,
    )
    temperature = next(result for result in base if result.sampler == "Temperature")
    # Rows of few moves are in the headline figure alone, or this one would have too many.
    least = student_moves.num_moves(next(result for result in base if result.sampler == "Power"))
    dear = [
        result
        for result in base
        if not student_moves.is_power(result) or student_moves.num_moves(result) >= least
    ]
    figures = {}
    if by_student:
        plain = next(result for result in student if result.sampler == "Standard")
        figures[student_moves.HEADLINE] = student_moves.headline(
            by_base, [plain, *by_student], temperature
        )
    figures |= {
        "accuracy_against_self_reward": plots.accuracy_against_self_reward(four),
        "accuracy_against_cost": plots.accuracy_against_cost([*dear, *student]),
        "mixing": plots.mixing([temperature, *by_base]),
        "lengths": plots.lengths([*base_four, *student]),
        "acceptance": plots.acceptance([result for result in four if result not in student]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    return list(figures)


REPORT = """# Power sampling on the embedded model

{num_problems} held-out problems x {n} completions, seed {seed}; alpha {alpha}, temperature and
proposal temperature {temperature}, at most {max_new_tokens} tokens, {steps} Metropolis-Hastings
moves. Versions, device and commands are in manifest.json, every completion in records/.

{table}

- **accuracy**, **self-reward** (mean log-likelihood per token under the model that drew it, EOS
  counted): mean ± standard deviation over the {n} passes through the problems, a pass being one
  completion of each. They are {n} independent samples of one run, where the paper has {n} seeds.
- **95 %**: bootstrap intervals over problems. Two rows are of the same problems, so overlapping
  intervals do not make them equal.
- **Bo{n}**: Best-of-{n}, the completion of largest self-reward among a problem's {n}. It costs {n}
  times the forward tokens of its row.
- **forward**: tokens fed to the models for one completion, prefill left out.

{student}## Which law this is

Power: {law}.

block_size is max_new_tokens here, so that a chain has one stage; stop="eos" and stop="horizon" are
then the same, and more moves lead to pi^{alpha} itself. With shorter blocks and stop="eos", the
published schedule, they would not, however many.

## What to see

- **Power against temperature.** Both sharpen by the same exponent. Temperature sees the next token
  alone; power sees what follows it. A problem may be answered at once (a guess, whose answer is
  diffuse) or worked out (each step is sure), and only power prefers to work it out (Prop. 1).
- **More moves.** {steps} moves do not reach the limit: see the row with more moves, and the figure
  of accuracy against moves. 0 moves are temperature sampling.
- **Greedy** gets {greedy} %: the likeliest first token is that of the guess. So accuracy does not
  rise steadily as the temperature falls to 0.
- **Best-of-{n}** of a cheap sampler may do as well at the same price: see accuracy against cost.
- **RandW**, the same architecture with random weights: self-reward rises, accuracy cannot. A model
  that scores its own plain samples has mean self-reward of -log V = {uniform} or more
  (V = {vocab_size}). The paper's RandW figures lie below that bound of their model, so they were
  scored in some other way, and are not comparable with these.

## One problem, its completions side by side

The first problem that standard sampling gets right at least once and wrong at least once. A chain's
random numbers belong to its problem and sample index, whatever the sampler, so one row may hold the
same completion twice.

{prompt}

(answer: {answer})

{completions}

## Figures

{figures}
"""


STUDENT = """## The student

{learnt}.

{headline}

*As a proposal* (rows `Power, student N`) it draws whole completions, and each of N moves accepts or
rejects one by the base's pi^alpha. That corrects what it got wrong, and needs few moves, because it
is near that law already. The N + 1 completions do not depend on each other, and are drawn at once.
In the figure, N = 0 is the student by itself. What a completion costs, in tokens per completion:
`decoded` are drawn one after the other, and `base` and `student` are fed to that model (the base
scores a finished completion in one pass).

{costs}

*By itself* it is sampled plainly, at plain cost, from its own law.

```
{gaps}
```

"""
