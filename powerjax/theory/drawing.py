"""How the theory figures look and are written: palette, style, panels, PNG and CSV.

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 220,
}
WIDTH = 7.0
"""The width of a figure in inches. Text is 7 to 8 points at this width."""

Table = dict[str, Sequence | np.ndarray]
"""Name of a column -> its values."""


class Drawing(NamedTuple):
    """A figure, and the numbers behind it."""

    figure: Figure
    tables: dict[str, Table]
    """End of the CSV's name -> table; "" for the CSV that is named as the figure is."""


_P = ParamSpec("_P")
_T = TypeVar("_T")


def styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """Returns `draw` with STYLE in force while it runs, and the caller's settings after it."""

    @functools.wraps(draw)
    def styled_draw(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        from matplotlib import pyplot

        with pyplot.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled_draw


def panels(
    title: str, columns: int, height: float = 2.6, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """Returns a figure of `height` inches and its panels, axes [columns]."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(WIDTH, height), layout="constrained", **kwargs
    )
    figure.suptitle(title, fontsize=9)
    return figure, np.atleast_1d(axes)


def name_axes(axis: Axes, letter: str, title: str, x: str, y: str) -> None:
    """Writes a panel's title, "(letter) title", and the labels of its axes."""
    axis.set_title(f"({letter}) {title}", loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)


@styled
def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png and one CSV for each table, NAME.csv or NAME_TABLE.csv; returns the paths."""
    from matplotlib import pyplot

    paths = [folder / f"{name}.png"]
    drawing.figure.savefig(paths[0])
    pyplot.close(drawing.figure)
    for table, columns in drawing.tables.items():
        paths.append(folder / (f"{name}_{table}.csv" if table else f"{name}.csv"))
        with open(paths[-1], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(np.asarray(c).tolist() for c in columns.values()), strict=True))
    return paths
