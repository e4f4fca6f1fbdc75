"""Results for readers: numbers as text, tables, plots and pages."""

from powerjax.report.cells import cells, header, interval, law, markdown, nats, percent, spread
from powerjax.report.side_by_side import side_by_side, side_by_side_markdown, verdict

__all__ = [
    "cells",
    "header",
    "interval",
    "law",
    "markdown",
    "nats",
    "percent",
    "side_by_side",
    "side_by_side_markdown",
    "spread",
    "verdict",
]
