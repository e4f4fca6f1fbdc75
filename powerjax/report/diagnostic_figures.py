"""The figures of diagnostics: how chains mixed, and how a student's weights are spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from powerjax.evaluation import Result
from powerjax.evaluation.diagnostics import bands
from powerjax.report.plot_style import (
    MODEL_COLOURS,
    model_names,
    new_figure,
    row_name,
    style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EDGE = 10.0  # nats; normalised log-weights beyond it are drawn in the outermost bars
_NUM_BINS = 80


def log_p_against_moves(results: Sequence[Result]) -> Figure:
    """Draws log p of the chains' states after each move of a stage, a line per traced row.

    The line is the median over a problem's chains and the band the 5-95 % range, both averaged over
    problems. Chains that have mixed have left the slope of their first moves behind.
    """
    figure = new_figure(8.2, 4.2)
    axes = figure.subplots()
    shown = [(result, result.mixing) for result in results if result.mixing is not None]
    rows = [result for result, _ in shown]
    for result, mixing in shown:
        low, median, high = bands(mixing)
        moves = np.arange(1, len(median) + 1)
        colour, marker = style(result.sampler)
        colour = MODEL_COLOURS.get(result.model, colour)
        axes.fill_between(moves, low, high, color=colour, alpha=0.15, linewidth=0)
        for edge in (low, high):  # bands of rows lie on each other where both have mixed
            axes.plot(moves, edge, color=colour, linewidth=0.6)
        axes.plot(
            moves,
            median,
            color=colour,
            marker=marker,
            markersize=4,
            markevery=max(1, len(moves) // 12),
            label=wrapped(row_name(result, rows)),
        )
        if len(moves) == 1:  # a band of one move has no width
            axes.vlines(moves, low, high, color=colour, alpha=0.4)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.set_xlabel("move of the stage")
    axes.set_ylabel("log p of the completion (nats)")
    axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(),
        title="median, and 5-95 % of chains",
        title_fontsize=9,
        loc="outside right upper",
        frameon=False,
    )
    axes.set_title(f"Whether chains have mixed ({model_names(rows)})")
    return figure


def weights(results: Sequence[Result]) -> Figure:
    """Draws histograms of the normalised log-weights W - log Z, a panel per weighed row."""
    shown = [result for result in results if result.nearness is not None]
    figure = new_figure(7.2, 2.0 * len(shown) + 1.2)
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    values = [np.clip(r.nearness.normalised, -_EDGE, _EDGE) for r in shown if r.nearness]
    bins = np.linspace(
        min(-1.0, *(v.min() for v in values)), max(1.0, *(v.max() for v in values)), _NUM_BINS + 1
    )
    for panel, result, of_row in zip(panels, shown, values, strict=True):
        share = np.full(len(of_row), 100 / len(of_row))
        colour = MODEL_COLOURS.get(result.model, style(result.sampler)[0])
        panel.hist(of_row, bins=bins, weights=share, color=colour)
        panel.axvline(0, color="black", linewidth=1, linestyle=":")
        panel.set_yscale("log")
        panel.set_title(row_name(result, shown), loc="left", fontsize=10)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel(
        "log-weight minus log Z of its problem (nats; 0 where q is pi^alpha)\n"
        f"beyond {_EDGE:.0f} nats: in the outermost bars"
    )
    figure.supylabel("completions (%, log scale)", fontsize=10)
    figure.suptitle("How the weights of the student's completions are spread")
    return figure
