"""Adds to a function the imports, helpers and constants of the completion that it needs."""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterable, Sequence

from powerjax.tasks.code import statements
from powerjax.tasks.code.fences import Piece
from powerjax.tasks.code.statements import Statement

_EXAMPLE = re.compile(r"(?:assert|print|if\s+__name__)\b")


def with_needs(
    above: Sequence[Statement], text: str, below: Sequence[Statement], name: str, stub: str
) -> str:
    """Returns `text` with those statements around it that bind the names it needs.

    What a statement so taken needs is taken too. A statement that calls the function or asks for
    input is an example of its use, and is not taken.

    Args:
      above: statements that may be put before `text`.
      text: the code of the function.
      below: statements that may be put after it.
      name: the function's name.
      stub: the stub that will stand before the program; the names it binds are not looked for.
    """
    own = statements.split(text)
    bound = {word for part in [*statements.split(stub), *own] for word in part.names}
    bound |= {name, *dir(builtins)}
    candidates = [*above, *below]
    taken: set[int] = set()  # numbers of candidates
    while True:
        chosen = [candidates[number] for number in sorted(taken)]
        program = _Incomplete([*own, *chosen], bound, name)
        new = {
            number
            for number, part in enumerate(candidates)
            if number not in taken and part.complete and program.needs(part)
        }
        if not new:
            break
        taken |= new
        bound |= {word for number in new for word in candidates[number].names}
    before = [candidates[number].text for number in sorted(taken) if number < len(above)]
    after = [candidates[number].text for number in sorted(taken) if number >= len(above)]
    return "\n".join([*before, text, *after])


def elsewhere(parts: Iterable[Piece], chosen: Piece) -> list[Statement]:
    """Returns the statements of all pieces except the chosen one."""
    others = (part for part in parts if part is not chosen)
    return [statement for part in others for statement in statements.split(part.text)]


class _Incomplete:
    """A program for the function `name`, and the test of whether it needs a statement.

    A statement is needed if it defines a name that the program uses and nothing defines yet, or if
    it modifies one of the program's variables.
    """

    def __init__(self, parts: Sequence[Statement], bound: set[str], name: str):
        self.code = "\n".join(part.text for part in parts)
        self.missing = set(re.findall(r"\w+", self.code)) - bound
        assignments = (part for part in parts if part.kind == statements.ASSIGNMENT)
        self.variables = {word for part in assignments for word in part.names}
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
