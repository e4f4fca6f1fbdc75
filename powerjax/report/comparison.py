"""The table of a reproduction beside the paper's numbers, as Markdown, LaTeX and CSV.

r* is accuracy, as a share; r_self the mean log-likelihood per token (nats, EOS counted) under the
model of the row; Best-of-N takes the completion of largest r_self. The paper's claims on these rows
are in `claims`, what a reader must know in `comparison_notes`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from powerjax.evaluation import Estimate, Result, paper
from powerjax.records import lock
from powerjax.report import tables
from powerjax.report.cells import interval, spread
from powerjax.report.claims import Claim, describe

_SAME = 5e-4  # half of the paper's last digit: a smaller difference is none
Number = float | str | None


class Line(NamedTuple):
    """One row of the table: ours, and the paper's or None where it has none."""

    result: Result
    paper: paper.Row | None


def lines(results: Sequence[Result], task: str, model: str | None) -> list[Line]:
    """Returns the results beside the paper's rows of that task and model.

    Args:
      model: one of `paper.MODELS`; None if the paper has no numbers to compare with.
    """
    return [Line(r, paper.row(task, model, r.model, r.sampler)) for r in results]


def standard_errors(
    ours: Estimate | None, num_passes: int, theirs: float, their_std: float | None
) -> float | None:
    """Returns (ours - theirs) / standard error of the difference of the two means over passes.

    A mean's standard error is its standard deviation over passes divided by the root of their
    number, which is 4 for the paper. Returns None without a standard deviation of ours, and where
    both are 0 but the means differ.

    Args:
      num_passes: passes of our mean.
      their_std: the paper's standard deviation; ours stands in for it if None.
    """
    if ours is None or ours.std is None:
        return None
    gap = ours.mean - theirs
    their_std = ours.std if their_std is None else their_std
    error = math.sqrt(ours.std**2 / num_passes + their_std**2 / paper.NUM_SEEDS)
    if error == 0:
        return 0.0 if abs(gap) < _SAME else None
    return gap / error


def write(
    folder: Path, title: str, shown: Sequence[Line], claims: Sequence[Claim], notes: Sequence[str]
) -> str:
    """Writes table.md, table.tex and table.csv into the folder; returns the text of table.md."""
    summary = shown[0].result.summary
    rows = cells(shown)
    parts = [
        f"# {title}",
        f"{summary.num_problems} problems x {summary.num_passes} completions.",
        tables.markdown(rows),
    ]
    if costs := tables.costs([line.result for line in shown]):
        parts += [f"## {tables.COSTS}", tables.markdown(costs)]
    parts += [
        "## The paper's pattern, on these rows",
        describe(claims),
        "## Notes",
        "\n".join(f"- {note}" for note in notes),
    ]
    text = "\n\n".join(parts)
    for name, content in (
        ("table.md", text + "\n"),
        ("table.tex", tables.latex(rows)),
        ("table.csv", as_csv(shown)),
    ):
        lock.replace_file(folder / name, content)
    return text


def cells(shown: Sequence[Line]) -> tables.Cells:
    """Returns the table. It has the paper's columns only if one line has numbers of the paper.

    "n.c." stands for a difference from numbers that are not comparable.
    """
    n = most_passes(shown)
    beside = any(line.paper for line in shown)
    head = ["model", "sampling"]
    for name in ("r*", "r_self"):
        head += [name, "95 %", *(["paper", "diff./s.e."] if beside else [])]
    for name in (f"Bo{n} r*", f"Bo{n} r_self"):
        head += [name, *(["paper, Bo4", "diff."] if beside else [])]
    return [[*head, "forward tokens"], *(_row(line, beside) for line in shown)]


def _row(line: Line, beside: bool) -> list[str]:
    """Returns the cells of one line, with the paper's columns if `beside`."""
    result, theirs = line
    summary = result.summary
    row = [result.model, result.sampler]
    for name in ("accuracy", "self_reward"):
        ours = getattr(summary, name)
        row += [spread(ours), interval(ours)]
        if beside:
            mean, std = getattr(theirs, name, None), getattr(theirs, f"{name}_std", None)
            gap = None if mean is None else standard_errors(ours, summary.num_passes, mean, std)
            row += [_mean_and_std(mean, std), _gap(line, name, gap, 1)]
    for name in ("accuracy", "self_reward"):
        best = getattr(summary, f"best_of_n_{name}") if summary.num_passes > 1 else None
        row.append(_mean_and_std(best and best.mean, None))
        if beside:
            mean, gap = getattr(theirs, f"best_{name}", None), None
            if mean is not None and best is not None and summary.num_passes == paper.NUM_SEEDS:
                gap = best.mean - mean
            row += [_mean_and_std(mean, None), _gap(line, name, gap, 3)]
    return [*row, "-" if summary.forward_tokens is None else f"{summary.forward_tokens:,.0f}"]


def _gap(line: Line, name: str, gap: float | None, digits: int) -> str:
    """Returns a difference from the paper as text. RandW's self-rewards are not comparable."""
    if line.paper and line.result.model == "RandW" and name == "self_reward":
        return "n.c."
    return "-" if gap is None else f"{gap:+.{digits}f}"


def as_csv(shown: Sequence[Line]) -> str:
    """Returns all numbers unrounded as CSV; a cell is empty where there is no number."""
    file = io.StringIO()
    rows = [_numbers(line) for line in shown]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _numbers(line: Line) -> dict[str, Number]:
    """Returns column -> number of one line of the CSV."""
    result, theirs = line
    summary = result.summary
    numbers: dict[str, Number] = {
        "model": result.model,
        "sampling": result.sampler,
        "problems": summary.num_problems,
        "passes": summary.num_passes,
    }
    for name, ours in (("accuracy", summary.accuracy), ("self_reward", summary.self_reward)):
        for statistic in ("mean", "std", "low", "high"):
            numbers[f"{name}_{statistic}"] = getattr(ours, statistic) if ours else None
        mean, std = getattr(theirs, name, None), getattr(theirs, f"{name}_std", None)
        numbers[f"paper_{name}"], numbers[f"paper_{name}_std"] = mean, std
        numbers[f"{name}_difference_in_standard_errors"] = (
            None if mean is None else standard_errors(ours, summary.num_passes, mean, std)
        )
    for name in ("accuracy", "self_reward"):
        best = getattr(summary, f"best_of_n_{name}")
        numbers[f"best_of_n_{name}"] = best.mean if best else None
        numbers[f"paper_best_of_4_{name}"] = getattr(theirs, f"best_{name}", None)
    return numbers | {
        "acceptance_rate": summary.acceptance_rate,
        "forward_tokens": summary.forward_tokens,
        "num_tokens": summary.num_tokens,
        "finished": summary.finished,
    }


def most_passes(shown: Sequence[Line]) -> int:
    """Returns the largest number of passes of any line, the N of Best-of-N."""
    return max(line.result.summary.num_passes for line in shown)


def _mean_and_std(mean: float | None, std: float | None) -> str:
    """Returns `0.714 ± 0.006`; a dash without a mean."""
    if mean is None:
        return "-"
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
