"""Numbers in final answers and in prose: which are read, and with which exact value."""

import time
from fractions import Fraction

import pytest

from powerjax.tasks.answers import numbers


@pytest.mark.parametrize(
    "answer, value",
    [
        (r"18\text{ apples}", 18),
        (r"18\,\mathrm{km/h}", 18),
        (r"18 \text{ cm}^2", 18),
        ("18 dollars per hour", 18),
        (r"\text{Janet makes } \$18", 18),
        (r"\text{The answer is: } 18.", 18),
        (r"\frac12", Fraction(1, 2)),
        (r"-\dfrac{3}{4}\text{ cup}", Fraction(-3, 4)),
        ("36/2", 18),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 1/2 hours", Fraction(5, 2)),
        (r"\$18", 18),
        ("-$18.50", Fraction(-37, 2)),
        ("€18", 18),
        (r"18\%", 18),
        (r"1{,}000", 1000),
        (r"\$1,\!000", 1000),
        ("1 000", 1000),
        ("18.00", 18),
        ("−18", -18),
        ("１８", 18),
        ("x = 18", 18),
        (r"6 \times 3 = 18", 18),
        (r"\(18\)", 18),
        (r"\displaystyle 18", 18),
        ("**18**", 18),
        ("1.5 million", 1_500_000),
        ("18 thousand", 18_000),
        (r"1.8 \times 10^{1}", 18),
        ("1.8e1", 18),
        (r"0.\overline{3}", Fraction(1, 3)),
        ("9" * 400, 10**400 - 1),
        *((text, None) for text in ("18x", "18k", "x", "", "32, 349", "18 or 20", "10:30", "18!")),
        *((text, None) for text in (r"\sqrt{18}", "18 - 3", "12 x 3", "half of 18", "minus 18")),
        *((text, None) for text in ("1/0", "1e999999999", "18 hours 30 minutes", r"18^{2}", "nan")),
    ],
)
def test_the_value_of_a_final_answer(answer, value):
    assert numbers.value(answer) == value


@pytest.mark.parametrize(
    "text, number, value",
    [
        ("The answer is −18.", "-18", -18),
        (r"so it is $-\frac{1}{2}$.", r"$-\frac{1}{2}", Fraction(-1, 2)),
        ("she needs 3 1/2 cups", "3 1/2", Fraction(7, 2)),
        ("1/2 of them.", "1/2", Fraction(1, 2)),
        ("on 3/4/2020", "2020", 2020),
        ("costs -$1,080", "-$1,080", -1080),
        (r"costs \$1{,}080.50.", r"\$1,080.50", Fraction(2161, 2)),
        ("5 - 3, or 5-3, or 5–3", "3", 3),
        ("COVID-19", "19", 19),
        ("1,2,3", "3", 3),
        ("32, 349", "349", 349),
        ("Rs.18!", "18", 18),
    ],
)
def test_the_number_that_prose_ends_on(text, number, value):
    assert numbers.last(text) == number
    assert numbers.value(number) == value


@pytest.mark.parametrize(
    "one, other, equal",
    [
        ("9007199254740993", "9007199254740992", False),
        ("9007199254740993", "9,007,199,254,740,993.0", True),
        ("1" * 309, "1" * 308 + "2", False),
        ("9" * 6000, "9" * 6000, True),
        ("0.1", "0.10", True),
        ("1e3", "1000", True),
        ("1E-3", ".001", True),
        ("1e999999999", "10e999999998", True),
        ("1e999999999", "1e999999998", False),
        ("0.30000000000000004", "0.3", False),
        ("-0", "0.00", True),
        ("−5", "-5", True),
    ],
)
def test_decimals_are_compared_exactly(one, other, equal):
    assert numbers.decimal(one) is not None
    assert (numbers.decimal(one) == numbers.decimal(other)) is equal


@pytest.mark.parametrize(
    "text", ["", ".", "-", "nan", "inf", "1_000", "12,34", "1e", "0x10", "5 6"]
)
def test_what_is_no_decimal(text):
    assert numbers.decimal(text) is None


@pytest.mark.parametrize(
    "text, fraction",
    [
        (r"0.\overline{3}", r"\frac{1}{3}"),
        (r"-2.1\overline{6}", r"-\frac{13}{6}"),
        (r".\bar3", r"\frac{1}{3}"),
        (r"0.\dot{1}4285\dot{7}", r"\frac{1}{7}"),
        ("0.(3)", r"\frac{1}{3}"),
        ("0.1\u03056\u0305", r"\frac{16}{99}"),
        (r"0.\overline{9}", "1"),
        (r"\overline{AB}", r"\overline{AB}"),
        ("0.5(3)", "0.5(3)"),
    ],
)
def test_periodic_decimals_are_fractions(text, fraction):
    assert numbers.fractions_of_periods(text) == fraction


@pytest.mark.parametrize(
    "text", ["9" * 50_000, "1,111" * 10_000, "a" * 50_000, "1/" * 20_000, "$-" * 9999]
)
def test_long_texts_take_no_time(text):
    start = time.perf_counter()
    numbers.last(text)
    numbers.value(text)
    numbers.value(text[: numbers.MAX_CHARS])
    numbers.decimal(text)
    assert time.perf_counter() - start < 2
