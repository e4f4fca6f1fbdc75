"""The figures of experiments/rewards.py: the temperature sweep, and gain against covariance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from powerjax.evaluation import Summary
from powerjax.evaluation.proposition4 import Probed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, as in plots: those of the samplers.
_STYLE = {"Power sampling": ("#009E73", "D"), "Token temperature": ("#E69F00", "s")}
_FITTED, _PREDICTED, _POINTS = "#0072B2", "#D55E00", "#555555"


def sweep(series: Mapping[str, Mapping[float, Summary]], title: str) -> Figure:
    """r* and r_self against tau = 1/alpha; series: name -> alpha -> summary.

    The paper's temperature figure, for sampling from pi^alpha and for token temperature.
    """
    figure = _figure(8.6, 4.0)
    panels = figure.subplots(1, 2)
    for panel, field, scale, name in (
        (panels[0], "accuracy", 100, "accuracy r* (%)"),
        (panels[1], "self_reward", 1, "self-reward r_self (nats per token)"),
    ):
        for label, by_alpha in series.items():
            found = {1 / a: getattr(by_alpha[a], field) for a in sorted(by_alpha)}
            if None in found.values():
                continue
            colour, marker = _STYLE.get(label, (_POINTS, "o"))
            means = np.array([estimate.mean for estimate in found.values()])
            ends = np.array([[e.low, e.high] for e in found.values()]).T
            bars = np.maximum(np.abs(ends - means), 0)
            panel.errorbar(
                list(found),
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


def gain_against_covariance(found: Probed, title: str) -> Figure:
    """Left: gain of r_lambda against its covariance, fitted and predicted. Right: Prop. 4 in alpha.

    The right panel has lambda left out: the sum log-likelihood's mean against alpha, and the
    integral of its variance.
    """
    figure = _figure(10.2, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    points = left.scatter(
        found.covariance, found.gain, c=found.lambdas, cmap="viridis", s=22, zorder=3
    )
    figure.colorbar(points, ax=left, label="lambda", pad=0.01)
    ends = np.array([found.covariance.min(), found.covariance.max()])
    middle, level = found.covariance.mean(), found.gain.mean()
    for line, colour, style, name in (
        (found.slope, _FITTED, "-", "fitted"),
        (found.predicted, _PREDICTED, "--", "Prop. 4"),
    ):
        left.plot(
            ends,
            level + line.value * (ends - middle),
            style,
            color=colour,
            label=f"{name}: slope {line.value:.3f} [{line.low:.3f}, {line.high:.3f}]",
        )
    left.set_xlabel("Cov(r_self, r_lambda) on standard completions, within problems")
    left.set_ylabel("mean r_lambda, power minus standard")
    left.set_title("Synthetic rewards", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper left")
    rise = np.array(found.rise)
    right.errorbar(
        found.alphas,
        rise[:, 0],
        yerr=np.abs(rise[:, 1:] - rise[:, :1]).T,
        fmt="o",
        color=_FITTED,
        capsize=3,
        label="measured",
    )
    predicted = np.array(found.rise_predicted)
    at = found.alphas
    right.plot(at, predicted[:, 0], "--", color=_PREDICTED, label="integral of Var(r_self)")
    right.fill_between(at, predicted[:, 1], predicted[:, 2], color=_PREDICTED, alpha=0.2)
    right.set_xlabel("alpha")
    right.set_ylabel("mean sum log-likelihood, minus that at 1 (nats)")
    right.set_title("Prop. 4 with r* = r_self", loc="left", fontsize=10)
    right.legend(frameon=False, loc="lower right")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # here: the samplers do without it

    return Figure(figsize=(width, height), dpi=150, layout="constrained")
