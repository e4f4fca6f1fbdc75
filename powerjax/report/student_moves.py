"""Power by the student's proposals beside the base's own: a table of costs, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from powerjax import evaluation
from powerjax.report import cost_curves
from powerjax.report.cells import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = "power_by_its_proposal"  # the figure that a run with a student leads with
BY_STUDENT = "Power, student"  # with a number of moves behind it, a row whose proposal it is
_COST_WIDTHS = (9, 9, 9, 9, 12, 14)  # of the columns of `costs` but the first


def costs(results: Sequence[evaluation.Result]) -> list[list[str]]:
    """Returns the cells of the table of costs, its head first.

    It has the rows of power sampling and the student's standard sampling. Without a row whose
    proposal is the student, it has no line at all.
    """
    table = []
    for result in results:
        summary = result.summary
        if not (is_power(result) or (result.model, result.sampler) == ("Distilled", "Standard")):
            continue
        total, of_student = summary.forward_tokens or 0.0, summary.proposal_forward_tokens
        of_base = total - (of_student or 0.0)
        if result.model == "Distilled":
            of_base, of_student = 0.0, total
        decoded = of_base if of_student is None else of_student
        table.append(
            [
                f"{result.model}, {result.sampler}",
                *(f"{tokens:.1f}" for tokens in (decoded, of_base, of_student or 0.0, total)),
                f"{100 * summary.accuracy.mean:.1f}" if summary.accuracy else "-",
                interval(summary.accuracy, 100, 1),
            ]
        )
    if not any(is_by_student(result) for result in results):
        return []
    return [["row", "decoded", "base", "student", "in all", "accuracy %", "95 %"], *table]


def is_power(result: evaluation.Result) -> bool:
    """Whether a row is power sampling of the base, with whatever proposal and number of moves."""
    return result.model == "Base" and result.sampler.split(",")[0] == "Power"


def cost_lines(results: Sequence[evaluation.Result]) -> list[str]:
    """Returns the table of `costs` as lines of text."""
    return [
        f"{name:26} " + " ".join(f"{cell:>{w}}" for cell, w in zip(rest, _COST_WIDTHS, strict=True))
        for name, *rest in costs(results)
    ]


def headline(
    by_base: Sequence[evaluation.Result],
    by_student: Sequence[evaluation.Result],
    temperature: evaluation.Result,
) -> Figure:
    """Draws accuracy against forward tokens, for each way of spending them.

    Args:
      by_base: power sampling with the base's own proposal, moves rising.
      by_student: the student's standard sampling, then power sampling with the student's proposal.
      temperature: temperature sampling, whose passes make Best-of-n.
    """
    curves = []
    for name, results, colour, marker, above in (
        ("power, the student proposes (N moves)", by_student, cost_curves.STUDENT, "o", True),
        ("power, the base proposes (N moves)", by_base, cost_curves.BASE, "D", False),
    ):
        points = [cost_curves.point(result, f"N={num_moves(result)}") for result in results]
        known = [point for point in points if point is not None]
        curves.append(cost_curves.Curve(name, known, colour, marker, above))
    curves.append(cost_curves.best_of_n(temperature, "temperature, Best-of-n"))
    title = f"What an answer costs: {temperature.summary.num_problems} held-out problems"
    return cost_curves.draw(curves, title)


def is_by_student(result: evaluation.Result) -> bool:
    """Whether the student proposes a row's moves."""
    return result.sampler.startswith(BY_STUDENT)


def num_moves(result: evaluation.Result) -> int:
    """Returns the moves of a row's chains; 0 for plain samples."""
    return result.records[0].get("num_mcmc_steps") or 0
