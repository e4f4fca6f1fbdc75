r"""Reads numbers as final answers write them, exactly: no value passes through a float.

`decimal` reads plain decimal notation of any length. `value` reads a final answer in MATH's normal
form (`answers.simplified`): fractions, mixed numbers and powers of ten, perhaps with a unit or a
few words around them. `last` finds the last number in prose.
"""

from __future__ import annotations

import re
from fractions import Fraction

from powerjax.tasks.answers import normal_form, notation
from powerjax.tasks.answers.notation import half_width

MAX_CHARS = 2000  # a longer answer is a text and no number
MAX_EXPONENT = 1000  # the greatest exponent of ten of a value that is worked out

_DECIMAL = re.compile(
    r"(?P<sign>[-+]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?:\.(?P<part>\d*))?"
    r"(?:[eE](?P<exponent>[-+]?\d{1,18}))?",
    re.ASCII,
)

# --- numerals within a longer text ---
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_PLAIN = rf"(?:{_DIGITS}(?:\.\d+)?|(?<![A-Za-z])\.\d+)"
_PART = r"(?:\{ *-?[\d.]+ *\}|\d)"
_FRACTION = rf"\\[dtc]?frac *{_PART} *{_PART}"
_SLASHED = r"(?<![\d/.])\d+/\d+(?![\d/]|\.\d)"
_POWER = r"(?: *(?:\\times|\\cdot|×|\*) *10 *\^ *(?:\{ *-?\d+ *\}|-?\d)|[eE][-+]?\d+(?!\w|\.\d))"
_SCALE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALES = rf"(?: *(?:{'|'.join(_SCALE)})s?(?![A-Za-z]))"
_NUMERAL = (
    rf"(?:\d+ *{_FRACTION}|{_FRACTION}|(?<![\d/.])\d+ +{_SLASHED}|{_SLASHED}"
    rf"|{_PLAIN}{_POWER}?)(?:{_SCALES})?"
)

# --- a final answer in MATH's normal form: words, number, unit ---
_BEFORE = r"(?P<before>(?:[a-z][a-z'’,:.() ]*)?)"
_FOREIGN = r"[^\x00-\x7f\u0370-\u03ff\W\d_]"  # as in `pièces`, or a Chinese character
_SYMBOL = (
    rf"(?:[a-z]{{2,}}|[acfghlms]|(?=[a-z]*{_FOREIGN})(?:[a-z]|{_FOREIGN})+)(?![a-z]|{_FOREIGN})"
    r"(?: ?\^ ?(?:\{-?\d\}|-?\d))?"
)
_RATE = r"\\[dt]?frac *\{[a-z .]*\} *\{[a-z .]*\}"
_AFTER = rf"(?:{_SYMBOL}|['’]s|[\s/.()-]|\\cdot|{_RATE}|, (?=[a-z]{{2,}}))*"
_ANSWER = re.compile(
    rf"{_BEFORE}(?P<number>(?:[-+]|(?<![a-z] )[-+] )?{_NUMERAL})(?P<after>{_AFTER})"
)
# Words that change the number's value or make it a part of a formula.
_CHANGING = (
    r"\b(?:half|halves|thirds?|fourths?|fifths?|tenths?|hundredths?|thousandths?|squared|cubed|"
    r"root|sqrt|log|ln|sin|cos|tan|exp|factorial|plus|minus|negative|divided|over|choose|mod|"
    r"twice|double|triple|not|no|[bdeijkn-rt-z])\b(?!\.)"
)
_CHANGING_BEFORE = re.compile(
    rf"{_CHANGING}|\b(?:times|than)\b"
    r"|(?<!equal )(?<!answer )(?<!solution )\bto\b|(?<!total )\bof *$"
)
_ONE = "a|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred"
_CHANGING_AFTER = re.compile(rf"{_CHANGING}|\b(?:times|to) +(?:{_ONE})\b")
_CURRENCY = r"(?:\\?[$€£¥₹] ?)"
_SIGN = r"(?:(?<![\w.)\]}])-)"
_GROUP_MARK = re.compile(r"(?<=\d)(?:\{,\}|,? ?\\!|\\,)(?=\d{3}(?!\d))")
_IN_PROSE = rf"(?:{_SIGN}?{_CURRENCY}|{_CURRENCY}{_SIGN}|{_SIGN})?{_NUMERAL}"

# --- periodic decimals ---
_DOT = r"\\dot *\{?(\d)\}?"
_PERIODIC = re.compile(
    r"(?<![\d.])(\d*)\.(\d*)(?:\\(?:overline|bar|mathring) *(?:\{ *(\d+) *\}|(\d))"
    rf"|{_DOT}(?:(\d*){_DOT})?|((?:\d[\u0304\u0305])+))(?![\d.])"
    r"|(?<![\d.])(\d+)\.\((\d+)\)",
    re.ASCII,
)
_BRACED_PERIOD = re.compile(r"(?<=[\d.])\{(\\(?:overline|bar) *(?:\{ *\d+ *\}|\d))\}")
_MAX_PERIOD = 200  # digits


def decimal(text: str) -> tuple[bool, str, int] | None:
    """Returns (is negative, digits, exponent of ten); None if `text` is no decimal number.

    Equal numbers give equal tuples: `1e3`, `1,000` and `1000.0` all give (False, "1", 3). The sign
    may be any of Unicode's minus signs. No value is worked out, so neither a long number nor a
    large exponent takes time.
    """
    match = _DECIMAL.fullmatch(half_width(text))
    if match is None or not (match["whole"] or match["part"]):
        return None
    part = match["part"] or ""
    digits = (match["whole"].replace(",", "") + part).lstrip("0")
    short = digits.rstrip("0")
    if not short:
        return False, "0", 0
    exponent = int(match["exponent"] or 0) - len(part) + len(digits) - len(short)
    return match["sign"] == "-", short, exponent


def written(answer: str) -> str | None:
    r"""Returns the one number that a final answer is, without unit, currency and words, or None.

    `18\text{ apples}` gives `18`, `\$1{,}000.50` gives `1000.50`, `x = \frac12` gives `\frac12`.
    """
    if len(answer) > MAX_CHARS:
        return None
    # MATH's normal form would make one number of the two in `32, 349`.
    text = re.sub(
        r",\s+(?!\\!)(?=\d)", " ; ", fractions_of_periods(notation.plain_fractions(answer))
    )
    # The capital keeps "million" from becoming `*10^6`, so that `value` can leave it out.
    text = normal_form.simplified(re.sub(r"[mbtr]+illion", lambda word: word[0].upper(), text))
    text = re.split(r"=|\\approx|\\simeq|≈", text)[-1]
    text = re.sub(r"[€£¥₹¢]|\*\*", "", text).strip()
    if text.startswith("(") and text.find(")") == len(text) - 1:
        text = text[1:-1].strip()
    match = _ANSWER.fullmatch(text)
    if (
        match is None
        or _CHANGING_BEFORE.search(match["before"])
        or _CHANGING_AFTER.search(match["after"])
    ):
        return None
    return re.sub(r"^([-+]) ", r"\1", match["number"].strip())


def value(answer: str, scaled: bool = True) -> Fraction | None:
    """Returns the exact value of a final answer that is one number (see `written`), or None.

    scaled: whether `4 million` is 4,000,000. If not, it is 4, and "million" is its unit.
    """
    number = written(answer)
    if number is None:
        return None
    scale = 0
    if word := re.search(rf" *({'|'.join(_SCALE)})s?$", number):
        number, scale = number[: word.start()], _SCALE[word[1]] * scaled
    sign = -1 if number[0] == "-" else 1
    number = number.lstrip("-+ ")
    try:
        exact = _unsigned(number)
    except (ValueError, ZeroDivisionError):
        return None
    return None if exact is None else sign * exact * 10**scale


def last(text: str, after: str = "") -> str | None:
    r"""Returns the last number in prose as it is written (`$1,080`, `-\frac{1}{2}`), or None.

    after: a regular expression for what must stand before the number.
    """
    text = notation.plain_fractions(with_commas(half_width(text)))
    numerals = [match[1] for match in re.finditer(f"{after}({_IN_PROSE})", text)]
    return numerals[-1] if numerals else None


def with_commas(text: str) -> str:
    r"""Replaces TeX's marks of thousands by commas: `1{,}000` becomes `1,000`."""
    return _GROUP_MARK.sub(",", text)


def fractions_of_periods(text: str) -> str:
    r"""Replaces periodic decimals by fractions: `0.\overline{3}` becomes `\frac{1}{3}`."""

    def fraction(match: re.Match) -> str:
        whole, part, line, digit, first, middle, final, combining, own_whole, bracket = (
            match.groups()
        )
        dotted = "" if first is None else first + (middle or "") + (final or "")
        bare = re.sub(r"\D", "", combining or "")
        period = line or digit or dotted or bare or bracket
        whole, part = whole or own_whole or "0", part or ""
        if len(whole + part + period) > _MAX_PERIOD:
            return match[0]
        nines = (10 ** len(period) - 1) * 10 ** len(part)
        exact = Fraction(int(whole + part + period) - int(whole + part), nines)
        if exact.denominator == 1:
            return str(exact)
        return rf"\frac{{{exact.numerator}}}{{{exact.denominator}}}"

    plain = re.sub(r"(?<=\d)\{\.\}", ".", text)
    return _PERIODIC.sub(fraction, _BRACED_PERIOD.sub(r"\1", plain))


def _unsigned(number: str) -> Fraction | None:
    """Returns the value of a `_NUMERAL` without sign and scale word; None if it is too large."""
    if mixed := re.fullmatch(rf"(\d+) *({_FRACTION}|(?<= )\d+/\d+)", number):
        part = _unsigned(mixed[2])
        return None if part is None else int(mixed[1]) + part
    if parts := re.fullmatch(rf"\\[dtc]?frac *({_PART}) *({_PART})", number):
        above, below = (Fraction(part.strip("{ }")) for part in parts.groups())
        return above / below
    if "/" in number:
        return Fraction(*map(int, number.split("/")))
    digits, *power = re.split(r" *(?:\\times|\\cdot|×|\*) *10 *\^", number)
    exponent = int(power[0].strip("{ }")) if power else 0
    exact = decimal(digits)
    if exact is None or abs(exact[2] + exponent) > MAX_EXPONENT:
        return None
    return int(exact[1]) * Fraction(10) ** (exact[2] + exponent)
