"""Finds the code in a completion, whichever way the model was asked and answered.

It goes by the text alone and never compiles it (see `statements`). It finds what public harnesses
accept: a continuation of the stub as in human-eval, a fenced answer as in the BigCode harness, and,
as in EvalPlus' sanitizer, the function that is asked for together with what it needs, whatever
stands around it. A method of a class (`class Solution`) is not taken out of the class.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence

from powerjax.tasks.code import needs, statements
from powerjax.tasks.code.fences import Piece
from powerjax.tasks.code.statements import Statement

# Where Chen et al. (2021) end the continuation of a function, and a closing fence. All of these
# stand at the left margin, where any statement ends a continuation here.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")

_DOCSTRING = re.compile(r"\s*[rRuU]?(\"\"\"|''')(?:\\.|(?!\1)[^\\])*\1", re.DOTALL)
_EMPTY = re.compile(r"(?:#[^\n]*|pass\b|\.\.\.|raise NotImplementedError[^\n]*|\s)*$")


def body(parts: Sequence[Piece], indent: int, name: str, stub: str = "") -> str | None:
    """Returns a continuation of a function's stub, with what it needs; None if there is none.

    The continuation ends at the first statement at the left margin, or at a fence. Functions,
    imports and constants after it are taken if it names them.

    Args:
      parts: the pieces of the completion that follows the stub.
      indent: columns of the stub's docstring, 0 if it has none. Tokenizers of the sentencepiece
        kind drop the first space of what they decode: a body short of one column gets it back.
      name: the function's name.
      stub: the stub; names that it binds are not taken from elsewhere.
    """
    if not parts or parts[0].fenced:
        return None
    first, *rest = statements.split(parts[0].text)
    if first.kind != statements.BODY:
        return None
    line = statements.first_line(first.text)
    columns = statements.columns(line)
    if not line or (line[0] != "\t" and columns < max(1, indent - 1)):
        return None
    if re.match(rf"(?:@|(?:async\s+)?def\s+{re.escape(name)}\b)", line.strip()) and defines(
        textwrap.dedent(first.text), name
    ):
        return None  # the function anew, and not its body
    short = indent > 1 and columns == indent - 1 and first.text.startswith(line)
    text = f" {first.text}" if short else first.text
    return needs.with_needs([], text, [*rest, *needs.elsewhere(parts, parts[0])], name, stub)


def whole(parts: Sequence[Piece], name: str, stub: str = "") -> str | None:
    """Returns the definition of `name` at the left margin, with what belongs to it, or None.

    If there are several, the first one before any fence is taken, else that of the last closed
    fence, else that of the last open fence, else the first of the rest. A definition that consists
    of a docstring alone is taken only if there is no other.

    Args:
      parts: the pieces of the completion.
      name: the function's name.
      stub: the stub; names that it binds are not taken from elsewhere.
    """
    parts = [dataclasses.replace(part, text=_at_margin(part.text, name)) for part in parts]
    num_before = next((n for n, part in enumerate(parts) if part.fenced), len(parts))
    before, after = parts[:num_before], parts[num_before:]
    fenced = [part for part in after if part.fenced]
    ordered = [
        *before,
        *reversed([part for part in fenced if part.closed]),
        *reversed([part for part in fenced if not part.closed]),
        *(part for part in after if not part.fenced),
    ]
    defining = [part for part in ordered if defines(part.text, name)]
    chosen = next((part for part in defining if _has_body(part.text, name)), None)
    chosen = chosen or next(iter(defining), None)
    if chosen is None:
        return None
    above, text, loose = _core(chosen, name)
    number = next(n for n, part in enumerate(parts) if part is chosen)
    above = [*needs.elsewhere(parts[:number], chosen), *above]
    loose = [*loose, *needs.elsewhere(parts[number:], chosen)]
    return needs.with_needs(above, text, loose, name, stub).strip("\n")


def block(parts: Sequence[Piece], name: str, stub: str = "") -> str | None:
    """Returns a fenced block that does not define `name`, with what it needs of other blocks.

    The first block that returns something is taken, else the first block; None if there is none.
    """
    fenced = [part for part in parts if part.fenced]
    returning = [part for part in fenced if re.search(r"^\s*(?:return|yield)\b", part.text, re.M)]
    chosen = next(iter(returning or fenced), None)
    if chosen is None:
        return None
    return needs.with_needs([], chosen.text, needs.elsewhere(parts, chosen), name, stub)


def defines(text: str, name: str) -> bool:
    """Whether some line of `text` begins the definition of the function (or class) `name`."""
    name = re.escape(name)
    return (
        re.search(
            rf"^(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*(?::[^=\n]+)?=(?!=)", text, re.M
        )
        is not None
    )


def _at_margin(text: str, name: str) -> str:
    """Returns `text`, moved so that an indented definition of `name` begins at the left margin.

    Markdown marks code by four columns too. A method of a class stays where it is.
    """
    if defines(text, name):
        return text
    match = re.search(rf"^([ \t]+)(?:async\s+)?def\s+{re.escape(name)}\b", text, re.M)
    if match is None or re.search(r"^[ \t]*class\s+\w+\s*[(:]", text[: match.start()], re.M):
        return text
    lines = text.split("\n")
    columns = len(match[1])
    return "\n".join(line[columns:] if line[:columns].isspace() else line for line in lines)


def _has_body(text: str, name: str) -> bool:
    """Whether a definition of `name` in `text` is more than a docstring or a placeholder."""
    for part in statements.split(text):
        if name in part.names:
            rest = statements.after_head(part.text) if part.kind == statements.FUNCTION else name
            docstring = _DOCSTRING.match(rest)
            if not _EMPTY.match(rest[docstring.end() :] if docstring else rest):
                return True
    return False


def _core(piece: Piece, name: str) -> tuple[list[Statement], str, list[Statement]]:
    """Divides a piece into (statements before, the definition and its surroundings, those after).

    The surroundings are what certainly belongs to the definition, and stay as they are. The other
    statements are candidates, of which `needs` takes some.
    """
    parts = statements.split(piece.text)
    defining = [n for n, part in enumerate(parts) if name in part.names]
    if not defining:  # `name` stands inside a statement that was not recognised as its definition
        return [], piece.text, []
    at = next((n for n in defining if _has_body(parts[n].text, name)), defining[0])
    foreign = {statements.PROSE} if piece.fenced else {statements.PROSE, statements.OTHER}
    last_foreign = max((n for n in range(at) if parts[n].kind in foreign), default=-1)
    above: list[Statement]
    if piece.fenced:
        above, core = [], [part for part in parts[:at] if part.kind not in foreign]
    else:
        above, core = parts[: last_foreign + 1], parts[last_foreign + 1 : at]
    core.append(parts[at])
    loose: list[Statement] = []
    ended = False
    for part in parts[at + 1 :]:
        ended = ended or (part.kind in foreign and not piece.fenced)
        certain = part.kind in (statements.FUNCTION, statements.COMMENT)
        if not ended and part.complete and (certain or name in part.names):
            core.append(part)
        else:
            loose.append(part)
    return above, "\n".join(part.text for part in core), loose
