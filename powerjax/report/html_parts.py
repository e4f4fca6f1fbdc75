"""Pieces of a page as HTML: headings, tables, figures as data URIs, and the page around them."""

from __future__ import annotations

import base64
import html
import io
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_CHARS = 6000  # of a prompt or completion that is shown
_LONGEST_NUMBER = 40  # characters; a longer cell is a text, and wraps
_PIXELS_PER_INCH = 84  # of a figure on the page


def fill(template: str, **parts: object) -> str:
    """Returns templates/TEMPLATE with its $names replaced by the parts, which must be HTML."""
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    return string.Template(text).substitute(parts)


def figure(name: str, drawn: Figure) -> str:
    """Returns a figure as a PNG in a data URI; `name` is its text for who cannot see it."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    alt = html.escape(name, quote=True)
    # As wide as it was drawn, so that letters have one size in all figures.
    wide = f"width: min(100%, {drawn.get_figwidth() * _PIXELS_PER_INCH:.0f}px)"
    return f'<figure><img style="{wide}" alt="{alt}" src="data:image/png;base64,{data}"></figure>'


def heading(text: str) -> str:
    """Returns a heading of the page."""
    return f"<h2>{html.escape(text)}</h2>"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as a table; the first row is its head."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td{_class_of(cell)}>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[1:]
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class_of(cell: str) -> str:
    """Returns the attribute of a cell of sentences, which wraps; "" for a number."""
    return " class=text" if len(cell) > _LONGEST_NUMBER else ""


def cut(text: str) -> str:
    """Returns a prompt or completion for the page; a very long one ends with its length."""
    text = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} [... {len(text)} characters]"
    return html.escape(text)
