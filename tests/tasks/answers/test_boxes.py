"""Which box holds a completion's answer, and how many its last sentence has."""

import pytest

from powerjax.tasks.answers import boxes


@pytest.mark.parametrize(
    "content",
    [
        *(
            "",
            " ",
            "?",
            "...",
            "…",
            r"\ldots",
            "{}",
            "___",
            r"\_\_",
            r"\text{ }",
            "(?)",
            r"\square",
        ),
        *("answer", "Answer.", r"\text{your answer}", r"\text{Your final answer here}", "[answer]"),
        *("your_answer", "<insert answer>", r"\textbf{answer}", r"\underline{\quad}", "LETTER"),
        *(r"\phantom{42}", r"\hspace{1cm}", r"\boxed{}", r"\rule{1cm}{1pt}", r"\color{red}{}"),
        *(r"\ ", r"\ \ ", "□", r"\dotsc", r"\enspace", r"\texttt{answer}", r"\mathit{answer}"),
        *("'answer'", "“your answer”", r"\text{Final Answer: }", r"\text{insert value}"),
    ],
)
def test_a_placeholder_after_the_answer_leaves_the_answer(content):
    text = rf"It is \boxed{{42}}. So the box is \boxed{{{content}}}."
    assert boxes.is_placeholder(content)
    assert boxes.last_boxed(text) == "42"
    assert boxes.last_boxed(rf"Put it in \boxed{{{content}}}. It is \boxed{{42}}.") == "42"


@pytest.mark.parametrize(
    "content",
    [
        *("0", "x", "-", "<", "*", "A", r"\{\}", r"\emptyset", r"\pi", "()", "letter", "number"),
        *(r"\text{No solution}", "None", "0.", "?3", r"\text{answer 5}", r"\cdot", "value"),
    ],
)
def test_short_answers_are_no_placeholders(content):
    assert not boxes.is_placeholder(content)
    assert boxes.last_boxed(rf"\boxed{{42}}, no: \boxed{{{content}}}") == content


def test_a_placeholder_alone_is_what_there_is():
    assert boxes.last_boxed(r"\boxed{?} or \boxed{}") == ""


@pytest.mark.parametrize(
    "text, contents",
    [
        (r"The roots are \boxed{2} and \boxed{3}.", ["2", "3"]),
        ("$x = \\boxed{2.5}$,\n$y = \\boxed 3$, $z = \\fbox{\\frac12}$", ["2.5", "3", r"\frac12"]),
        (r"First \boxed{1}. Then \boxed{2}, \boxed{3} or \boxed{}?", ["2", "3"]),
        (r"\boxed{2}. So it is $\boxed{3}$.", ["3"]),
        (r"It is $\boxed{2}.$ And $\boxed{3}.$", ["3"]),
        ("\\boxed{2}\n\n\\boxed{3}", ["3"]),
        (r"\boxed{2} = \boxed{2}", ["2"]),
        (r"\boxed{x = \boxed{2}}", [r"x = \boxed{2}"]),
        (r"\boxed{3} or \boxed{4", ["3"]),
        ("none", []),
    ],
)
def test_boxes_of_the_last_sentence(text, contents):
    assert boxes.of_last_sentence(text) == contents
