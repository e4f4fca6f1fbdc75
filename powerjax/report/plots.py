"""Every figure, one function each: results in, a matplotlib Figure out.

Samplers keep one colour and one marker in all of them. The colours are Okabe and Ito's, which
colour-blind readers can tell apart. Error bars are 95 % intervals over problems.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from powerjax.evaluation import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# sampler -> colour, marker
_STYLE = {
    "Standard": ("#0072B2", "o"),
    "Temperature": ("#E69F00", "s"),
    "Power": ("#009E73", "D"),
    "Power(inf)": ("#CC79A7", "^"),
    "Greedy": ("#000000", "X"),
}
_OTHER = ("#56B4E9", "v")
_COLOURS = ("#56B4E9", "#D55E00", "#8C564B", "#17BECF", "#7F7F7F", "#BCBD22", "#9467BD")
_MARKERS = ("v", "P", "<", ">", "p", "h", "d", "*")
_MODELS = {"Distilled": "#D55E00", "RandW": "#999999"}  # where one figure has several
_VERDICTS = {
    True: ("right", "#009E73"),
    False: ("wrong", "#BBBBBB"),
    None: ("not graded", "#56B4E9"),
}


def accuracy_against_self_reward(results: Sequence[Result]) -> Figure:
    """Accuracy and self-reward of each sampler, one panel a model, hollow for Best-of-N.

    On a trained model the two rise together; on random weights self-reward rises alone.
    """
    models = list(dict.fromkeys(result.model for result in results))
    figure = _figure(3.6 * len(models) + 1.6, 4.4)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, model in zip(panels, models, strict=True):
        for result in results:
            if result.model != model:
                continue
            summary = result.summary
            colour, marker = _style(result.sampler)
            reward, accuracy = summary.self_reward, summary.accuracy
            panel.errorbar(
                reward.mean,
                100 * accuracy.mean,
                xerr=_bars(reward),
                yerr=100 * _bars(accuracy),
                color=colour,
                marker=marker,
                markersize=8,
                capsize=3,
                label=result.sampler,
            )
            best_reward, best = summary.best_of_n_self_reward, summary.best_of_n_accuracy
            panel.plot(
                [reward.mean, best_reward.mean],
                [100 * accuracy.mean, 100 * best.mean],
                color=colour,
                linestyle=":",
                linewidth=1,
            )
            panel.plot(
                best_reward.mean, 100 * best.mean, marker, color=colour, markerfacecolor="white"
            )
        panel.set_title(model)
        panel.set_xlabel("self-reward (nats per token)")
        panel.set_ylim(-4, 104)
        panel.margins(x=0.12)
    panels[0].set_ylabel("accuracy (%)")
    n = max(result.summary.num_passes for result in results)
    _legend(figure, panels, f"hollow: Best-of-{n}")
    figure.suptitle("What raises the model's own likelihood, and what it does for accuracy")
    return figure


def accuracy_against_cost(results: Sequence[Result]) -> Figure:
    """Accuracy against the forward tokens an answer costs, singly and as Best-of-N (N times)."""
    figure = _figure(6.8, 4.4)
    axes = figure.subplots()
    for result in results:
        summary = result.summary
        n, tokens = summary.num_passes, summary.forward_tokens
        if tokens is None:
            continue
        colour, marker = _style(result.sampler)
        colour = _MODELS.get(result.model, colour)
        single, best = summary.accuracy, summary.best_of_n_accuracy
        points = [(tokens, single, colour, _name(result, results))]
        if n > 1:
            points.append((n * tokens, best, "white", None))
            ends = [100 * single.mean, 100 * best.mean]
            axes.plot([tokens, n * tokens], ends, color=colour, linestyle=":", linewidth=1)
        for x, accuracy, face, label in points:
            axes.errorbar(
                x,
                100 * accuracy.mean,
                yerr=100 * _bars(accuracy),
                color=colour,
                marker=marker,
                markerfacecolor=face,
                markersize=8,
                capsize=3,
                label=label,
            )
    axes.set_xscale("log")
    _plain_log_ticks(axes)
    axes.set_ylim(-4, 104)
    axes.set_xlabel("forward tokens per answer (log scale)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    most = max(result.summary.num_passes for result in results)
    _legend(figure, [axes], f"hollow: Best-of-{most}")
    axes.set_title(f"What an answer costs ({_models(results)})")
    return figure


def lengths(results: Sequence[Result]) -> Figure:
    """Histograms of completion length, right and wrong answers stacked, one panel a sampler."""
    longest = max(record["num_tokens"] for result in results for record in result.records)
    width = max(1, longest // 60)
    bins = np.arange(0.5, longest + 0.5 + width, width)
    verdicts = {record.get("correct") for result in results for record in result.records}
    shown = [v for v in _VERDICTS if v in verdicts]
    figure = _figure(7.2, 1.5 * len(results) + 1.2)
    panels = figure.subplots(len(results), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, result in zip(panels, results, strict=True):
        found = [
            [r["num_tokens"] for r in result.records if r.get("correct") is verdict]
            for verdict in shown
        ]
        share = 100 / len(result.records)
        panel.hist(
            found,
            bins=bins,
            weights=[np.full(len(tokens), share) for tokens in found],
            stacked=True,
            color=[_VERDICTS[verdict][1] for verdict in shown],
            label=[_VERDICTS[verdict][0] for verdict in shown],
        )
        panel.set_title(_name(result, results), loc="left", fontsize=10)
        panel.grid(alpha=0.3)
    if shown != [None]:
        panels[0].legend(frameon=False)
    panels[-1].set_xlabel("completion length (tokens, EOS counted)")
    figure.supylabel("completions (%)", fontsize=10)
    figure.suptitle(f"How long completions are, and which are right ({_models(results)})")
    return figure


def acceptance(results: Sequence[Result]) -> Figure:
    """The share of chains with each acceptance rate, one panel a model, a line a sampler."""
    models = list(dict.fromkeys(result.model for result in results))
    figure = _figure(3.6 * len(models) + 1.6, 3.8)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    bins = np.linspace(-0.05, 1.05, 12)  # centred on tenths, the rates that 10 moves can have
    for panel, model in zip(panels, models, strict=True):
        for result in results:
            rates = [record["acceptance_rate"] for record in result.records]
            if result.model != model or None in rates:
                continue
            colour, marker = _style(result.sampler)
            share, _ = np.histogram(rates, bins)
            panel.plot(
                (bins[:-1] + bins[1:]) / 2,
                100 * share / len(rates),
                color=colour,
                marker=marker,
                label=_wrapped(f"{result.sampler}, mean {np.mean(rates):.2f}"),
            )
        panel.set_title(model)
        panel.set_xlabel("share of a chain's moves accepted")
        panel.set_xlim(-0.05, 1.05)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=9)
    panels[0].set_ylabel("chains (%)")
    figure.suptitle("How often a Metropolis-Hastings move is accepted")
    return figure


def acceptance_by_stage(results: Sequence[Result]) -> Figure:
    """The share of moves accepted in each stage of the sampler, a line a row that knows it."""
    figure = _figure(6.8, 3.8)
    axes = figure.subplots()
    for result in results:
        if not result.stages:
            continue
        colour, marker = _style(result.sampler)
        colour = _MODELS.get(result.model, colour)
        shares = [accepted / moves if moves else np.nan for moves, accepted in result.stages]
        axes.plot(
            np.arange(1, len(shares) + 1),
            shares,
            color=colour,
            marker=marker,
            label=_name(result, results),
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("stage (block of tokens)")
    axes.set_ylabel("share of moves accepted")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title("Acceptance stage by stage")
    return figure


def mixing(results: Sequence[Result]) -> Figure:
    """Accuracy and self-reward of power sampling against the number of MH moves."""
    steps = [result.records[0]["num_mcmc_steps"] or 0 for result in results]
    figure = _figure(8.2, 3.8)
    panels = figure.subplots(1, 2)
    for panel, estimates, scale, name in (
        (panels[0], [r.summary.accuracy for r in results], 100, "accuracy (%)"),
        (panels[1], [r.summary.self_reward for r in results], 1, "self-reward (nats per token)"),
    ):
        panel.errorbar(
            steps,
            [scale * e.mean for e in estimates],
            yerr=scale * np.hstack([_bars(e) for e in estimates]),
            color=_STYLE["Power"][0],
            marker=_STYLE["Power"][1],
            capsize=3,
        )
        panel.set_xticks(steps)
        panel.set_xlabel("Metropolis-Hastings moves a chain")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(0, 104)
    figure.suptitle(f"From temperature sampling (0 moves) to the power law ({results[0].model})")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # here: the samplers do without it

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _style(sampler: str) -> tuple[str, str]:
    """(colour, marker) of a row.

    A row whose name says what sets it apart (`Power, top_k 20`) gets its own by a hash of the name,
    the same in every figure.
    """
    if "," not in sampler:
        return _STYLE.get(sampler, _OTHER)
    number = zlib.crc32(sampler.encode())
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number // 7 % len(_MARKERS)]


def _name(result: Result, results: Sequence[Result]) -> str:
    """`Standard`, or where the figure has several models `Base, Standard`."""
    several = len({other.model for other in results}) > 1
    return f"{result.model}, {result.sampler}" if several else result.sampler


def _models(results: Sequence[Result]) -> str:
    return ", ".join(dict.fromkeys(result.model for result in results))


def _bars(estimate) -> np.ndarray:
    """[2, 1], the distances of an interval's ends from its mean."""
    ends = [estimate.mean - estimate.low, estimate.high - estimate.mean]
    return np.maximum(np.array(ends), 0)[:, None]


def _legend(figure: Figure, panels: Sequence[Axes], note: str) -> None:
    handles = {}
    for panel in panels:
        panel.grid(alpha=0.3)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle[0])
    figure.legend(
        handles.values(),
        [_wrapped(label) for label in handles],
        title=note,
        title_fontsize=9,
        loc="outside right upper",
        frameon=False,
    )


def _wrapped(label: str) -> str:
    """The label in lines of at most 28 characters: rows that differ in much have long names."""
    return textwrap.fill(label, 28)


def _plain_log_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
