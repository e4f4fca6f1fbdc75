"""GSM8K: rows, and which number of a completion counts."""

import pytest

from powerjax.tasks import gsm8k
from powerjax.tasks.base import Problem


def test_reference_solutions_are_right(data_dir):
    for split, count in (("test", 1319), ("train", 7473)):
        problems = gsm8k.load(data_dir=data_dir, split=split)
        assert len(problems) == len({problem.id for problem in problems}) == count
        for problem in problems:
            assert gsm8k.grade(problem, problem.meta["solution"])[0]
            assert gsm8k.grade(problem, f"1 + 1 = 2. \\boxed{{{problem.answer}}}")[0]
            assert not gsm8k.grade(problem, f"{problem.answer}1")[0]


@pytest.mark.parametrize(
    "text, number",
    [
        (r"4 eggs. \boxed{18} and 7", "18"),
        (r"\boxed{\$18.00}", "18.00"),
        (r"\boxed{18 \text{ dollars}}", "18"),
        (r"\boxed{1,234}", "1234"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{18\text{ apples}}", "18"),
        (r"\boxed{18} or \boxed{?}", "18"),
        ("#### −18", "-18"),
        ("#### **$18**", "$18"),
        ("#### 18\nNext problem: 5", "18"),
        ("so she makes $1,080.", "$1,080"),
        ("5-3 is 2, loses -7", "-7"),
        ("5-3", "3"),
        ("3.5 then .25", ".25"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_number_it_ends_on(text, number):
    assert gsm8k.extract(text) == number


# The reference: texts whose number is equal to it, or is not.
RIGHT = {
    "18": (
        "$18.00",
        r"\boxed{18\text{ apples}}",
        r"\boxed{18\,\mathrm{kg}}",
        r"\boxed{\text{She has } 18 \text{ apples.}}",
        r"\boxed{18\text{ apples and oranges}}",
        r"\boxed{18\text{ times as many}}",
        r"\boxed{18\text{ more than Bob}}",
        r"\boxed{\text{The answer to it is equal to } 18}",
    ),
    "1080": ("1,080",),
    "0.5": (".5", r"\boxed{\frac12}", "She ate 1/2."),
    "2.5": (r"\boxed{2\frac12}", "It takes 2½ hours."),
    "-18": ("The answer is −18.", r"\boxed{−\$18}"),
    "1000": (r"\boxed{1{,}000}",),
    "1000000": ("It costs $1 million.",),
    "4": ("In millions of dollars, that is $4 million.", r"\boxed{4\text{ million}}"),
    "60": (r"\boxed{60\,\frac{\text{miles}}{\text{hour}}}",),
    "5": (r"\boxed{5\text{ pièces}}", r"\boxed{5个}"),
    "0.75": (r"\boxed{¾}",),
}
WRONG = {
    "18": (
        r"18 \boxed{x}",
        "-18",
        "",
        "The answer is −18.",
        r"\boxed{18\text{ and a half}}",
        r"\boxed{18\text{ times two}}",
        r"\boxed{\text{more than } 18}",
        r"\boxed{18, x}",
        r"\boxed{18x}",
    ),
    "2": ("She ate 1/2.",),
    "4": (r"\boxed{4000000}",),
    "32349": (r"\boxed{32, 349}",),
    "5": (r"\boxed{5α}",),
    "9007199254740993": ("9007199254740992",),
}
VERDICTS = [
    (answer, text, correct)
    for table, correct in ((RIGHT, True), (WRONG, False))
    for answer, texts in table.items()
    for text in texts
]


@pytest.mark.parametrize("answer, text, correct", VERDICTS)
def test_numbers_are_compared_by_value(answer, text, correct):
    assert gsm8k.grade(Problem("p", "", answer), text)[0] is correct


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="gsm8k has no split 'dev': choose one of test, train"):
        gsm8k.load(split="dev")
