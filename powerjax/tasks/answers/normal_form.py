r"""The normal forms in which final answers are compared as text.

`literal` follows the rules of Hendrycks et al. (MATH, 2021), and `simplified` those that PRM800K
(Lightman et al., 2023) adds before an answer goes to sympy. Both are written anew from the rules.
"""

from __future__ import annotations

import re

from powerjax.tasks.answers.boxes import last_boxed
from powerjax.tasks.answers.notation import groups, unstyled

__all__ = ["elements", "groups", "last_boxed", "literal", "simplified"]

_TEXT = re.compile(
    r"\\(?:text|mbox|textrm|textnormal|textbf|textit|mathrm|mathbf|mathit|operatorname|hbox)\s*"
    r"\{([^{}]*)\}"
)
_UNIT_NAMES = (
    "degree|centimeter|millimeter|kilometer|meter|mile|second|minute|hour|day|week|month|year|foot|"
    "feet|inch|yard|unit|dollar|cent|cm|mm|km"
)
_UNITS = re.compile(
    rf"(?<![A-Za-z\\])(?:square |cubic |sq\.? )?(?:{_UNIT_NAMES})(?:es|s)?(?![A-Za-z])"
    r"(?: *\^ *(?:\{\d\}|\d))?"
)
_TEXT_UNITS = re.compile(r"\\text *\{([^{}]*)\} *\^ *(?:\{(\d)\}|(\d))")
_BOXED_UNIT = re.compile(r"(?<=[\d}]) *\\mbox *\{ *[A-Za-z][A-Za-z .]*\}$")
_SCALES = {"million": "*10^6", "billion": "*10^9", "trillion": "*10^12"}
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~")
_GROUPED = re.compile(r"(?<=\d)(?:, ?\\!|\{,\}|\\[,!]) *(?=\d{3}(?!\d))")
_SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_UNICODE = {
    **{"×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "√": r"\sqrt "},
    **{"π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "°": ""},
    **{"≤": r"\le ", "≥": r"\ge ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}"},
}


def literal(answer: str) -> str:
    r"""Returns one string for answers of one form: `\dfrac12`, `\frac{1}{2}`, `1/2`, `x=0.5`."""
    text = answer.strip()
    whole = re.fullmatch(r"\\text\{(.+?)\}", text)
    text = whole[1].strip() if whole else text
    text = " ".join(text.split()).replace("\\!", "").replace("\\\\", "\\")
    text = re.sub(r"[td]frac", "frac", text)
    text = text.replace("\\left", "").replace("\\right", "")
    text = re.sub(r"\^\\circ|\^\{\\circ\}|\\\$|\\?%", "", text)
    text, *units = text.split("\\text{ ")
    if len(units) > 1 or any(re.match(r"or\b|and\b", unit) for unit in units):
        return answer.strip()
    text = re.sub(r"(^|(?<=[ {]))\.", "0.", text)
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<!\d) +| +(?!\d)", "", text)  # 1 1/2 is not 11/2
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    if text == "0.5":
        return r"\frac{1}{2}"
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


def simplified(answer: str) -> str:
    r"""Returns the answer without what carries no value, in LaTeX, in lower case.

    It drops fonts and styles, dollar and percent signs, degrees, units, thousands' commas, `\left`,
    `\right`, repeated spaces, and `x =` or `x \in` at the beginning. "or" and "and" become commas.
    As in PRM800K's code, a comma before three digits counts as one of thousands even if a space
    follows it.
    """
    # --- styles, signs and units ---
    text = " ".join(unstyled(answer, lineage=True).split())
    for sign, command in _UNICODE.items():
        text = text.replace(sign, command)
    text = re.sub(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])\.?", "", text)
    text = re.sub(r"\\[tdc]frac", r"\\frac", text)
    text = _GROUPED.sub("", text)
    text = _TEXT_UNITS.sub(_drop_unit_power, text)
    text = _BOXED_UNIT.sub("", text)
    while (unwrapped := _TEXT.sub(r" \1 ", text)) != text:
        text = unwrapped
    text = re.sub(r"\\?[$%]|\^ *(?:\{ *\\circ *\}|\\circ)", "", text)
    text = re.sub(r",? +(?:or|and) +", " , ", text)
    for word, factor in _SCALES.items():
        text = re.sub(rf"(?<=\d) *{word}s?", factor, text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1", text)
    without_units = _UNITS.sub("", text)
    if re.search(r"\d", without_units):
        text = without_units
    # --- what stands around the value ---
    text = text.strip()
    while text and groups(text).get(0) == len(text) - 1:
        text = text[1:-1].strip()
    text = re.sub(r"^\s*[A-Za-z]{1,2}\s*(?:=(?!.*=)|\\in(?![A-Za-z]))", "", text)
    text = " ".join(text.split()).rstrip(".").strip()
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    if not re.search(r"[()\[\]]|\\{", text):
        tight = re.sub(r"(?<=\d), (?=\d)", ",", text)
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), tight)
    return text.lower()


def _drop_unit_power(match: re.Match) -> str:
    r"""Drops `\text{ cm}^2`, a unit to a power, and returns other text to a power as it is."""
    return "" if _UNITS.search(match[1]) else match[0]


def elements(text: str) -> tuple[str, list[str]]:
    r"""Returns a simplified answer taken apart: (its kind, its elements).

    The kind is the brackets if one pair stands around all: "()", "[)", "{}" (a set, in `\{`) and so
    on. It is "matrix 2x3" for a matrix, "cup" for a union, and "" for a list without brackets or a
    single answer.
    """
    matrix = re.fullmatch(r"\\begin\s*\{([pb]?matrix)\}(.*)\\end\s*\{\1\}", text)
    if matrix:
        table = [_split(row, "&") for row in re.split(r"\\\\", matrix[2].strip())]
        table = [row for row in table if row != [""]]
        shape = "x".join(map(str, (len(table), max(map(len, table), default=0))))
        return f"matrix {shape}", [entry for row in table for entry in row]
    union = _split(text, "\\cup")
    if len(union) > 1:
        return "cup", union
    first, last = _bracket(text[:2]), _bracket(text[-2:], last=True)
    if first and last and _closes_at_end(text):
        inner = text[len(first) : len(text) - len(last)]
        return (first + last).replace("\\", ""), _split(inner, ",")
    return "", _split(text, ",")


def _bracket(text: str, last: bool = False) -> str:
    """Returns the bracket at the beginning of `text`, or with `last` at its end; "" without one."""
    if text in (r"\{", r"\}"):
        return text if (text == r"\}") == last else ""
    sign = text[-1:] if last else text[:1]
    return sign if sign and sign in (")]" if last else "([") else ""


def _closes_at_end(text: str) -> bool:
    """Whether the text's last character closes its first bracket."""
    depth = 0
    for at, sign in enumerate(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(sign, 0)
        if depth == 0 and sign in ")]}":
            return at == len(text) - 1
    return False


def _split(text: str, separator: str) -> list[str]:
    """Returns the parts of the text between separators that stand in no bracket."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[at], 0)
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at].strip())
            at += len(separator)
            start = at
        else:
            at += 1
    return [*parts, text[start:].strip()]
