"""What the last box is, and what of an answer is notation."""

import time

import pytest

from powerjax.tasks import answers


@pytest.mark.parametrize(
    "text, boxed",
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{1} then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x \mid x > 0\right\}}", r"\left\{x \mid x > 0\right\}"),
        (r"\boxed{\left\{ x, y \right.}", r"\left\{ x, y \right."),
        (r"\boxed{\text{(A)}}", r"\text{(A)}"),
        (r"\boxed 9$", "9"),
        (r"\boxed\pi$", r"\pi"),
        (r"\boxed {5}", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{3} or \boxed{4", "3"),
        ("{ open \\boxed{3}", "3"),
        (r"\boxed{}", ""),
        (r"\boxed{ 6 }", "6"),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\boxedsep{5}", None),
        (r"\boxed{4", None),
        (r"\boxed", None),
        ("4", None),
    ],
)
def test_the_last_box_that_closes_is_the_answer(text, boxed):
    assert answers.last_boxed(text) == boxed


def test_a_text_of_open_boxes_takes_no_time():
    start = time.process_time()
    assert answers.last_boxed(r"\boxed{" * 20_000) is None
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "answer, form",
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}{2}", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        ("1/2", r"\frac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        ("x = 5", "5"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"10,\!080", "10,080"),
        (r"\$32", "32"),
        (r"75^\circ", "75"),
        (r"10\%", "10"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"\sqrt3", r"\sqrt{3}"),
        (".25", "0.25"),
        ("1 1/2", "1 1/2"),  # and not 11/2
        (r"3 \text{ or } 5", r"3 \text{ or } 5"),  # and not 3
    ],
)
def test_literal_forms(answer, form):
    assert answers.literal(answer) == form


@pytest.mark.parametrize(
    "answer, brackets, parts",
    [
        ("(1, 2)", "()", ["1", "2"]),
        ("[0, 1)", "[)", ["0", "1"]),
        (r"\left( 3, \frac{\pi}{2} \right)", "()", ["3", r"\frac{\pi}{2}"]),
        (r"\{1, 2\}", "{}", ["1", "2"]),
        ("3, 5 and 7", "", ["3", "5", "7"]),
        ("10,080", "", ["10080"]),
        (r"11,\! 111,\! 100", "", ["11111100"]),
        ("(1,000)", "()", ["1", "000"]),
        ("(1+x)(2+y)", "", ["(1+x)(2+y)"]),
        ("((1,2), 3)", "()", ["(1,2)", "3"]),
        (r"(0,9) \cup (9,36)", "cup", ["(0,9)", "(9,36)"]),
        (r"\begin{pmatrix} 1 & 0 \\ 0 & -1 \end{pmatrix}", "matrix 2x2", ["1", "0", "0", "-1"]),
        (r"864 \mbox{ inches}^2", "", ["864"]),
        (r"x \in [-2,7]", "[]", ["-2", "7"]),
        ("", "", [""]),
    ],
)
def test_answers_are_taken_apart(answer, brackets, parts):
    assert answers.elements(answers.simplified(answer)) == (brackets, parts)
