"""Accuracy against forward tokens: one curve per way of spending them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from powerjax.evaluation import Estimate, Result, best_of
from powerjax.report.plot_style import STYLE, bars, graded, new_figure, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE, STUDENT, TEMPERATURE = "#009E73", "#D55E00", STYLE["Temperature"][0]


@dataclasses.dataclass(frozen=True)
class Point:
    """What one way of sampling reaches, and what it costs.

    Attributes:
      forward_tokens: tokens fed to all models, per answer.
      value: what is reached, accuracy say, with its 95 % interval.
      label: what stands beside the point; "" for nothing.
    """

    forward_tokens: float
    value: Estimate
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points that belong together, in the order in which they are joined.

    Attributes:
      name: how the legend calls them.
      colour, marker: as matplotlib has them.
      above: whether the points' labels stand above them, else below.
    """

    name: str
    points: Sequence[Point]
    colour: str
    marker: str
    above: bool = True


def point(result: Result, label: str) -> Point | None:
    """Returns the point of a row; None where its forward tokens are not known."""
    cost = result.summary.forward_tokens
    return None if cost is None else Point(cost, graded(result.summary.accuracy), label)


def best_of_n(result: Result, name: str) -> Curve:
    """Returns the curve of Best-of-n by self-reward, n = 1 up to the row's passes."""
    points = [
        Point(priced.forward_tokens, graded(priced.accuracy), str(priced.n))
        for priced in best_of(result.records)
        if priced.forward_tokens is not None
    ]
    return Curve(name, points, TEMPERATURE, "s", above=False)


def draw(curves: Sequence[Curve], title: str) -> Figure:
    """Draws accuracy against forward tokens on a log axis, with 95 % intervals over problems."""
    # README shows such a figure, and a repository keeps every version of it: so few dots.
    figure = new_figure(6.4, 4.0, dpi=115)
    axes = figure.subplots()
    fill(axes, curves, "accuracy (%)", 100)
    axes.set_xlabel("forward tokens per answer, of both models (log scale)")
    axes.set_title(title, fontsize=11)
    return figure


def fill(axes: Axes, curves: Sequence[Curve], y_label: str, scale: float) -> None:
    """Draws curves into a panel with a logarithmic x axis.

    scale: what values are multiplied by, such as 100 for percent.
    """
    for curve in curves:
        _draw_curve(axes, curve, scale)
    axes.set_xscale("log")
    plain_log_ticks(axes)
    axes.margins(x=0.1, y=0.12)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _draw_curve(axes: Axes, curve: Curve, scale: float) -> None:
    for i, at in enumerate(curve.points):
        axes.annotate(
            at.label,
            (at.forward_tokens, scale * (at.value.high if curve.above else at.value.low)),
            xytext=(0, 4 if curve.above else -4),
            textcoords="offset points",
            ha="center",
            va="bottom" if curve.above else "top",
            fontsize=8,
            color=curve.colour,
        )
        axes.errorbar(
            at.forward_tokens,
            scale * at.value.mean,
            yerr=scale * bars(at.value),
            color=curve.colour,
            marker=curve.marker,
            markersize=6,
            capsize=3,
            label=None if i else curve.name,
        )
    axes.plot(
        [at.forward_tokens for at in curve.points],
        [scale * at.value.mean for at in curve.points],
        color=curve.colour,
        linewidth=1.2,
    )
