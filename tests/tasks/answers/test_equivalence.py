"""Which answers are the same, by either grader; what is read as an expression, and what is not."""

import pytest
import sympy

from powerjax.tasks.answers import equivalence, expressions

# given, reference, and whether math-verify is of the same mind (None: not held to either).
EQUAL = [
    ("0.5", r"\frac12", True),
    (r"\frac{1}{2}", r"\dfrac{1}{2}", True),
    ("1/2", r"\frac{1}{2}", True),
    (r"-\frac{3}{4}", r"\frac{-3}{4}", True),
    ("1,000", "1000", True),
    (r"10,\!080", "10080", True),
    ("1000000", "1 000 000", None),
    ("5", "x=5", True),
    ("x = 5", "5", True),
    ("5.0", "5", True),
    ("0.25", r"\frac14", True),
    (r"2\frac{1}{2}", "2.5", None),
    (r"-2\frac{1}{2}", "-2.5", None),
    ("3 1/2", r"\frac72", None),
    (r"10\%", "10", True),
    (r"\$18.50", "18.50", True),
    (r"90^\circ", "90", True),
    (r"5.4 \text{ cents}", "5.4", True),
    (r"864", r"864 \mbox{ inches}^2", None),
    (r"15 \text{ cm}", "15", True),
    (r"\sqrt{8}", r"2\sqrt2", True),
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}", True),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
    (r"\frac{1}{2}x + 3", r"3+\frac{x}{2}", True),
    ("(x+1)^2", "x^2+2x+1", True),
    (r"x^{n+1}", r"x^{1+n}", True),
    (r"\pi r^2 h", r"h r^2 \pi", None),
    (r"\sin^2 x", r"(\sin x)^2", True),
    (r"\log_2 8 + x", "x + 3", True),
    (r"\cos 2x", r"2\cos^2 x - 1", True),
    (r"6 - 5i", r"-5i + 6", True),
    (r"\binom{5}{2}x", "10x", True),
    ("|x-1|", "|1-x|", True),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)", True),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)", True),
    (r"(3,\infty) \cup (-\infty, 2)", r"(-\infty,2)\cup(3,\infty)", True),
    (r"[-2,7]", r"x \in [-2,7]", None),
    (r"\{1, 2\}", r"\{2, 1\}", True),
    (r"\{\frac12, 3\}", "3, 0.5", None),
    ("3, 5, 7", "3,5,7", True),
    ("3 and 5", "3, 5", None),
    (r"1 \pm \sqrt{19}", r"1\pm\sqrt{19}", True),
    (r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", True),
    (r"\text{(A)}", "A", None),
    (r"\textbf{(A)}", r"\text{A}", None),
    (r"\text{even}", "even", None),
    (r"\text{Evelyn}", r"\text{evelyn}", None),
    (r"2516_8", r"2516_{8}", True),
    (r"p - q", r"-q+p", True),
    # Styles, which PRM800K's reader of LaTeX drops.
    (r"90\degree", "90", True),
    (r"90\,\degree C", "90", True),
    (r"90{}^\circ", "90", True),
    (r"\displaystyle\frac12", r"\frac12", True),
    (r"\frac{\displaystyle 1}{2}", r"\frac12", True),
    (r"\(42\)", "42", True),
    (r"\[ 42 \]", "42", True),
    ("$$42$$", "42", True),
    (r"\( \left(3, \frac12\right) \).", r"(3,\frac{1}{2})", None),
    (r"\boldsymbol{\frac{1}{2}}", r"\frac12", True),
    (r"{\bf 42}", "42", True),
    (r"\mathrm{-\frac{1}{2}}", r"-\frac12", True),
    (r"\textcolor{red}{42}\hspace{1cm}", "42", True),
    (r"\pi\bm{x}", r"\pi x", True),
    (
        r"\begin{pmatrix} 1 \\[2pt] 2 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\[2pt] 2 \end{pmatrix}",
        None,
    ),
]
DIFFERENT = [
    ("4", "5", True),
    ("-5", "5", True),
    ("0.33", r"\frac13", True),
    ("0.3333333333", r"\frac13", None),
    ("(1,2)", "(2,1)", True),
    ("(1,2)", "[1,2)", True),
    ("(1,2)", "(1,2]", True),
    ("(1,2)", "(1,2,3)", True),
    (r"\{1,2\}", r"\{1,3\}", True),
    (r"\{1,1\}", r"\{1,2\}", True),
    (r"\{1,2\}", r"\{1,1\}", True),
    (r"(0,1)\cup(2,3)", r"(0,1)\cup(2,3]", True),
    (r"\frac{1}{23}", r"\frac{12}{3}", True),
    ("1 1/2", "11/2", True),
    ("x^2", "2x", True),
    (r"\sqrt{x^2}", "x", None),
    (r"\frac{1}{2}x", r"\frac{1}{2x}", True),
    ("A", "B", True),
    (r"\text{odd}", r"\text{even}", True),
    ("neve", r"\text{even}", None),
    (r"3 \text{ or } 5", "3", True),
    ("1011_2", "1011_3", None),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", True),
    (r"\infty", r"-\infty", True),
    ("", "0", True),
    # Stricter than mathematics, on purpose:
    (r"\frac{2}{4}", r"\frac{1}{2}", False),
    (r"\sqrt{25}", "5", False),
    (r"\frac{10}{2}", "5", False),
    ("2^3", "8", False),
    ("2, 1", "1, 2", False),
]
# given, reference, by PRM800K's rules, in truth: where the two differ, the second verdict is true.
LINEAGE = [
    (r"12\,\text{kg}", "12", False, True),
    (r"12~\mathrm{kg}", "12", False, True),
    (r"12\,\frac{\text{km}}{\text{h}}", "12", False, True),
    (r"12\,{\rm kg}.", "12", False, True),
    (r"\text{12 kg}", "12", False, True),
    ("12", r"12\;\text{m}\cdot\text{s}^{-1}", False, True),
    (r"13\,\text{kg}", "12", False, False),
    (r"0.\overline{3}", r"\frac13", False, True),
    (r"0.1\overline{6}", r"\frac{1}{6}", False, True),
    (r"-2.\bar{3}", r"-\frac{7}{3}", False, True),
    (r"0.\overline{3}", r"\frac{3}{10}", False, False),
    (r"90^{\circ}F", "90", False, True),
    (r"12\texttt{ cm}", "12", False, True),
    (r"12\,cm^2", "12", True, True),
    (r"12\,\%", "12", True, True),
    (r"\text{42.}", "42", True, True),
    ("42,", "42", False, True),
    (r"{}42", "42", False, True),
    (r"\left. 42 \right.", "42", True, True),
    (r"\sfrac{1}{2}", r"\frac12", False, True),
    (r"0.{\overline{3}}", r"\frac13", False, True),
    (r"0{.}\overline{3}", r"\frac13", False, True),
    (r"32\,349", "32349", True, True),
    ("32 349.5", "32349.5", False, True),
    ("1 1/2", r"\frac32", True, True),
    ("1 1/2", r"\frac{11}{2}", False, False),
    ("5 C", "5C", True, True),
    ("12 x", "12", False, False),
    (r"32\text{ and }349", "32349", False, False),
    (r"12\text{ or }13", "12", False, False),
    (r"\phantom{-}5", "5", False, True),
    (r"\textup{(B)}", "(B)", False, True),
    (r"\ensuremath{42}", "42", False, True),
    ("４２", "42", True, True),
    ("32, 349", "32349", True, False),
    (r"1, 234, 567", "1234567", True, False),
    ("32,349", "32349", True, True),
    (r"32,\!349", "32349", True, True),
]


@pytest.mark.parametrize("given, reference, _", EQUAL)
def test_equal_answers(given, reference, _):
    assert equivalence.equivalent(given, reference)
    assert equivalence.equivalent(reference, reference)


@pytest.mark.parametrize("given, reference, _", DIFFERENT)
def test_different_answers(given, reference, _):
    assert not equivalence.equivalent(given, reference)
    assert not equivalence.same_text(given, reference)


@pytest.mark.parametrize("given, reference, lineage, truth", LINEAGE)
def test_the_rules_follow_the_lineage_and_the_second_verdict_the_truth(
    given, reference, lineage, truth
):
    assert equivalence.equivalent(given, reference) is lineage
    assert equivalence.by_math_verify(given, reference) is truth


def test_math_verify_is_of_the_stated_mind():
    for table, here in ((EQUAL, True), (DIFFERENT, False)):
        for given, reference, agrees in table:
            if agrees is not None:
                verdict = equivalence.by_math_verify(given, reference)
                assert verdict == (here if agrees else not here), (given, reference)


@pytest.mark.parametrize(
    "text, value",
    [
        ("2x^10", "2*x**10"),
        (r"\frac12", "1/2"),
        (r"\frac{270}7", "270/7"),
        (r"3\frac{1}{2}", "7/2"),
        (r"-3\frac12", "-7/2"),
        (r"2\frac{x}{3}", "2*x/3"),
        ("1/2x", "x/2"),
        ("-x^2", "-x**2"),
        ("2^-1", "1/2"),
        (r"2^{3^2}", "512"),
        (r"\sqrt[3]{27}", "3"),
        ("sqrt(12)", "2*sqrt(3)"),
        (r"\sin 2x \cos x", "sin(2*x)*cos(x)"),
        (r"\log_{10} 100", "2"),
        ("4!", "24"),
        ("|x|y|z|", "Abs(x)*y*Abs(z)"),
        (r"\lfloor 3.7 \rfloor", "3"),
        ("x_1 + x_{12}", "x_1 + x_12"),
        ("e^{i\\pi}", "-1"),
        ("xy", "x*y"),
        (".25", "1/4"),
    ],
)
def test_expressions_are_read(text, value):
    assert sympy.simplify(expressions.parse(text) - sympy.sympify(value)) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "2+", "(1", "even", "x = 2", "1:2", r"\foo", "2))", "1,2", "^2", r"\frac{1}"),
        *("__import__('os').system('true')", "exec(1)", "9^{9^{9^9}}", r"\sin^{-1} x"),
        "(" * 5000,
    ],
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises((ValueError, RecursionError)):
        expressions.parse(text)
