"""Makes a program of a stub and the code that a completion holds."""

from __future__ import annotations

import dataclasses
import re

from powerjax.tasks.code import statements

_FUTURE_IMPORT = re.compile(
    r"^from[ \t]+__future__[ \t]+import(?:[ \t]|\\\n)*(?:\([^)]*\)|(?:[^\n(\\]|\\\n)+)[^\n]*\n?",
    re.MULTILINE,
)


def fitted(text: str, indent: int) -> str:
    """Returns a function's body, indented as far as the function's docstring is.

    Args:
      text: a body, perhaps at the left margin or indented by tabs, and statements after it.
      indent: columns of the docstring; 0 if there is none, and then the body may stand anywhere.
    """
    first, *rest = statements.split(_with_first_columns(text))
    if first.kind != statements.BODY:
        first, rest = dataclasses.replace(first, text=text), []
    lines = first.text.split("\n")
    inside = statements.inside_strings(first.text)
    if statements.first_line(first.text).startswith("\t"):
        lines = [
            line if within else re.sub(r"^[ \t]+", lambda match: match[0].expandtabs(4), line)
            for line, within in zip(lines, inside, strict=True)
        ]
    columns = statements.columns(statements.first_line("\n".join(lines)))
    shift = (indent or columns or 4) - columns
    moved = []
    for line, within in zip(lines, inside, strict=True):
        if not within and line.strip() and not line.startswith("#" if columns else "\0"):
            line = " " * shift + line if shift > 0 else re.sub(rf"^ {{0,{-shift}}}", "", line)
        moved.append(line)
    return "\n".join([*moved, *(statement.text for statement in rest)])


def lifted(source: str) -> str:
    """Returns a program with its imports from `__future__` first, the only place for them."""
    inside = statements.inside_strings(source)
    imports: list[str] = []
    others: list[str] = []
    end = 0
    for match in _FUTURE_IMPORT.finditer(source):
        if not inside[source.count("\n", 0, match.start())]:
            imports.append(match[0].strip() + "\n")
            others.append(source[end : match.start()])
            end = match.end()
    return "".join([*dict.fromkeys(imports), *others, source[end:]])


def docstring_columns(stub: str) -> int:
    """The columns of the stub's last line, which ends its docstring; 0 without a docstring."""
    last = stub.rstrip().split("\n")[-1]
    return len(last) - len(last.lstrip()) if last.endswith(('"""', "'''")) else 0


def _with_first_columns(text: str) -> str:
    """Returns `text` with the columns of its first line back, if that line alone lost them.

    It lost them if the next line is deeper although the first line opens no block, or if a later
    line stands between the two.
    """
    lines = zip(text.split("\n"), statements.inside_strings(text), strict=True)
    first, *rest = [line for line, within in lines if line.strip() and not within] or [""]
    state = statements.Open()
    state.read(first)
    depths = [statements.columns(line) for line in rest]
    if not depths or state or first[:1] in (" ", "\t", "#", "@") or not all(depths):
        return text
    opens_block = re.sub(r"\s#.*", "", first).rstrip().endswith(":")
    if opens_block and min(depths) == depths[0]:
        return text
    return text.replace(first, " " * min(depths) + first, 1)
