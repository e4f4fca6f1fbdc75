"""One problem's completions side by side, each token coloured by its log-probability: HTML, PNG.

The probability is the base model's (Eq. 1), whatever sampler drew the token. A dark token is one
that the model itself finds unlikely. The page around the completions is templates/completions.html.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from powerjax.records import Record
from powerjax.report.html_parts import fill

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DARKEST = 6.0  # -log p from which on the colour is the darkest (nats)
_COLOUR = (0xD5, 0x5E, 0x00)  # Okabe and Ito's vermilion; log p = 0 is white
_VERDICTS = {True: ("right", "#009E73"), False: ("wrong", "#D55E00"), None: ("not graded", "#555")}
_EOS = "<eos>"
_FONT_SIZE = 8.0  # points
_CHAR_WIDTH, _LINE_HEIGHT = 0.602 * _FONT_SIZE / 72, 1.45 * _FONT_SIZE / 72  # inches
_GAP = 2  # characters between columns


class Token(NamedTuple):
    """A token of a completion: the text it adds, and its log-probability (nats)."""

    text: str
    log_prob: float


class Run(NamedTuple):
    """Characters of one token that stand together on one line of the figure."""

    line: int
    column: int
    text: str
    log_prob: float


def tokens(record: Record, decode: Callable[[list[int]], str]) -> list[Token]:
    """Returns the record's tokens. A character made of several tokens is the text of the last.

    Raises ValueError for the record of a secret problem, whose text must not be shown, and for one
    without token ids or their log-probabilities.
    """
    if record.get("completion") is None or record.get("prompt_sha256") is not None:
        raise ValueError(
            f"the record {record['id']!r} holds no text, because its problem is secret: it is not"
            " shown"
        )
    ids, log_probs = record.get("tokens"), record.get("log_probs")
    if not ids or not log_probs or len(ids) != len(log_probs):
        raise ValueError(
            f"the record {record['id']!r} has no log_probs of its tokens: sample it with this"
            " project"
        )
    ended = record.get("finish_reason") == "eos"
    texts = pieces(ids[:-1] if ended else ids, decode) + [_EOS] * ended
    return [Token(*pair) for pair in zip(texts, log_probs, strict=True)]


def pieces(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """Returns the text that each token adds to those before it; joined, they are decode(ids)."""
    # ids[start:shown] are decoded again each time: a tokenizer drops the space of a first token.
    texts, shown, start = [], 0, 0
    for i in range(len(ids)):
        before, after = decode(list(ids[start:shown])), decode(list(ids[start : i + 1]))
        if after.endswith("\ufffd") and i + 1 < len(ids):  # the character is not whole yet
            texts.append("")
            continue
        texts.append(after[len(before) :])
        start, shown = shown, i + 1
    return texts


def colour(log_prob: float) -> str:
    """Returns `#rrggbb`: white at 0, and the darker the less likely the token is."""
    share = min(1.0, max(0.0, -log_prob) / _DARKEST)
    return "#" + "".join(f"{round(255 + share * (part - 255)):02x}" for part in _COLOUR)


def page(
    columns: Mapping[str, Sequence[Record]],
    decode: Callable[[list[int]], str],
    *,
    prompt: str,
    answer: str | None,
) -> str:
    """Returns the HTML page, which fetches nothing.

    Args:
      columns: name of a column -> records of one problem.
      decode: token ids -> text.
      answer: the reference answer; None leaves its line out.
    """
    steps = [0.0, -0.5, -1.0, -2.0, -4.0, -_DARKEST]
    legend = " ".join(
        f'<span style="background:{colour(step)}">&nbsp;{math.exp(step):.2g}&nbsp;</span>'
        for step in steps
    )
    body = "\n".join(
        f"<section><h2>{html.escape(name)}</h2>{''.join(_cell(r, decode) for r in records)}"
        "</section>"
        for name, records in columns.items()
    )
    known = "" if answer is None else f"<p>Reference answer: <b>{html.escape(answer)}</b></p>"
    return fill(
        "completions.html",
        prompt=html.escape(prompt),
        answer=known,
        legend=legend,
        body=body,
        count=len(columns),
    )


def _cell(record: Record, decode: Callable[[list[int]], str]) -> str:
    """Returns one completion as HTML: its verdict, and a coloured span for each token."""
    word, ink = _VERDICTS[record.get("correct")]
    spans = "".join(
        f'<span style="background:{colour(token.log_prob)}" title="log p {token.log_prob:.3f},'
        f' p {math.exp(token.log_prob):.3g}">{html.escape(token.text)}</span>'
        for token in tokens(record, decode)
    )
    return (
        f'<div class=one><p class=head><b style="color:{ink}">{word}</b> {_facts(record)}</p>'
        f"<pre>{spans}</pre></div>"
    )


def _facts(record: Record) -> str:
    """Returns a completion's self-reward and length, as they stand above it."""
    return f"r_self {record['self_reward']:.3f}, {record['num_tokens']} tokens"


def figure(
    columns: Mapping[str, Sequence[Record]],
    decode: Callable[[list[int]], str],
    *,
    prompt: str,
    answer: str | None,
    width: int = 36,
    max_lines: int = 40,
) -> Figure:
    """Returns the same as a figure. Positions on it are counted in characters and lines.

    Args:
      width: characters per column.
      max_lines: lines per completion; a longer one ends in an ellipsis.
    """
    from matplotlib.figure import Figure

    # --- what is written, and how much room it takes ---
    question = _question(prompt, answer)
    cells = {
        name: [_laid_out(tokens(r, decode), width, max_lines) for r in records]
        for name, records in columns.items()
    }
    deepest = max(map(len, cells.values()))
    heights = [
        max(1 + column[i][-1].line for column in cells.values() if i < len(column))
        for i in range(deepest)
    ]
    num_lines = len(question) + 3 + sum(height + 3 for height in heights)
    num_chars = max(len(cells) * (width + _GAP), max(map(len, question)) + 2)
    # --- the sheet ---
    drawn = Figure(figsize=(_CHAR_WIDTH * num_chars, _LINE_HEIGHT * num_lines), dpi=200)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, num_chars), ylim=(num_lines, 0))
    axes.axis("off")
    for number, line in enumerate(question):
        _write(axes, 1, number + 0.5, line, color="#333333")
    # --- the columns ---
    for place, (name, column) in enumerate(cells.items()):
        x, y = 1 + place * (width + _GAP), len(question) + 1.0
        _write(axes, x, y, name, weight="bold")
        y += 1.5
        for runs, record, height in zip(column, columns[name], heights, strict=False):
            _draw_completion(axes, x, y, runs, record)
            y += height + 3
    return drawn


def _question(prompt: str, answer: str | None) -> list[str]:
    """Returns the lines above the columns: at most twelve of the prompt, and the answer."""
    lines = [line for part in prompt.split("\n") for line in _wrap(part, 100)]
    lines = [*lines[:12], "..."] if len(lines) > 12 else lines
    return lines if answer is None else [*lines, f"(answer: {answer})"]


def _draw_completion(axes: Axes, x: float, y: float, runs: Sequence[Run], record: Record) -> None:
    """Draws a completion with its upper left corner at (x, y): verdict, then the coloured text."""
    from matplotlib.patches import Rectangle

    word, ink = _VERDICTS[record.get("correct")]
    _write(axes, x, y, f"{word}, {_facts(record)}", color=ink)
    for run in runs:
        corner = (x + run.column, y + 1.2 + run.line)
        shade = colour(run.log_prob)
        axes.add_patch(Rectangle(corner, len(run.text), 1, color=shade, linewidth=0))
        _write(axes, *corner, run.text)


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Writes a line of text whose upper left corner is (x, y)."""
    axes.text(
        x,
        y + 0.5,
        text,
        size=_FONT_SIZE,
        va="center_baseline",
        family="monospace",
        parse_math=False,
        **style,
    )


def _laid_out(shown: Sequence[Token], width: int, max_lines: int) -> list[Run]:
    """Returns the tokens as runs of characters, wrapped at `width`, at least one run."""
    runs: list[Run] = []
    line, column = 0, 0
    for token in shown:
        for number, part in enumerate(token.text.split("\n")):
            if number:
                line, column = line + 1, 0
            while part or (not number and not token.text):
                if column == width:
                    line, column = line + 1, 0
                head, part = part[: width - column], part[width - column :]
                if line >= max_lines:
                    return [*runs, Run(line, 0, "...", 0.0)]
                if not head:
                    break
                runs.append(Run(line, column, head.replace("\t", " "), token.log_prob))
                column += len(head)
    return runs or [Run(0, 0, "(nothing)", 0.0)]


def _wrap(text: str, width: int) -> list[str]:
    """Returns the text in pieces of `width` characters, at least one piece."""
    return [text[i : i + width] for i in range(0, max(1, len(text)), width)]
