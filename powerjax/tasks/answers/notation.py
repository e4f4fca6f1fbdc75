r"""Removes from an answer what TeX adds to its look and not to its meaning.

`unstyled` drops math delimiters, sizes, fonts, colours, spacing of a given width and degree signs.
Text (`\text{..}`) stays, because it may be a unit or the answer. With `lineage=True` it drops only
what PRM800K's reader of LaTeX drops, so that the first verdict on MATH is the one of PRM800K.
"""

from __future__ import annotations

import re
import unicodedata

_HALF_WIDTH = {0xFF00 + (ord(sign) - 0x20): sign for sign in "0123456789+-.,=%()$"}
_MINUS = dict.fromkeys(map(ord, "−–﹣‑"), "-")
_HALF_WIDTH |= _MINUS

_SIZES = (
    r"displaystyle|textstyle|scriptstyle|scriptscriptstyle|tiny|scriptsize|footnotesize|small|"
    r"normalsize|large|Large|LARGE|huge|Huge"
)
_FONTS = r"bf|rm|it|sf|tt|sl|bfseries|itshape|normalfont|boldmath|unboldmath"
_INVISIBLE = r"space|thinspace|enspace|nonumber|notag|strut|mathstrut|limits|nolimits"
_SIGNS = r"degrees?|textdegree|pounds|euro|cents?"
_WITH_ARGUMENT = (
    r"boldsymbol|bm|pmb|mathtt|mathnormal|underline|emph|textsc|"
    r"boxed|fbox|framebox|mathbf|mathit|mathrm(?= *\{ *-? *(?:\d|\\[dt]?(?:frac|sqrt|pi)))"
)
_DELIMITERS = re.compile(r"(?<!\\)(?:\\[()\[\]]|\$)")
_OLD_FONT = re.compile(r"\{ *\\(?:bf|rm|it|sf|tt|sl)(?![A-Za-z]) *([^{}]*)\}")
_DROPPED = re.compile(
    r"\\(?:[hv]space\*?|color|textcolor) *\{[^{}]*\}"
    r"|(?<!\^)(?<!\^\{)\\degrees? *[CFK](?![A-Za-z])"
    rf"|(?<!\^)(?<!\^\{{)\\(?:{_SIZES}|{_FONTS}|{_INVISIBLE}|{_SIGNS})(?![A-Za-z])"
    r"|(?<=[\d)}]) *\\deg(?![A-Za-z])"
    r"|\^ *(?:\{ *\\circ *\}|\\circ)(?![A-Za-z])|°"
)
_EMPTY_GROUP = re.compile(r"(?<=[\d)]) *\{ *\}")
_STYLED = re.compile(rf"\\(?:{_WITH_ARGUMENT})(?![A-Za-z]) *")
# What PRM800K's reader does not drop.
_DROPPED_BEYOND = re.compile(r"\\[hv]?phantom *\{[^{}]*\}|\\textdollar(?![A-Za-z])")
_STYLED_BEYOND = re.compile(r"\\(?:mathsf|mathcal|ensuremath|textup)(?![A-Za-z]) *")
_SEAM = "\0"  # marks where a command stood


def groups(text: str) -> dict[int, int]:
    r"""Maps the position of each `{` that is closed to that of its `}`. `\{` opens no group."""
    closed, opened = {}, []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closed[opened.pop()] = match.start()
    return closed


def half_width(text: str) -> str:
    """Replaces full-width digits and signs, and Unicode's minus signs, by ASCII."""
    return text.translate(_HALF_WIDTH)


def plain_fractions(text: str) -> str:
    r"""Replaces Unicode's fractions by those of TeX: `2½` becomes `2\frac{1}{2}`."""
    return re.sub(r"[¼-¾⅐-⅞]", _plain_fraction, text)


def _plain_fraction(sign: re.Match) -> str:
    above, below = unicodedata.normalize("NFKC", sign[0]).split("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def unstyled(answer: str, *, lineage: bool = False) -> str:
    r"""Removes styles: `\(\displaystyle\frac12\)` becomes `\frac12`, `90\degree` becomes `90`.

    lineage: whether to drop only what PRM800K's reader drops.
    """
    if lineage:
        text = answer.translate(_MINUS)
    else:
        text = unwrapped(_DROPPED_BEYOND.sub(" ", half_width(answer)), _STYLED_BEYOND)
    text = _DELIMITERS.sub(" ", text)
    text = _OLD_FONT.sub(r"\\mathrm{\1}", text)
    text = _EMPTY_GROUP.sub("", _DROPPED.sub(" ", text))
    text = re.sub(r"\\nicefrac(?![A-Za-z])", r"\\frac", text)
    return re.sub(r"[\\\s]+$", "", unwrapped(text, _STYLED)).strip()


def unwrapped(text: str, command: re.Pattern) -> str:
    """Replaces each of these commands by its argument."""
    at = 0
    while match := command.search(text, at):
        at, start = match.start(), match.end()
        end = groups(text).get(start)
        inner, rest = (
            (text[start:], "") if end is None else (text[start + 1 : end], text[end + 1 :])
        )
        text = text[:at] + _SEAM + inner + (_SEAM if end is not None else "") + rest
    # The space keeps `\pi\bm{x}` from running together. It must not part the digits of a number.
    return re.sub(rf"(?<=\d){_SEAM}+(?=\d)", "", text).replace(_SEAM, " ")
