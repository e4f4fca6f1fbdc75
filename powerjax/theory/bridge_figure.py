"""The bridge's figure: the distance to pi_alpha on each road, with one vertical axis for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from powerjax.theory import drawing, laws, learning
from powerjax.theory.bridge import Curve, example_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = 2e-4
"""The lower end of the vertical axis; the oracle's distance of 0 is marked there."""
ANNOTATED_STEPS = (16, 64)


class Look(NamedTuple):
    """How the curves of one method are drawn."""

    colour: str
    mark: str
    dash: str


LOOKS = {
    "MH, exact": Look(drawing.GREEN, "D", "-"),
    "MH, published": Look(drawing.RED, "s", "-"),
    "SIS, base": Look(drawing.BLUE, "", "--"),
    "SIS, temperature": Look(drawing.ORANGE, "", "-."),
    "SIS, oracle": Look(drawing.BLACK, "*", ""),
    "token temperature": Look(drawing.ORANGE, "", ":"),
    "exact gradient": Look(drawing.BLACK, "", "-"),
    "REINFORCE, 16 ": Look(drawing.SKY, "", "-"),
    "REINFORCE, 256": Look(drawing.BLUE, "", "-"),
    "MLE on exact": Look(drawing.GREEN, "D", "-"),
    "MLE on MH": Look(drawing.PINK, "^", "-"),
}
"""Beginning of a method's name -> look."""


@drawing.styled
def draw(curves: Sequence[Curve], alpha: float, num_chains: int) -> drawing.Drawing:
    """Returns the bridge's figure, a panel for each road, and the table of all points."""
    title = rf"The bridge, measured: three roads to $\pi_\alpha$, $\alpha={alpha:g}$"
    title += "\nlines: exact laws and expectations, REINFORCE one run; marks: measured"
    figure, axes = drawing.panels(title, 3, height=3.9, sharey=True)
    for curve in curves:
        look = next(look for name, look in LOOKS.items() if curve.method.startswith(name))
        if curve.method == "token temperature":
            distance = curve.distance[0]
            axes[0].axhline(distance, color=look.colour, linestyle=look.dash, label=curve.method)
        elif curve.method.startswith("SIS, oracle"):
            _mark_oracle(axes[0], curve, look)
        else:
            _plot(axes, curve, look)
    _draw_noise(axes[0], alpha, num_chains)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(FLOOR, 1.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=6.5)
    distance = r"total variation to $\pi_\alpha$"
    name_axes = drawing.name_axes
    name_axes(axes[0], "a", "Sampling", "tokens drawn per completion", distance)
    name_axes(axes[1], "b", "Self-reward RL", "gradient steps", "")
    name_axes(axes[2], "c", "Self-distillation (and RL)", "completions drawn in training", "")
    return drawing.Drawing(figure, {"": _table(curves, alpha)})


def _mark_oracle(axis: Axes, curve: Curve, look: Look) -> None:
    """Draws the oracle's one point, a distance of 0, at the lower end of the axis."""
    axis.plot(
        curve.tokens_per_completion[0],
        FLOOR,
        look.mark,
        color=look.colour,
        markersize=7,
        clip_on=False,
        label="SIS, oracle proposal (0)",
    )


def _plot(axes: np.ndarray, curve: Curve, look: Look) -> None:
    """Draws a curve into its road's panel: a line if exact or of one RL run, otherwise marks.

    REINFORCE is drawn into the panel of distillation too, against the completions it draws.
    """
    is_line = curve.is_exact or curve.road == "rl"
    style: dict[str, Any] = dict(
        color=look.colour,
        linestyle=look.dash if is_line else "",
        marker="" if is_line else look.mark,
    )
    if is_line:
        style["label"] = curve.method
    axis = axes[("sampling", "rl", "distillation").index(curve.road)]
    cost = curve.tokens_per_completion if curve.road == "sampling" else curve.steps
    on_axis = cost > 0
    axis.plot(cost[on_axis], curve.distance[on_axis], **style)
    if curve.road == "rl" and not curve.is_exact:
        drawn = curve.completions_drawn[1:]
        axes[2].plot(drawn, curve.distance[1:], color=look.colour, alpha=0.7, label=curve.method)
    if curve.method.startswith("MH, exact") and curve.is_exact:
        _annotate_steps(axis, curve, look)


def _annotate_steps(axis: Axes, curve: Curve, look: Look) -> None:
    """Writes the number of moves beside a few points of a chain's curve."""
    for k in ANNOTATED_STEPS:
        if k < len(curve.steps):
            axis.annotate(
                f"{k} steps",
                (curve.tokens_per_completion[k], curve.distance[k]),
                fontsize=6,
                xytext=(5, 1),
                textcoords="offset points",
                color=look.colour,
            )


def _draw_noise(axis: Axes, alpha: float, num_chains: int) -> None:
    """Draws the distance that this many chains have from their own law, by chance alone."""
    log_target = laws.power(example_model().log_joint(), alpha)
    noise = learning.expected_distance(log_target, log_target, num_chains)
    axis.axhline(noise, color="0.6", linewidth=0.7, zorder=0)
    axis.text(3.2, noise * 1.08, f"noise of {num_chains:,} chains", color="0.35", fontsize=6)


def _table(curves: Sequence[Curve], alpha: float) -> drawing.Table:
    """Returns the columns of the CSV, one line per point of a curve."""

    def repeated(values: Sequence) -> np.ndarray:
        """Returns one value per curve, repeated for each of its points."""
        pairs = zip(values, curves, strict=True)
        return np.concatenate([[value] * len(curve.steps) for value, curve in pairs])

    return {
        "road": repeated([c.road for c in curves]),
        "method": repeated([c.method for c in curves]),
        "law": repeated(["exact" if c.is_exact else "measured" for c in curves]),
        "alpha": repeated([alpha] * len(curves)),
        **{
            column: np.concatenate([getattr(c, column) for c in curves])
            for column in ("steps", "tokens_per_completion", "completions_drawn")
        },
        "total_variation": np.concatenate([c.distance for c in curves]),
    }
