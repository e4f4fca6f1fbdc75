r"""Finds the box that holds a completion's answer, and the boxes in its last sentence.

A box that holds a placeholder (`\boxed{}`, `\boxed{?}`, `\boxed{\text{your answer}}`) repeats the
instruction and answers nothing, so an answer before it counts.
"""

from __future__ import annotations

import re

from powerjax.tasks.answers.notation import groups

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_SENTENCE_END = re.compile(r"[.!?][$*)\]}\"'\\]*\s|\n\s*\n")
_MAX_PLACEHOLDER_CHARS = 100

# Commands and signs that are invisible or stand for something left out. All others are content.
_BLANK = re.compile(
    r"\\(?:(?:(?:text|math)(?:rm|bf|it|sf|tt|up|sc|normal)?|emph|mbox|operatorname|underline|boxed"
    r"|fbox)(?![A-Za-z])|(?:[hv]?phantom|[hv]space\*?|color) *\{[^{}]*\}"
    r"|rule *\{[^{}]*\} *\{[^{}]*\}"
    r"|(?:[lcv]?dots[bcmo]?|q?quad|(?:en|thin)?space|square|Box|displaystyle)(?![A-Za-z])"
    r"|[,;:! _$]|$)|[{}$~□☐]"
)
_VERB = r"(?:(?:insert|put|write|enter|place|type|fill in) )?"
_WHOSE = r"(?:(?:the|your|my|our|an?) )?"
_WHICH = r"(?:(?:final|correct|numerical|numeric|exact|simplified) )?"
_INSERT = _VERB.removesuffix("?")
_NOUN = r"(?:number|result|value|solution|letter|option|choice|expression)"
_PLACEHOLDER = re.compile(
    rf"{_VERB}{_WHOSE}{_WHICH}(?:answer|ans)(?: (?:goes )?here)?"
    rf"|{_VERB}{_WHOSE}{_WHICH}{_NOUN} (?:goes )?here"
    rf"|{_INSERT}{_WHOSE}{_WHICH}{_NOUN}|{_VERB}(?:your|my|our) {_WHICH}{_NOUN}|final {_NOUN}",
    re.IGNORECASE,
)


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}` or `\fbox{...}` that closes, or None.

    Braces nest. As in TeX, `\boxed 2` boxes the next token. Boxes that hold a placeholder count
    only if there are no others.
    """
    closed = groups(text)
    placeholder = None
    for match in reversed(list(_BOX.finditer(text))):
        content = _content(text, match.end(), closed)
        if content is None:
            continue
        if not is_placeholder(content):
            return content
        placeholder = content if placeholder is None else placeholder
    return placeholder


def of_last_sentence(text: str) -> list[str]:
    r"""Returns the different contents of the boxes in the sentence with the last box, in order.

    `$x = \boxed{2}$ or $x = \boxed{3}$` gives both. Boxes within boxes and placeholders are left
    out.
    """
    closed = groups(text)
    spans, inside = [], 0
    for match in _BOX.finditer(text):
        content = _content(text, match.end(), closed)
        if content is None or match.start() < inside or is_placeholder(content):
            continue
        inside = closed.get(match.end(), match.end()) + 1
        spans.append((match.start(), inside, content))
    sentence: list[str] = []
    for i in reversed(range(len(spans))):
        if i + 1 < len(spans) and _SENTENCE_END.search(text[spans[i][1] : spans[i + 1][0]]):
            break
        sentence.append(spans[i][2])
    return list(dict.fromkeys(reversed(sentence)))


def is_placeholder(content: str) -> bool:
    """Whether a box with this content holds no answer."""
    if len(content) > _MAX_PLACEHOLDER_CHARS:
        return False
    visible = " ".join(_BLANK.sub(" ", content).replace("_", " ").split())
    inner = visible.strip("()[]<>*'\"“”‘’ ")
    if not inner:
        return not visible  # brackets or signs alone may be an answer, as in "<"
    words = inner.strip("?.…: ")
    return words in ("", "LETTER") or _PLACEHOLDER.fullmatch(words) is not None


def _content(text: str, start: int, closed: dict[int, int]) -> str | None:
    """Returns the content of the box whose command ends at `start`; None if it does not close."""
    if start in closed:
        return text[start + 1 : closed[start]].strip()
    bare = re.match(r"\\[A-Za-z]+|[^\s\\{}$]", text[start : start + 100])
    return bare[0] if bare else None
