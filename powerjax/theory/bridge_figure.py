"""The bridge's figure: the distance to pi_alpha on each road, on one axis upwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from powerjax.theory import laws, learning
from powerjax.theory.bridge import Curve, example_model
from powerjax.theory.drawing import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    Drawing,
    name_axes,
    panels,
)


def draw(curves: Sequence[Curve], alpha: float, num_chains: int) -> Drawing:
    """The bridge: distance to pi_alpha on each of the three roads, one common axis upwards."""
    title = rf"The bridge, measured: three roads to $\pi_\alpha$, $\alpha={alpha:g}$"
    title += "\nlines: exact laws and expectations, REINFORCE one run; marks: measured"
    figure, axes = panels(title, 3, height=3.9, sharey=True)
    styles = {
        "MH, exact": (GREEN, "D", "-"),
        "MH, published": (RED, "s", "-"),
        "SIS, base": (BLUE, "", "--"),
        "SIS, temperature": (ORANGE, "", "-."),
        "SIS, oracle": (BLACK, "*", ""),
        "token temperature": (ORANGE, "", ":"),
        "exact gradient": (BLACK, "", "-"),
        "REINFORCE, 16 ": (SKY, "", "-"),
        "REINFORCE, 256": (BLUE, "", "-"),
        "MLE on exact": (GREEN, "D", "-"),
        "MLE on MH": (PINK, "^", "-"),
    }
    floor = 2e-4
    for curve in curves:
        colour, mark, dash = next(v for k, v in styles.items() if curve.method.startswith(k))
        if curve.method == "token temperature":
            axes[0].axhline(curve.distance[0], color=colour, linestyle=dash, label=curve.method)
            continue
        if curve.method.startswith("SIS, oracle"):
            axes[0].plot(
                curve.tokens_per_completion[0],
                floor,
                mark,
                color=colour,
                markersize=7,
                clip_on=False,
                label="SIS, oracle proposal (0)",
            )
            continue
        exact = curve.is_exact or curve.road == "rl"
        style = dict(color=colour, linestyle=dash if exact else "", marker="" if exact else mark)
        style |= dict(label=curve.method) if exact else {}
        axis = axes[("sampling", "rl", "distillation").index(curve.road)]
        x = curve.tokens_per_completion if curve.road == "sampling" else curve.steps
        keep = x > 0
        axis.plot(x[keep], curve.distance[keep], **style)
        if curve.road == "rl" and not curve.is_exact:
            drawn = curve.completions_drawn[1:]
            axes[2].plot(drawn, curve.distance[1:], color=colour, alpha=0.7, label=curve.method)
        if curve.method.startswith("MH, exact") and exact:
            for k in (16, 64):
                if k < len(x):
                    axis.annotate(
                        f"{k} steps",
                        (x[k], curve.distance[k]),
                        fontsize=6,
                        xytext=(5, 1),
                        textcoords="offset points",
                        color=colour,
                    )
    log_target = laws.power(example_model().log_joint(), alpha)
    noise = learning.expected_distance(log_target, log_target, num_chains)
    axes[0].axhline(noise, color="0.6", linewidth=0.7, zorder=0)
    axes[0].text(3.2, noise * 1.08, f"noise of {num_chains:,} chains", color="0.35", fontsize=6)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(floor, 1.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=6.5)
    distance = r"total variation to $\pi_\alpha$"
    name_axes(axes[0], "a", "Sampling", "tokens drawn per completion", distance)
    name_axes(axes[1], "b", "Self-reward RL", "gradient steps", "")
    name_axes(axes[2], "c", "Self-distillation (and RL)", "completions drawn in training", "")
    table = {
        "road": np.concatenate([[c.road] * len(c.steps) for c in curves]),
        "method": np.concatenate([[c.method] * len(c.steps) for c in curves]),
        "law": np.concatenate(
            [["exact" if c.is_exact else "measured"] * len(c.steps) for c in curves]
        ),
        "alpha": np.concatenate([[alpha] * len(c.steps) for c in curves]),
        **{
            column: np.concatenate([getattr(c, column) for c in curves])
            for column in ("steps", "tokens_per_completion", "completions_drawn")
        },
        "total_variation": np.concatenate([c.distance for c in curves]),
    }
    return Drawing(figure, {"": table})
