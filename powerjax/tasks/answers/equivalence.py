r"""Decides whether two final answers are the same, by the rules of MATH's published results.

The rules are those of Hendrycks et al.'s `is_equiv`, which compares strings in a normal form, and
of PRM800K's grader, which asks sympy whether the difference is zero if the strings differ. Tuples
and intervals must agree element by element, in order, with the same brackets. On purpose the rules
are stricter than mathematics in two ways: if the reference is an integer, so must be the answer
(not `\sqrt{25}`, nor 10/2), and if it is a fraction in lowest terms, the answer must be that
fraction (not 2/4).

Some answers are read more widely than in PRM800K. Matrices, unions and lists are compared element
by element. `\{..\}` is a set in any order. Mixed numbers keep their sign. `\text{ cm}^2` is a unit
and no square. Expressions of any number of variables and any exponent are compared, because here
the caller limits the time.

math-verify gives a second verdict. PRM800K's code calls some right answers wrong (`12\,\text{kg}`
for 12, `0.\overline{3}` for a third) and some wrong ones right (`32, 349` for 32349). The rules
follow it in that, so that their verdict compares with published results. There the second verdict
is the right one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from powerjax.tasks.answers import normal_form, notation, numbers

_INTEGER = re.compile(r"[-+]? ?\d+(?:\.0*)?")
_FRACTION = re.compile(r"(-?) ?(?:\\frac ?\{? ?(-?\d+?) ?\}? ?\{? ?(\d+) ?\}?|(\d+) ?/ ?(\d+))")
# Not in text with these words: they change the value of a number, and are no unit.
_NO_UNIT = (
    r"(?![^{}]*\b(?:or|and|more|less|least|most|to|than|hundred|thousand|[mbtr]+illion|dozen)\b)"
)
_TEXT = (
    r"\\(?:text|mbox|textrm|textnormal|textbf|textit|textsf|texttt|mathrm|mathbf|operatorname|hbox)"
    rf"\s*\{{{_NO_UNIT}[^{{}}]*\}}"
)
_LETTERS = r"(?:[cmk]?m|k?g|ft|in|km/h|mph|s|h|[CF])(?:\s*\^\s*(?:\{\d\}|\d))?"
_LETTERS_AT_END = re.compile(rf"(?<=\d)(?:\\[,;:! ]|~|\s)+{_LETTERS}$")
_SPACED = re.compile(r"-?\d{1,3}(?:(?:\\[, ]|[~ ])\d{3})+(?:\.\d+)?")
_MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+)/(\d+)(?![\d.])")
_TEXT_ALONE = re.compile(r"\\(?:text|mbox|textrm|mathrm)\s*\{([^{}]*)\}")
_SPACE = r"(?:\\[,;:! ]|~|\s|\\q?quad(?![A-Za-z]))"
_UNIT_AT_END = re.compile(
    rf"(?<=[\d}})\]])\.?{_SPACE}*(?:{_TEXT}|\\frac\s*\{{{_TEXT}\}}\s*\{{{_TEXT}\}})"
    rf"(?:{_SPACE}|{_TEXT}|\^\s*(?:\{{-?\d\}}|\d)|/|\\cdot|\.)*$"
)
DIGITS = 30  # how many digits of a difference are worked out to refute an equality
MAX_CHARS = 2000  # a longer answer is a text, and is compared as it stands


def same_text(given: str, reference: str) -> bool:
    """Whether the answers agree as strings, which is quick to find out and needs no sympy."""
    if len(given) > MAX_CHARS:
        return given.strip() == reference.strip()
    if normal_form.literal(given) == normal_form.literal(reference):
        return True
    return _tight(normal_form.simplified(given)) == _tight(normal_form.simplified(reference))


def equivalent(given: str, reference: str) -> bool:
    """Whether `given` is the same answer as `reference`. May take any time: see `checkers`."""
    if same_text(given, reference):
        return True
    if len(given) > MAX_CHARS:
        return False
    return _same(normal_form.simplified(given), normal_form.simplified(reference))


def by_math_verify(given: str, reference: str) -> bool:
    """Whether math-verify takes the two answers for the same. May take any time: see `checkers`."""
    if len(given) > MAX_CHARS:
        return False
    from math_verify import LatexExtractionConfig, parse, verify

    # math-verify's reader of plain text evaluates Python, so only its reader of LaTeX is used.
    # Between dollar signs it takes everything for LaTeX.
    readers = [LatexExtractionConfig()]
    parsed, wanted = (
        parse(f"${answer}$", extraction_config=readers, parsing_timeout=None)
        for answer in _for_math_verify(given, reference)
    )
    return verify(wanted, parsed, timeout_seconds=None)


def _for_math_verify(given: str, reference: str) -> tuple[str, str]:
    """Returns both answers without what math-verify does not read.

    These are styles, periods, and units that only one of the two answers has.
    """
    sides = []
    for answer in (given, reference):
        text = notation.unstyled(numbers.fractions_of_periods(answer))
        text = re.sub(r"\\(?:left|right) *\.|^(?:[~\s]|\{\})+|(?:[~\s]|\\,)+(?=\\?%)", "", text)
        text = re.sub(r"\\(?:text|mbox) *\{ *(?:and|or) *\}", " , ", text)
        text = _MIXED.sub(r"\1\\frac{\2}{\3}", re.sub(r"\^ *\{ *\\circ *\}", " ", text))
        text = re.sub(r"\\sfrac(?![A-Za-z])", r"\\frac", text)
        whole = _TEXT_ALONE.fullmatch(
            re.sub(r"(?<=[\d}]) *(?:[.,;]|\\(?:black)?square)$", "", text.strip())
        )
        text = whole[1] if whole and re.search(r"\d", whole[1]) else text
        text = re.sub(r"(?<=[\d}]) *(?:[.,;]|\\(?:black)?square)$", "", text.strip())
        sides.append(re.sub(r"[^-\d.]", "", text) if _SPACED.fullmatch(text) else text)
    bare = [_UNIT_AT_END.sub("", side) for side in sides]
    for i, other in enumerate(reversed(sides)):
        if not re.search("[A-Za-z]", other):
            bare[i] = _LETTERS_AT_END.sub("", bare[i])
    units = [side != without for side, without in zip(sides, bare, strict=True)]
    given, reference = bare if units[0] != units[1] else sides
    return given, reference


def _same(given: str, reference: str) -> bool:
    """Whether two simplified answers agree element by element."""
    if not given or not reference:
        return False
    kind, wanted = normal_form.elements(reference)
    kind_given, elements = normal_form.elements(given)
    if len(elements) != len(wanted):
        return False
    sets = "{}" in (kind, kind_given)
    if sets and {kind, kind_given} <= {"{}", ""}:
        return _match(elements, wanted, _same_element)
    if kind == kind_given == "cup":
        return _match(elements, wanted, _same)
    if len(wanted) > 1 and kind != kind_given:
        return False
    return all(map(_same_element, elements, wanted))


def _match(elements: list[str], wanted: list[str], same: Callable[[str, str], bool]) -> bool:
    """Whether each element has a partner of its own among the wanted ones, in any order."""
    left = list(elements)
    for element in wanted:
        partner = next((other for other in left if same(other, element)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _same_element(given: str, reference: str) -> bool:
    """Whether two elements agree: as text, as numbers of one form, or by what sympy finds."""
    if _tight(given) == _tight(reference):
        return True
    if not given or not reference:
        return False
    if (_INTEGER.fullmatch(given) is None) != (_INTEGER.fullmatch(reference) is None):
        return False
    fractions = _fraction(given), _fraction(reference)
    if None not in fractions:
        return fractions[0] == fractions[1]
    if any(len(normal_form.elements(side)[1]) > 1 for side in (given, reference)):
        return _same(given, reference)
    return _same_value(given, reference)


def _same_value(given: str, reference: str) -> bool:
    """Whether sympy finds that the difference of two expressions is zero."""
    import sympy

    from powerjax.tasks.answers import expressions

    try:
        a, b = expressions.parse(given), expressions.parse(reference)
        if a == b:
            return True
        difference = a - b
        # A value at one point refutes most equalities, on which `simplify` might take very long.
        symbols = sorted(difference.free_symbols, key=str)
        at = {symbol: sympy.Rational(2 * i + 7, 5) for i, symbol in enumerate(symbols)}
        value = difference.subs(at).evalf(DIGITS, maxn=4 * DIGITS)
        if value.is_number and value.is_finite and abs(value) > 10 ** (-DIGITS // 2):
            return False
        return sympy.simplify(difference) == 0
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError):
        return False  # not an expression, or one that sympy cannot decide
    except RecursionError:
        return False


def _fraction(text: str) -> tuple[int, int] | None:
    """Returns (numerator, denominator) as written; None if the text is no fraction of integers."""
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, *parts = match.groups()
    numerator, denominator = (int(part) for part in parts if part)
    return (-numerator if sign else numerator), denominator


def _tight(text: str) -> str:
    """Removes spaces and braces that change nothing. The space of `1 1/2` stays."""
    text = re.sub(r"(?<!\d) +| +(?!\d)", "", text)
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
