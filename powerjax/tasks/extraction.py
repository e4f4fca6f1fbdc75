"""The code in a completion, whichever way the model was asked and answered.

Found by the text alone, never by compiling it: the parser of this process is not a place for what
a model wrote.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

# Where the continuation of a function ends: those of Chen et al. (2021), and a closing fence.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")

_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(
    r"(async\s+def|def|class)\s+\w|import\s+[\w.]+\s*(,|as\s|#|;|$)|from\s+[\w.]+\s+import\s"
    r"|@\w|#|[A-Za-z_]\w*\s*(:[^=]+)?=[^=]"
)
_TRIPLE = re.compile(r'"""|\'\'\'')


def body(completion: str, indent: int, stops: Sequence[str] = STOPS) -> str | None:
    """A continuation of a function's stub, up to the first of `stops`; None if it is not one.

    Args:
      completion: what follows the stub.
      indent: columns of the stub's docstring, 0 if it has none. A tokenizer of the sentencepiece
        kind drops the first space of what it decodes: a body short of one column gets it back.
    """
    cut = min((at for stop in stops if (at := completion.find(stop)) >= 0), default=None)
    text = completion[:cut]
    told = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    if not told:
        return None
    first = told[0]
    columns = len(first) - len(first.lstrip(" "))
    if first[0] != "\t" and columns < max(1, indent - 1):
        return None
    short = indent > 1 and columns == indent - 1 and text.startswith(first)
    return f" {text}" if short else text


def fenced(completion: str, name: str) -> str | None:
    """The first fenced block that defines `name`, else the first block; None without a block.

    A block that the completion does not close goes to its end.
    """
    blocks = [found[2] for found in _FENCED.finditer(completion)]
    blocks = [one if defines(one, name) else textwrap.dedent(one) for one in blocks]
    return next((block for block in blocks if defines(block, name)), blocks[0] if blocks else None)


def unfenced(completion: str, name: str) -> str | None:
    """The definition of `name` at the left margin, with what code stands around it, or None.

    Prose before it is dropped, and so is everything from the first line after it at the margin
    that is no definition, import, assignment or comment: prose, tests, prints.
    """
    kept: list[str] = []
    inside_string = found = False
    for line in completion.split("\n"):
        at_margin = not inside_string and line and not line[0].isspace() and line[0] not in ")]}"
        inside_string ^= len(_TRIPLE.findall(line)) % 2 == 1
        if at_margin and not _CODE.match(line):
            if found:
                break
            kept, inside_string = [], False
            continue
        found = found or bool(at_margin and defines(line, name))
        kept.append(line)
    return "\n".join(kept).strip("\n") if found else None


def defines(text: str, name: str) -> bool:
    """Whether some line of `text` begins the definition of the function (or class) `name`."""
    return re.search(rf"^(async\s+def|def|class)\s+{re.escape(name)}\b", text, re.M) is not None
