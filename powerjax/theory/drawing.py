"""How the theory figures look and are kept: palette, style, panels, PNG and CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
STYLE = {
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
"""Inches; text is 7 to 8 points at this width."""

Tables = dict[str, dict[str, Sequence]]


class Drawing(NamedTuple):
    figure: object
    """A matplotlib Figure."""
    tables: Tables


def panels(title: str, columns: int, height: float = 2.6, **kwargs):
    """A figure of `columns` panels lettered (a), (b), .. by `name_axes`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    figure, axes = pyplot.subplots(
        1, columns, figsize=(WIDTH, height), layout="constrained", **kwargs
    )
    figure.suptitle(title, fontsize=9)
    return figure, np.atleast_1d(axes)


def name_axes(axis, letter: str, title: str, x: str, y: str) -> None:
    axis.set_title(f"({letter}) {title}", loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png and a CSV for each table; returns the paths."""
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
