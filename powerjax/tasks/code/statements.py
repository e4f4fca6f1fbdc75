"""Divides a text, Python or prose, into the statements that stand at its left margin.

It goes by the text alone and never compiles it: what a model wrote must not reach this process's
parser, and prose and programs that are cut off have to be read as well.
"""

from __future__ import annotations

import dataclasses
import re

# Kinds of statements.
BODY = "body"  # indented lines with no statement before them
FUNCTION = "function"  # or class, with its decorators and the comments before it
IMPORT = "import"
ASSIGNMENT = "assignment"
COMMENT = "comment"  # with nothing after it
OTHER = "other"  # anything else that looks like Python: a loop, a call, an assertion
PROSE = "prose"  # what does not look like Python

_FUNCTION = re.compile(r"(?:async\s+)?def\s+(\w+)\s*[(\[]|class\s+(\w+)\s*[(:\[]")
_IMPORT = re.compile(
    r"import\s+[\w.]+\s*(?:,|as\s|#|;|$)|from\s+[\w.]+\s+import(?:\s|\(|$)", re.MULTILINE
)
_ASSIGNMENT = re.compile(
    r"(?:[A-Za-z_][\w.]*(?:\[.*?\])?|\*[A-Za-z_]\w*)(?:\s*,\s*\*?[A-Za-z_]\w*)*\s*(?::[^=]+)?=(?!=)"
    r"|[(\[]\s*\*?[A-Za-z_]\w*(?:\s*,\s*\*?[A-Za-z_]\w*)*\s*,?\s*[)\]]\s*=(?!=)"
)
_OTHER = re.compile(
    r"(?:for|while|with|try|if|assert|return|yield|raise|del|global|async|pass|match)\b"
    r"|[A-Za-z_][\w.]*\s*(?:[(\[]|[-+*/%&|^@<>]{1,3}=)|\"\"\"|\'\'\'"
)
_CLAUSE = re.compile(r"(?:else|elif|except|finally)\b")
_STRING = re.compile(r"(['\"])(?:\\.|(?!\1)[^\\])*\1")


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement.

    Attributes:
      kind: one of the kinds above.
      text: its lines, and the blank lines after it, without the last line end.
      names: the names it binds: a function's name, imported names, assigned names ("f.x" for
        an attribute, "*" for all names of a module).
      complete: False if it is visibly cut off: decorators or a head without a body, an open
        bracket or an open string.
    """

    kind: str
    text: str
    names: tuple[str, ...]
    complete: bool


@dataclasses.dataclass
class Open:
    """What is open after the lines that were read.

    Attributes:
      quotes: the three quotes of the open string; "" if none is open.
      depth: how many brackets are open.
      joined: whether a backslash joins the next line to the last one.
    """

    quotes: str = ""
    depth: int = 0
    joined: bool = False

    def __bool__(self) -> bool:
        return bool(self.quotes or self.depth or self.joined)

    def read(self, line: str) -> None:
        """Goes on by one line."""
        at, self.joined = 0, False
        while at < len(line):
            if self.quotes:
                if line.startswith(self.quotes, at):
                    at, self.quotes = at + 3, ""
                else:
                    at += 1 + (line[at] == "\\")
                continue
            letter = line[at]
            if letter == "#":
                return
            if letter in "\"'":
                if line.startswith(3 * letter, at):
                    at, self.quotes = at + 3, 3 * letter
                    continue
                string = _STRING.match(line, at)
                at = string.end() if string else len(line)
                continue
            self.depth += letter in "([{"
            self.depth = max(0, self.depth - (letter in ")]}"))
            self.joined = letter == "\\" and at == len(line) - 1
            at += 1


def split(text: str) -> list[Statement]:
    """Returns the statements of `text`. Their texts, joined by line ends, are `text` again."""
    groups: list[list[str]] = []
    state, kind, decorators = Open(), "", False
    for line in text.split("\n"):
        written = line.strip() and not state
        if not groups or (written and not line[0].isspace()):
            # Comments and decorators belong to what follows, clauses to what stands before them.
            goes_on = decorators or kind in ("", COMMENT) or (kind == OTHER and _CLAUSE.match(line))
            if not groups or not goes_on:
                groups.append([])
                kind, decorators = "", False
        groups[-1].append(line)
        if written:
            if kind in ("", COMMENT):
                kind = _kind([line])
            decorators = (decorators or kind == FUNCTION) and line[0] in "@#"
        if kind != PROSE:
            state.read(line)
    joined = groups[:1]
    for lines in groups[1:]:
        if _kind(lines) == BODY:  # after comments at the margin the statement goes on
            joined[-1] += lines
        else:
            joined.append(lines)
    return [_statement(lines) for lines in joined]


def inside_strings(text: str) -> list[bool]:
    """Returns for each line of `text` whether it begins inside a string of three quotes."""
    state, inside = Open(), []
    for line in text.split("\n"):
        inside.append(bool(state.quotes))
        state.read(line)
    return inside


def after_head(text: str) -> str:
    """Returns what follows the head of the function in `text`, on the head's line and below."""
    lines = text.split("\n")
    first = next((n for n, line in enumerate(lines) if _FUNCTION.match(line)), 0)
    state = Open()
    for number in range(first, len(lines)):
        state.read(lines[number])
        if not state:
            break
    in_line = re.sub(r"\s#.*", "", lines[number]).rpartition(":")[2]
    return "\n".join([in_line, *lines[number + 1 :]])


def columns(line: str) -> int:
    """The number of spaces that the line begins with."""
    return len(line) - len(line.lstrip(" "))


def first_line(text: str) -> str:
    """The first line that is neither blank nor a comment at the left margin; "" without one."""
    lines = (line for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return next(lines, "")


def _kind(lines: list[str]) -> str:
    """Returns the kind of the statement that begins with `lines`."""
    written = [line for line in lines if line.strip()]
    line = next((line for line in written if line[0] != "#"), "")
    if not line:
        return COMMENT if written else BODY
    if line[0].isspace():
        return BODY
    for kind, pattern in ((IMPORT, _IMPORT), (FUNCTION, _FUNCTION), (ASSIGNMENT, _ASSIGNMENT)):
        if pattern.match(line):
            return kind
    if line[0] == "@":
        return FUNCTION
    return OTHER if _OTHER.match(line) else PROSE


def _statement(lines: list[str]) -> Statement:
    text, kind = "\n".join(lines), _kind(lines)
    written = [line for line in lines if line.strip()]
    names: tuple[str, ...] = ()
    state = Open()
    for line in lines if kind != PROSE else ():
        state.read(line)
    complete = not state
    if kind == FUNCTION:
        head = next((match for line in written if (match := _FUNCTION.match(line))), None)
        names = tuple(filter(None, head.groups())) if head else ()
        complete = complete and head is not None and _has_lines(written)
    elif kind == IMPORT:
        names = _imported("\n".join(written))
        complete = complete and bool(names)
    elif kind == ASSIGNMENT:
        first = next(line for line in written if line[0] != "#")
        names = _assigned(first)
        complete = complete and not written[-1].rstrip().endswith("=")
    return Statement(kind, text, names, complete)


def _assigned(line: str) -> tuple[str, ...]:
    """Returns the names that an assignment binds: `a`, `a, *b`, `(a, b)`, both of `a = b = 0`."""
    names: list[str] = []
    for number, targets in enumerate(re.split(r"=(?!=)", line)[:-1]):
        bare = re.split(r"[:\[]", targets.strip().lstrip("[("))[0].rstrip(")] ,")
        parts = [part.strip(" \t*") for part in bare.split(",")]
        if number and not all(map(str.isidentifier, parts)):
            break
        names += parts
    return tuple(names)


def _imported(text: str) -> tuple[str, ...]:
    """Returns the names that an import statement binds."""
    names = []
    for line in map(str.strip, re.sub(r"#.*", "", text).split(";")):
        if not line.startswith(("import", "from")):
            continue
        whole_modules = line.startswith("import")
        parts = re.sub(r"[()\\]", " ", line.partition("import")[2]).split(",")
        for words in filter(None, (part.split() for part in parts)):  # [name] or [name, as, name]
            names.append(words[-1].split(".")[0] if whole_modules or len(words) == 1 else words[-1])
    return tuple(names)


def _has_lines(written: list[str]) -> bool:
    """Whether the head of a function or class is followed by a body."""
    last = re.sub(r"\s#.*", "", written[-1]).rstrip()
    if last[0].isspace():
        return not last.endswith((":", ","))
    return re.search(r":\s*\S", last) is not None and not last.endswith((":", ",", "("))
