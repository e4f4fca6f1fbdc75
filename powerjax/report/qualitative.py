"""One problem's completions side by side, each token coloured by its log-probability: HTML, PNG.

The probability is the base model's (Eq. 1), whatever sampler drew the token: a dark token is one
that the model itself finds unlikely.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from powerjax.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DARKEST = 6.0  # -log p of the darkest colour (nats)
_COLOUR = (0xD5, 0x5E, 0x00)  # Okabe and Ito's vermilion, on white at log p = 0
_VERDICTS = {True: ("right", "#009E73"), False: ("wrong", "#D55E00"), None: ("not graded", "#555")}
_EOS = "<eos>"


class Token(NamedTuple):
    """The text a token adds, and its log-probability (nats)."""

    text: str
    log_prob: float


def tokens(record: Record, decode: Callable[[list[int]], str]) -> list[Token]:
    """The record's tokens; a character that several tokens make stands at the last of them.

    Raises ValueError for the record of a secret problem, whose text may stand nowhere, and for one
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
    """What each token adds to the text of those before it; joined they are decode(ids)."""
    found, shown, start = [], 0, 0  # ids[start:shown] are decoded again, as context for spaces
    for i in range(len(ids)):
        before, after = decode(list(ids[start:shown])), decode(list(ids[start : i + 1]))
        if after.endswith("\ufffd") and i + 1 < len(ids):  # within a character
            found.append("")
            continue
        found.append(after[len(before) :])
        start, shown = shown, i + 1
    return found


def colour(log_prob: float) -> str:
    """`#rrggbb`, white at 0 and darker as the token is less likely."""
    share = min(1.0, max(0.0, -log_prob) / _DARKEST)
    return "#" + "".join(f"{round(255 + share * (part - 255)):02x}" for part in _COLOUR)


def page(
    columns: Mapping[str, Sequence[Record]],
    decode: Callable[[list[int]], str],
    *,
    prompt: str,
    answer: str | None,
) -> str:
    """The HTML page; columns: name -> records of one problem. Nothing is fetched by it."""
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
    return _PAGE.format(
        prompt=html.escape(prompt), answer=known, legend=legend, body=body, count=len(columns)
    )


def _cell(record: Record, decode: Callable[[list[int]], str]) -> str:
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
    """The same as a figure, `width` characters a column; longer completions end in an ellipsis."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    size, gap = 8.0, 2  # points; characters between columns
    across, down = 0.602 * size / 72, 1.45 * size / 72  # inches of a character and of a line
    asked = [line for part in prompt.split("\n") for line in _wrap(part, 100)]
    asked = [*asked[:12], "..."] if len(asked) > 12 else asked
    if answer is not None:
        asked.append(f"(answer: {answer})")
    cells = {
        name: [_laid_out(tokens(r, decode), width, max_lines) for r in records]
        for name, records in columns.items()
    }
    deepest = max(map(len, cells.values()))
    heights = [
        max(1 + rows[i][-1][0] for rows in cells.values() if i < len(rows)) for i in range(deepest)
    ]
    num_lines = len(asked) + 3 + sum(height + 3 for height in heights)
    num_chars = max(len(cells) * (width + gap), max(map(len, asked)) + 2)
    drawn = Figure(figsize=(across * num_chars, down * num_lines), dpi=200)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, num_chars), ylim=(num_lines, 0))
    axes.axis("off")

    def write(x: float, y: float, text: str, **style) -> None:
        axes.text(
            *(x, y + 0.5),
            text,
            size=size,
            va="center_baseline",
            family="monospace",
            parse_math=False,
            **style,
        )

    for y, line in enumerate(asked):
        write(1, y + 0.5, line, color="#333333")
    for column, (name, rows) in enumerate(cells.items()):
        x, y = 1 + column * (width + gap), len(asked) + 1
        write(x, y, name, weight="bold")
        y += 1.5
        for row, (laid_out, record) in enumerate(zip(rows, columns[name], strict=True)):
            word, ink = _VERDICTS[record.get("correct")]
            write(x, y, f"{word}, {_facts(record)}", color=ink)
            for line, place, text, log_prob in laid_out:
                box = (x + place, y + 1.2 + line)
                axes.add_patch(Rectangle(box, len(text), 1, color=colour(log_prob), linewidth=0))
                write(*box, text)
            y += heights[row] + 3
    return drawn


def _laid_out(
    found: Sequence[Token], width: int, max_lines: int
) -> list[tuple[int, int, str, float]]:
    """(line, column, text, log-probability) of runs of characters, wrapped at `width`."""
    runs, line, place = [], 0, 0
    for token in found:
        for number, part in enumerate(token.text.split("\n")):
            if number:
                line, place = line + 1, 0
            while part or (not number and not token.text):
                if place == width:
                    line, place = line + 1, 0
                taken, part = part[: width - place], part[width - place :]
                if line >= max_lines:
                    return [*runs, (line, 0, "...", 0.0)]
                if not taken:
                    break
                runs.append((line, place, taken.replace("\t", " "), token.log_prob))
                place += len(taken)
    return runs or [(0, 0, "(nothing)", 0.0)]


def _wrap(text: str, width: int) -> list[str]:
    return [text[i : i + width] for i in range(0, max(1, len(text)), width)]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Completions side by side</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 3rem; color: #1a1a1a;
  background: #fff; overflow-wrap: anywhere; }}
main {{ display: grid; grid-template-columns: repeat({count}, minmax(0, 1fr)); gap: 1rem; }}
@media (max-width: 60rem) {{ main {{ grid-template-columns: minmax(0, 1fr); }} }}
h2 {{ font-size: 1.05rem; margin: .5rem 0; border-bottom: 2px solid #888; }}
pre {{ font: .8rem/1.6 ui-monospace, monospace; white-space: pre-wrap; margin: .2rem 0 1rem; }}
.asked {{ background: #f5f5f5; padding: .6rem; }}
.head {{ margin: 0; font-size: .85rem; }}
.small {{ font-size: .85rem; color: #444; }}
</style>
</head>
<body>
<h1 style="font-size:1.3rem">Completions side by side</h1>
<pre class=asked>{prompt}</pre>
{answer}
<p class=small>Colour: the model's own probability of each token, {legend} or less. Point at a
token for its value.</p>
<main>
{body}
</main>
</body>
</html>
"""
