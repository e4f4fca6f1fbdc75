"""The code in a completion, whichever way the model was asked and answered.

Found by the text alone, never by compiling it (see `statements`). What public harnesses accept is
found here: a continuation of the stub as human-eval takes it, the fenced answers that the BigCode
harness takes, and, as EvalPlus' sanitizer does, the function that is asked for together with what
it needs, whatever stands around it. A method of a class (`class Solution`) is not taken out of it.
"""

from __future__ import annotations

import builtins
import dataclasses
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence

from powerjax.tasks.answers import statements
from powerjax.tasks.answers.statements import Statement

# Where Chen et al. (2021) end the continuation of a function, and a closing fence. Here it ends at
# any statement at the left margin, which these are.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_INLINE_FENCE = re.compile(r"^(?=[ \t]*[^`\s])([^`\n]+)(```\w*)[ \t]*$", re.MULTILINE)
_QUOTES = ('"""', "'''")
_FIRST_SPACE = re.compile(r"\A(\n*) (?=(?:async|def|class|import|from)\s|@\w)")  # a tokenizer's
_DOCSTRING = re.compile(r"\s*[rRuU]?(\"\"\"|''')(?:\\.|(?!\1)[^\\])*\1", re.DOTALL)
_EMPTY = re.compile(r"(?:#[^\n]*|pass\b|\.\.\.|raise NotImplementedError[^\n]*|\s)*$")
_LIFTED = re.compile(
    r"^from[ \t]+__future__[ \t]+import(?:[ \t]|\\\n)*(?:\([^)]*\)|(?:[^\n(\\]|\\\n)+)[^\n]*\n?",
    re.MULTILINE,
)
_EXAMPLE = re.compile(r"(?:assert|print|if\s+__name__)\b")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a completion.

    Attributes:
      text: its lines.
      fenced: whether it stands between fences; the text is that between them.
      closed: whether it is followed by a fence.
    """

    text: str
    fenced: bool
    closed: bool


def pieces(completion: str) -> list[Piece]:
    """The stretches of a completion between its fences (``` or ~~~), in their order.

    A fence that the completion does not close goes to its end. The first fence closes what stands
    before it if that is code: the prompt, or a part of it that is not shown, opened it.
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
    fence, columns, state = "", 0, statements.Open()
    for number, line in enumerate(all_lines):
        match = _FENCE.match(line)
        if state.quotes and number < last_with[state.quotes] and _columns(line) > columns:
            match = None  # a fence in a docstring
        closes = match and fence and match[1].startswith(fence) and not match[2].strip()
        opens = match and (not fence or (match[2].strip() and match[1].startswith(fence)))
        if not (closes or opens):
            lines.append(line)
            state.read(line)
            continue
        parts.append(_piece(lines, bool(fence), True))
        first = len(parts) == 1 and not match[2].strip()
        opens = opens and not (first and _is_code(parts[0].text))
        lines, fence, columns = [], match[1] if opens else "", _columns(line) if opens else 0
        state = statements.Open()
    return [piece for piece in [*parts, _piece(lines, bool(fence), False)] if piece.text.strip()]


def body(parts: Sequence[Piece], indent: int, name: str, stub: str = "") -> str | None:
    """A continuation of a function's stub, with what it needs; None if it is not one.

    It ends at the first statement at the left margin, or at a fence. Functions, imports and
    constants after it are taken if it names them.

    Args:
      parts: of the completion that follows the stub.
      indent: columns of the stub's docstring, 0 if it has none. A tokenizer of the sentencepiece
        kind drops the first space of what it decodes: a body short of one column gets it back.
      name: of the function.
      stub: its names are not taken from elsewhere.
    """
    if not parts or parts[0].fenced:
        return None
    first, *rest = statements.split(parts[0].text)
    if first.kind != statements.BODY:
        return None
    line = _first_line(first.text)
    columns = len(line) - len(line.lstrip(" "))
    if not line or (line[0] != "\t" and columns < max(1, indent - 1)):
        return None
    if re.match(rf"(?:@|(?:async\s+)?def\s+{re.escape(name)}\b)", line.strip()):
        whole = textwrap.dedent(first.text)
        if defines(whole, name):
            return None
    short = indent > 1 and columns == indent - 1 and first.text.startswith(line)
    text = f" {first.text}" if short else first.text
    return _with_needs([], text, [*rest, *_elsewhere(parts, parts[0])], name, stub)


def whole(parts: Sequence[Piece], name: str, stub: str = "") -> str | None:
    """The definition of `name` at the left margin, with what belongs to it, or None.

    Of several the first before any fence counts, then that of the last fence that is closed, then
    of an open one, then any other; what consists of a docstring alone counts last.

    Args:
      parts: of the completion.
      name: of the function.
      stub: its names are not taken from elsewhere.
    """
    parts = [dataclasses.replace(part, text=_at_margin(part.text, name)) for part in parts]
    number_before = next((n for n, part in enumerate(parts) if part.fenced), len(parts))
    before, after = parts[:number_before], parts[number_before:]
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
    above = [*_elsewhere(parts[:number], chosen), *above]
    loose = [*loose, *_elsewhere(parts[number:], chosen)]
    return _with_needs(above, text, loose, name, stub).strip("\n")


def block(parts: Sequence[Piece], name: str, stub: str = "") -> str | None:
    """A fenced block that does not define `name`: the first that returns something, or the first.

    With imports and helpers of other blocks that it needs. None if there is no block.
    """
    fenced = [part for part in parts if part.fenced]
    returning = [part for part in fenced if re.search(r"^\s*(?:return|yield)\b", part.text, re.M)]
    chosen = next(iter(returning or fenced), None)
    if chosen is None:
        return None
    return _with_needs([], chosen.text, _elsewhere(parts, chosen), name, stub)


def defines(text: str, name: str) -> bool:
    """Whether some line of `text` begins the definition of the function (or class) `name`."""
    name = re.escape(name)
    return (
        re.search(
            rf"^(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*(?::[^=\n]+)?=(?!=)", text, re.M
        )
        is not None
    )


def fitted(text: str, indent: int) -> str:
    """A function's body moved to the columns of its docstring.

    Args:
      text: a body, perhaps at the left margin or in tabs, and statements after it.
      indent: columns of the docstring; 0 if there is none, and then any will do.
    """
    first, *rest = statements.split(_with_first_columns(text))
    if first.kind != statements.BODY:
        first, rest = dataclasses.replace(first, text=text), []
    lines = first.text.split("\n")
    inside = statements.inside_strings(first.text)
    if _first_line(first.text).startswith("\t"):
        lines = [
            line if within else re.sub(r"^[ \t]+", lambda match: match[0].expandtabs(4), line)
            for line, within in zip(lines, inside, strict=True)
        ]
    columns = _columns(_first_line("\n".join(lines)))
    shift = (indent or columns or 4) - columns
    moved = []
    for line, within in zip(lines, inside, strict=True):
        if not within and line.strip() and not line.startswith("#" if columns else "\0"):
            line = " " * shift + line if shift > 0 else re.sub(rf"^ {{0,{-shift}}}", "", line)
        moved.append(line)
    return "\n".join([*moved, *(statement.text for statement in rest)])


def _with_first_columns(text: str) -> str:
    """`text` with the columns of its first line, where these alone were stripped.

    That is seen where a deeper line follows and the first opens no block, or where a later line
    stands between the two.
    """
    lines = zip(text.split("\n"), statements.inside_strings(text), strict=True)
    first, *rest = [line for line, within in lines if line.strip() and not within] or [""]
    state = statements.Open()
    state.read(first)
    deep = [_columns(line) for line in rest]
    if not deep or state or first[:1] in (" ", "\t", "#", "@") or not all(deep):
        return text
    opens_block = re.sub(r"\s#.*", "", first).rstrip().endswith(":")
    if opens_block and min(deep) == deep[0]:
        return text
    return text.replace(first, " " * min(deep) + first, 1)


def lifted(source: str) -> str:
    """A program with its imports from `__future__` first, where alone they may stand."""
    inside = statements.inside_strings(source)
    imports, kept, end = [], [], 0
    for match in _LIFTED.finditer(source):
        if not inside[source.count("\n", 0, match.start())]:
            imports.append(match[0].strip() + "\n")
            kept.append(source[end : match.start()])
            end = match.end()
    return "".join([*dict.fromkeys(imports), *kept, source[end:]])


def _piece(lines: list[str], fenced: bool, closed: bool) -> Piece:
    text = "\n".join(lines)
    prompts = [line for line in lines if line.startswith((">>> ", "... "))]
    if fenced and any(line.startswith(">>> def ") for line in prompts):
        text = "\n".join(line[4:] for line in prompts)  # a session at the interpreter
    return Piece(text, fenced, closed)


def _is_code(text: str) -> bool:
    """Whether text before a first fence is code that the fence closes."""
    kinds = [one for one in statements.split(text) if one.kind == statements.FUNCTION]
    return bool(kinds) or re.match(r"(?:  |\t)", _first_line(text)) is not None


def _columns(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _first_line(text: str) -> str:
    """The first line that is neither blank nor a comment at the left margin, or ""."""
    lines = (line for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return next(lines, "")


def _at_margin(text: str, name: str) -> str:
    """`text`, moved to the left margin from where the definition of `name` begins if it is not.

    Markdown marks code by four columns too. A method stays where it is.
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
    """(statements before, the definition with its surroundings, those after) of a piece.

    The surroundings are kept as they are; the others are for choosing from.
    """
    parts = statements.split(piece.text)
    defining = [n for n, part in enumerate(parts) if name in part.names]
    if not defining:  # the parts of a statement that is not read as such
        return [], piece.text, []
    at = next((n for n in defining if _has_body(parts[n].text, name)), defining[0])
    foreign = {statements.PROSE} if piece.fenced else {statements.PROSE, statements.OTHER}
    last_foreign = max((n for n in range(at) if parts[n].kind in foreign), default=-1)
    if piece.fenced:
        above, kept = [], [part for part in parts[:at] if part.kind not in foreign]
    else:
        above, kept = parts[: last_foreign + 1], parts[last_foreign + 1 : at]
    kept.append(parts[at])
    loose, ended = [], False
    for part in parts[at + 1 :]:
        ended = ended or (part.kind in foreign and not piece.fenced)
        certain = part.kind in (statements.FUNCTION, statements.COMMENT)
        if not ended and part.complete and (certain or name in part.names):
            kept.append(part)
        else:
            loose.append(part)
    return above, "\n".join(part.text for part in kept), loose


def _elsewhere(parts: Iterable[Piece], chosen: Piece) -> list[Statement]:
    return [one for part in parts if part is not chosen for one in statements.split(part.text)]


def _with_needs(
    above: Sequence[Statement], text: str, below: Sequence[Statement], name: str, stub: str
) -> str:
    """`text` with the statements around it that bind what it names and it does not.

    A statement that calls the function or asks for input is an example, and not taken.
    """
    own = statements.split(text)
    bound = {one for part in [*statements.split(stub), *own] for one in part.names}
    bound |= {name, *dir(builtins)}
    candidates = [*above, *below]
    taken: set[int] = set()
    while True:
        chosen = _Chosen([*own, *(candidates[number] for number in sorted(taken))], bound, name)
        more = {
            number
            for number, part in enumerate(candidates)
            if number not in taken and part.complete and chosen.needs(part)
        }
        if not more:
            break
        taken |= more
        bound |= {one for number in more for one in candidates[number].names}
    before = [candidates[number].text for number in sorted(taken) if number < len(above)]
    after = [candidates[number].text for number in sorted(taken) if number >= len(above)]
    return "\n".join([*before, text, *after])


class _Chosen:
    """Statements of a program for `name`, and which others they need.

    They need what binds a name of theirs that is not bound yet, and what changes their variables.
    """

    def __init__(self, parts: Sequence[Statement], bound: set[str], name: str):
        self.code = "\n".join(part.text for part in parts)
        self.missing = set(re.findall(r"\w+", self.code)) - bound
        assignments = (part for part in parts if part.kind == statements.ASSIGNMENT)
        self.variables = {one for part in assignments for one in part.names}
        self.calls = re.compile(rf"\b(?:{re.escape(name)}|input)\s*\(")

    def needs(self, part: Statement) -> bool:
        names = self.missing.intersection(part.names)
        if part.kind in (statements.FUNCTION, statements.IMPORT):
            module = re.search(r"^from\s+(\w+)", part.text, re.M)
            whole = "*" in part.names and module and module[1] in sys.stdlib_module_names
            return bool(names or whole)
        if self.calls.search(part.text):
            return False
        if part.kind == statements.ASSIGNMENT:
            return bool(names) or ("." in part.names[0] and part.names[0] in self.code)
        if part.kind != statements.OTHER or _EXAMPLE.match(part.text):
            return False
        return not self.variables.isdisjoint(re.findall(r"\w+", part.text))
