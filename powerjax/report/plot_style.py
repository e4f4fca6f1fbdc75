"""What the figures have in common: one look per sampler, legends, error bars.

A sampler has the same colour and marker in all figures. The colours are Okabe and Ito's, which
colour-blind readers can tell apart.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from powerjax.evaluation import Estimate, Result

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sampler -> (colour, marker).
STYLE = {
    "Standard": ("#0072B2", "o"),
    "Temperature": ("#E69F00", "s"),
    "Power": ("#009E73", "D"),
    "Power(inf)": ("#CC79A7", "^"),
    "Greedy": ("#000000", "X"),
}
_OTHER = ("#56B4E9", "v")
_COLOURS = ("#56B4E9", "#D55E00", "#8C564B", "#17BECF", "#7F7F7F", "#BCBD22", "#9467BD")
_MARKERS = ("v", "P", "<", ">", "p", "h", "d", "*")
MODEL_COLOURS = {
    "Distilled": "#D55E00",
    "RandW": "#999999",
}  # model -> colour, in figures of several models


def new_figure(width: float, height: float, dpi: int = 150) -> Figure:
    """Returns an empty figure of this size in inches.

    dpi: dots per inch.
    """
    from matplotlib.figure import Figure  # imported here: sampling alone does not need it

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def style(sampler: str) -> tuple[str, str]:
    """Returns (colour, marker) of a row of the results.

    A row whose name says what sets it apart (`Power, top_k 20`) gets a look by a hash of its name,
    so that it is the same in every figure.
    """
    if "," not in sampler:
        return STYLE.get(sampler, _OTHER)
    number = zlib.crc32(sampler.encode())
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number // 7 % len(_MARKERS)]


def row_name(result: Result, results: Sequence[Result]) -> str:
    """Returns `Standard`, or `Base, Standard` where the results are of several models."""
    several = len({other.model for other in results}) > 1
    return f"{result.model}, {result.sampler}" if several else result.sampler


def model_names(results: Sequence[Result]) -> str:
    """Returns the models of the results, each once, separated by commas."""
    return ", ".join(dict.fromkeys(result.model for result in results))


def graded(accuracy: Estimate | None) -> Estimate:
    """Returns the accuracy. Raises ValueError for None: the figure needs graded records."""
    if accuracy is None:
        raise ValueError("a figure of accuracy needs graded records, and some rows have none")
    return accuracy


def bars(estimate: Estimate) -> np.ndarray:
    """Returns the distances of an interval's ends from its mean, [2, 1], as errorbar wants them."""
    ends = [estimate.mean - estimate.low, estimate.high - estimate.mean]
    return np.maximum(np.array(ends), 0)[:, None]


def shared_legend(figure: Figure, panels: Sequence[Axes], note: str) -> None:
    """Puts one legend for all panels beside them, with `note` as its title."""
    handles: dict[str, Artist] = {}
    for panel in panels:
        panel.grid(alpha=0.3)
        drawn: tuple[list[Any], list[Any]] = panel.get_legend_handles_labels()
        for handle, label in zip(*drawn, strict=True):
            handles.setdefault(label, handle[0])  # an error bar's handle is (line, caps, bars)
    figure.legend(
        list(handles.values()),
        [wrapped(label) for label in handles],
        title=note,
        title_fontsize=9,
        loc="outside right upper",
        frameon=False,
    )


def wrapped(label: str) -> str:
    """Returns the label in lines of at most 28 characters. Names of some rows are long."""
    return textwrap.fill(label, 28)


def plain_log_ticks(axes: Axes) -> None:
    """Labels a logarithmic x axis 1, 2, 5, 10, 20, ... without exponents."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
