"""The figures of rewards: the temperature sweep, and gain against covariance (Prop. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from powerjax.evaluation import Summary
from powerjax.evaluation.proposition4 import Interval, Probed
from powerjax.report.plot_style import STYLE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The series of the sweep have the looks of the samplers that they are of.
_STYLE = {"Power sampling": STYLE["Power"], "Token temperature": STYLE["Temperature"]}
_FITTED, _PREDICTED, _POINTS = "#0072B2", "#D55E00", "#555555"


def sweep(series: Mapping[str, Mapping[float, Summary]], title: str) -> Figure:
    """Draws r* and r_self against tau = 1/alpha, as the paper's temperature figure does.

    A series without verdicts is left out of the panel of r*.

    Args:
      series: name ("Power sampling", "Token temperature") -> alpha -> summary.
    """
    figure = new_figure(8.6, 4.0)
    panels = figure.subplots(1, 2)
    for panel, field, scale, name in (
        (panels[0], "accuracy", 100, "accuracy r* (%)"),
        (panels[1], "self_reward", 1, "self-reward r_self (nats per token)"),
    ):
        for label, by_alpha in series.items():
            by_tau = {1 / a: getattr(by_alpha[a], field) for a in sorted(by_alpha)}
            if None in by_tau.values():
                continue
            colour, marker = _STYLE.get(label, (_POINTS, "o"))
            means = np.array([estimate.mean for estimate in by_tau.values()])
            ends = np.array([[e.low, e.high] for e in by_tau.values()]).T
            bars = np.maximum(np.abs(ends - means), 0)
            panel.errorbar(
                list(by_tau),
                scale * means,
                yerr=scale * bars,
                color=colour,
                marker=marker,
                capsize=3,
                label=label,
            )
        panel.set_xlabel("tau = 1 / alpha")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)
    panels[1].legend(frameon=False)  # r* is not always known
    figure.suptitle(title)
    return figure


def gain_against_covariance(probed: Probed, title: str) -> Figure:
    """Draws two tests of Prop. 4.

    Left: the gain of r_lambda against its covariance with r_self, a point per lambda, with the
    fitted line and the predicted one. Right: the mean sum log-likelihood against alpha, and the
    integral of its variance, which predicts it.
    """
    figure = new_figure(10.2, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_gain(figure, left, probed)
    _draw_rise(right, probed)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def _draw_gain(figure: Figure, panel: Axes, probed: Probed) -> None:
    """Draws the points of the lambdas, and both lines through their middle."""
    points = panel.scatter(
        probed.covariance, probed.gain, c=probed.lambdas, cmap="viridis", s=22, zorder=3
    )
    figure.colorbar(points, ax=panel, label="lambda", pad=0.01)
    ends = np.array([probed.covariance.min(), probed.covariance.max()])
    middle, level = probed.covariance.mean(), probed.gain.mean()
    lines: tuple[tuple[Interval, str, str, str], ...] = (
        (probed.slope, _FITTED, "-", "fitted"),
        (probed.predicted, _PREDICTED, "--", "Prop. 4"),
    )
    for slope, colour, dash, name in lines:
        panel.plot(
            ends,
            level + slope.value * (ends - middle),
            dash,
            color=colour,
            label=f"{name}: slope {slope.value:.3f} [{slope.low:.3f}, {slope.high:.3f}]",
        )
    panel.set_xlabel("Cov(r_self, r_lambda) on standard completions, within problems")
    panel.set_ylabel("mean r_lambda, power minus standard")
    panel.set_title("Synthetic rewards", loc="left", fontsize=10)
    panel.legend(frameon=False, loc="upper left")


def _draw_rise(panel: Axes, probed: Probed) -> None:
    """Draws the mean sum log-likelihood at each exponent, measured and predicted."""
    rise, predicted = np.array(probed.rise), np.array(probed.rise_predicted)
    panel.errorbar(
        probed.alphas,
        rise[:, 0],
        yerr=np.abs(rise[:, 1:] - rise[:, :1]).T,
        fmt="o",
        color=_FITTED,
        capsize=3,
        label="measured",
    )
    at = probed.alphas
    panel.plot(at, predicted[:, 0], "--", color=_PREDICTED, label="integral of Var(r_self)")
    panel.fill_between(at, predicted[:, 1], predicted[:, 2], color=_PREDICTED, alpha=0.2)
    panel.set_xlabel("alpha")
    panel.set_ylabel("mean sum log-likelihood, minus that at 1 (nats)")
    panel.set_title("Prop. 4 with r* = r_self", loc="left", fontsize=10)
    panel.legend(frameon=False, loc="lower right")
