"""Takes a completion apart at the fences (``` or ~~~) that Markdown marks code with."""

from __future__ import annotations

import dataclasses
import re

from powerjax.tasks.code import statements

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_INLINE_FENCE = re.compile(r"^(?=[ \t]*[^`\s])([^`\n]+)(```\w*)[ \t]*$", re.MULTILINE)
_QUOTES = ('"""', "'''")
# The space that some tokenizers put before the first word.
_FIRST_SPACE = re.compile(r"\A(\n*) (?=(?:async|def|class|import|from)\s|@\w)")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a completion.

    Attributes:
      text: its lines.
      fenced: whether it stands between fences; the text is what stands between them.
      closed: whether a fence follows it.
    """

    text: str
    fenced: bool
    closed: bool


def pieces(completion: str) -> list[Piece]:
    """Returns the stretches of a completion between its fences, in their order.

    A fenced stretch that is not closed goes to the end of the completion. If the text before the
    first fence is code, that fence closes it: the prompt, or a part of it that is not shown, opened
    it.
    """
    text = completion.lstrip("\ufeff\u200b").replace("\r\n", "\n").replace("\r", "\n")
    all_lines = _INLINE_FENCE.sub(r"\1\n\2", _FIRST_SPACE.sub(r"\1", text)).split("\n")
    last_with = {
        quotes: number
        for number, line in enumerate(all_lines)
        for quotes in _QUOTES
        if quotes in line
    }
    parts: list[Piece] = []
    lines: list[str] = []
    fence, columns, state = "", 0, statements.Open()  # the open fence, its columns, open strings
    for number, line in enumerate(all_lines):
        match = _FENCE.match(line)
        if state.quotes and number < last_with[state.quotes] and statements.columns(line) > columns:
            match = None  # a fence in a docstring
        closes = match and fence and match[1].startswith(fence) and not match[2].strip()
        opens = match and (not fence or (match[2].strip() and match[1].startswith(fence)))
        if match is None or not (closes or opens):
            lines.append(line)
            state.read(line)
            continue
        parts.append(_piece(lines, bool(fence), True))
        first = len(parts) == 1 and not match[2].strip()
        opens = opens and not (first and _is_code(parts[0].text))
        lines, state = [], statements.Open()
        fence, columns = (match[1], statements.columns(line)) if opens else ("", 0)
    parts.append(_piece(lines, bool(fence), False))
    return [part for part in parts if part.text.strip()]


def _piece(lines: list[str], fenced: bool, closed: bool) -> Piece:
    text = "\n".join(lines)
    prompts = [line for line in lines if line.startswith((">>> ", "... "))]
    if fenced and any(line.startswith(">>> def ") for line in prompts):
        text = "\n".join(line[4:] for line in prompts)  # a session at the interpreter
    return Piece(text, fenced, closed)


def _is_code(text: str) -> bool:
    """Whether text before the first fence is code that the fence closes."""
    functions = [part for part in statements.split(text) if part.kind == statements.FUNCTION]
    return bool(functions) or re.match(r"(?:  |\t)", statements.first_line(text)) is not None
