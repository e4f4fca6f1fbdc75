"""The figures of a run, one function each: results in, a matplotlib Figure out.

Error bars are 95 % intervals over problems. What the figures have in common is in `plot_style`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from powerjax.evaluation import Estimate, Result
from powerjax.report.plot_style import (
    MODEL_COLOURS,
    STYLE,
    bars,
    graded,
    model_names,
    new_figure,
    plain_log_ticks,
    row_name,
    shared_legend,
    style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Verdict -> (name, colour).
_VERDICTS = {
    True: ("right", "#009E73"),
    False: ("wrong", "#BBBBBB"),
    None: ("not graded", "#56B4E9"),
}


def accuracy_against_self_reward(results: Sequence[Result]) -> Figure:
    """Draws accuracy against self-reward, one panel per model; hollow marks are Best-of-N.

    On a trained model the two rise together; on random weights self-reward rises alone. Every
    result must be graded.
    """
    figure, panels = _by_model(results, height=4.4)
    for model, panel in panels.items():
        for result in results:
            if result.model == model:
                _draw_with_best(panel, result)
        panel.set_xlabel("self-reward (nats per token)")
        panel.set_ylim(-4, 104)
        panel.margins(x=0.12)
    drawn = list(panels.values())
    drawn[0].set_ylabel("accuracy (%)")
    n = max(result.summary.num_passes for result in results)
    shared_legend(figure, drawn, f"hollow: Best-of-{n}")
    figure.suptitle("What raises the model's own likelihood, and what it does for accuracy")
    return figure


def _by_model(results: Sequence[Result], height: float) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure with one titled panel per model, and model -> panel."""
    models = list(dict.fromkeys(result.model for result in results))
    figure = new_figure(3.6 * len(models) + 1.6, height)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, model in zip(panels, models, strict=True):
        panel.set_title(model)
    return figure, dict(zip(models, panels, strict=True))


def _draw_with_best(panel: Axes, result: Result) -> None:
    """Draws one row: its means with intervals, and a dotted line to its Best-of-N."""
    summary = result.summary
    colour, marker = style(result.sampler)
    reward, accuracy = summary.self_reward, graded(summary.accuracy)
    panel.errorbar(
        reward.mean,
        100 * accuracy.mean,
        xerr=bars(reward),
        yerr=100 * bars(accuracy),
        color=colour,
        marker=marker,
        markersize=8,
        capsize=3,
        label=result.sampler,
    )
    best_reward, best = summary.best_of_n_self_reward, graded(summary.best_of_n_accuracy)
    panel.plot(
        [reward.mean, best_reward.mean],
        [100 * accuracy.mean, 100 * best.mean],
        color=colour,
        linestyle=":",
        linewidth=1,
    )
    panel.plot(best_reward.mean, 100 * best.mean, marker, color=colour, markerfacecolor="white")


def accuracy_against_cost(results: Sequence[Result]) -> Figure:
    """Draws accuracy against forward tokens per answer, of one completion and of Best-of-N.

    Every result must be graded; a result whose forward tokens are not known is left out.
    """
    figure = new_figure(6.8, 4.4)
    axes = figure.subplots()
    for result in results:
        summary = result.summary
        n, tokens = summary.num_passes, summary.forward_tokens
        if tokens is None:
            continue
        colour, marker = style(result.sampler)
        colour = MODEL_COLOURS.get(result.model, colour)
        single, best = graded(summary.accuracy), graded(summary.best_of_n_accuracy)
        points: list[tuple[float, Estimate, str, str | None]] = [
            (tokens, single, colour, row_name(result, results))
        ]
        if n > 1:
            points.append((n * tokens, best, "white", None))
            ends = [100 * single.mean, 100 * best.mean]
            axes.plot([tokens, n * tokens], ends, color=colour, linestyle=":", linewidth=1)
        for x, accuracy, face, label in points:
            axes.errorbar(
                x,
                100 * accuracy.mean,
                yerr=100 * bars(accuracy),
                color=colour,
                marker=marker,
                markerfacecolor=face,
                markersize=8,
                capsize=3,
                label=label,
            )
    axes.set_xscale("log")
    plain_log_ticks(axes)
    axes.set_ylim(-4, 104)
    axes.set_xlabel("forward tokens per answer (log scale)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    most = max(result.summary.num_passes for result in results)
    shared_legend(figure, [axes], f"hollow: Best-of-{most}")
    axes.set_title(f"What an answer costs ({model_names(results)})")
    return figure


def lengths(results: Sequence[Result]) -> Figure:
    """Draws histograms of completion length, one panel per row, right and wrong ones stacked."""
    longest = max(record["num_tokens"] for result in results for record in result.records)
    width = max(1, longest // 60)
    bins = np.arange(0.5, longest + 0.5 + width, width)
    verdicts = {record.get("correct") for result in results for record in result.records}
    shown = [v for v in _VERDICTS if v in verdicts]
    figure = new_figure(7.2, 1.5 * len(results) + 1.2)
    panels = figure.subplots(len(results), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, result in zip(panels, results, strict=True):
        tokens_by_verdict = [
            [r["num_tokens"] for r in result.records if r.get("correct") is verdict]
            for verdict in shown
        ]
        share = 100 / len(result.records)
        panel.hist(
            tokens_by_verdict,
            bins=bins,
            weights=[np.full(len(tokens), share) for tokens in tokens_by_verdict],
            stacked=True,
            color=[_VERDICTS[verdict][1] for verdict in shown],
            label=[_VERDICTS[verdict][0] for verdict in shown],
        )
        panel.set_title(row_name(result, results), loc="left", fontsize=10)
        panel.grid(alpha=0.3)
    if shown != [None]:
        panels[0].legend(frameon=False)
    panels[-1].set_xlabel("completion length (tokens, EOS counted)")
    figure.supylabel("completions (%)", fontsize=10)
    figure.suptitle(f"How long completions are, and which are right ({model_names(results)})")
    return figure


def acceptance(results: Sequence[Result]) -> Figure:
    """Draws the share of chains with each acceptance rate, one panel per model, a line per row."""
    figure, panels = _by_model(results, height=3.8)
    bins = np.linspace(-0.05, 1.05, 12)  # centred on tenths, the rates that 10 moves can have
    for model, panel in panels.items():
        for result in results:
            rates = [record["acceptance_rate"] for record in result.records]
            if result.model != model or None in rates:
                continue
            colour, marker = style(result.sampler)
            share, _ = np.histogram(rates, bins)
            panel.plot(
                (bins[:-1] + bins[1:]) / 2,
                100 * share / len(rates),
                color=colour,
                marker=marker,
                label=wrapped(f"{result.sampler}, mean {np.mean(rates):.2f}"),
            )
        panel.set_xlabel("share of a chain's moves accepted")
        panel.set_xlim(-0.05, 1.05)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=9)
    next(iter(panels.values())).set_ylabel("chains (%)")
    figure.suptitle("How often a Metropolis-Hastings move is accepted")
    return figure


def acceptance_by_stage(results: Sequence[Result]) -> Figure:
    """Draws the share of moves accepted in each stage, a line per row for which it is known."""
    figure = new_figure(6.8, 3.8)
    axes = figure.subplots()
    for result in results:
        if not result.stages:
            continue
        colour, marker = style(result.sampler)
        colour = MODEL_COLOURS.get(result.model, colour)
        shares = [accepted / moves if moves else np.nan for moves, accepted in result.stages]
        axes.plot(
            np.arange(1, len(shares) + 1),
            shares,
            color=colour,
            marker=marker,
            label=row_name(result, results),
        )
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("stage (block of tokens)")
    axes.set_ylabel("share of moves accepted")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title("Acceptance stage by stage")
    return figure


def mixing(results: Sequence[Result]) -> Figure:
    """Draws accuracy and self-reward of power sampling against `num_mcmc_steps`.

    The results are of one model and differ in the number of moves; all must be graded.
    """
    steps = [result.records[0]["num_mcmc_steps"] or 0 for result in results]
    figure = new_figure(8.2, 3.8)
    panels = figure.subplots(1, 2)
    for panel, estimates, scale, name in (
        (panels[0], [graded(r.summary.accuracy) for r in results], 100, "accuracy (%)"),
        (panels[1], [r.summary.self_reward for r in results], 1, "self-reward (nats per token)"),
    ):
        panel.errorbar(
            steps,
            [scale * e.mean for e in estimates],
            yerr=scale * np.hstack([bars(e) for e in estimates]),
            color=STYLE["Power"][0],
            marker=STYLE["Power"][1],
            capsize=3,
        )
        panel.set_xticks(steps)
        panel.set_xlabel("Metropolis-Hastings moves per chain")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(0, 104)
    figure.suptitle(f"From temperature sampling (0 moves) to the power law ({results[0].model})")
    return figure
