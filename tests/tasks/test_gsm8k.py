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


@pytest.mark.parametrize(
    "answer, text, correct",
    [
        ("18", "$18.00", True),
        ("1080", "1,080", True),
        ("0.5", ".5", True),
        ("18", r"18 \boxed{x}", False),
        ("18", "-18", False),
        ("18", "", False),
        ("18", r"\boxed{18\text{ apples}}", True),
        ("18", r"\boxed{18\,\mathrm{kg}}", True),
        ("18", r"\boxed{\text{She has } 18 \text{ apples.}}", True),
        ("0.5", r"\boxed{\frac12}", True),
        ("2.5", r"\boxed{2\frac12}", True),
        ("-18", "The answer is −18.", True),
        ("18", "The answer is −18.", False),
        ("-18", r"\boxed{−\$18}", True),
        ("1000", r"\boxed{1{,}000}", True),
        ("0.5", "She ate 1/2.", True),
        ("2", "She ate 1/2.", False),
        ("1000000", "It costs $1 million.", True),
        ("4", "In millions of dollars, that is $4 million.", True),
        ("4", r"\boxed{4\text{ million}}", True),
        ("4", r"\boxed{4000000}", False),
        ("32349", r"\boxed{32, 349}", False),
        ("18", r"\boxed{18\text{ apples and oranges}}", True),
        ("18", r"\boxed{18\text{ times as many}}", True),
        ("18", r"\boxed{18\text{ more than Bob}}", True),
        ("18", r"\boxed{\text{The answer to it is equal to } 18}", True),
        ("60", r"\boxed{60\,\frac{\text{miles}}{\text{hour}}}", True),
        ("5", r"\boxed{5\text{ pièces}}", True),
        ("5", r"\boxed{5个}", True),
        ("2.5", "It takes 2½ hours.", True),
        ("0.75", r"\boxed{¾}", True),
        ("18", r"\boxed{18\text{ and a half}}", False),
        ("18", r"\boxed{18\text{ times two}}", False),
        ("18", r"\boxed{\text{more than } 18}", False),
        ("5", r"\boxed{5α}", False),
        ("18", r"\boxed{18, x}", False),
        ("18", r"\boxed{18x}", False),
        ("9007199254740993", "9007199254740992", False),
    ],
)
def test_numbers_are_compared_by_value(answer, text, correct):
    assert gsm8k.grade(Problem("p", "", answer), text)[0] is correct


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="gsm8k has no split 'dev': choose one of test, train"):
        gsm8k.load(split="dev")
