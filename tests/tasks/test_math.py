"""MATH: rows, prompts, the reference solutions, and verdicts of both graders on them."""

import json

import pytest

from powerjax.tasks import answers, math
from powerjax.tasks.base import Graded, Problem

FIRST_DRAWN = ["10683", "1965", "1135", "1937", "1720"]  # by seed 0


@pytest.fixture(scope="module")
def math500(data_dir):
    return math.load_math500(data_dir=data_dir)


def test_the_prompt_is_the_papers():
    assert math.prompt("What is $1+1$?") == (
        "Can you solve the following math problem? What is $1+1$? Please reason step by step, and"
        " put your final answer within \\boxed{{}}."
    )


def test_all_500_reference_solutions_extract_to_their_answers(math500, record_property):
    right = sum(answers.last_boxed(p.meta["solution"]) == p.answer for p in math500)
    record_property("MATH500 solutions that extract to their answer", f"{right} of {len(math500)}")
    assert (right, len(math500)) == (500, 500)
    assert len({problem.id for problem in math500}) == 500
    assert not any("/" in problem.id for problem in math500)


def test_at_least_99_percent_of_the_12000_do(data_dir, record_property):
    rows = json.loads((data_dir / "math/math_full_minus_math500.json").read_text())
    right = sum(answers.last_boxed(row["solution"]) == row["answer"] for row in rows)
    record_property("of the 12,000", right)
    assert len(rows) == 12_000 and right >= 11_880


def test_all_500_answers_equal_themselves_under_both_graders(math500, record_property):
    graded = math.grade_all(math500, [problem.meta["solution"] for problem in math500])
    for rule in ("rules", "math_verify"):
        count = sum(verdict.detail[rule] is True for verdict in graded)
        record_property(f"MATH500 answers equal to themselves by {rule}", f"{count} of 500")
        assert count == 500
    assert all(verdict.correct and not verdict.detail["timed_out"] for verdict in graded)


def test_wrong_answers_are_wrong_under_both_graders(math500):
    """Each problem is given the answer of the one before."""
    solutions = [problem.meta["solution"] for problem in math500]
    graded = math.grade_all(math500, solutions[-1:] + solutions[:-1])
    bare = [problem.answer.removeprefix("x=") for problem in math500]
    same = [a == b for a, b in zip(bare, bare[-1:] + bare[:-1], strict=True)]
    assert [verdict.correct for verdict in graded] == same
    assert [verdict.detail["math_verify"] for verdict in graded] == same


def test_verdicts_carry_the_second_opinion(math500):
    problem = next(p for p in math500 if p.answer == "\\frac{3}{56}")
    texts = [r"\boxed{6/112}", r"\boxed{3/56}", "it is 3/56", r"\boxed{(10^{10})!}"]
    half, right, none, hung = math.grade_all([problem] * 4, texts, limit_s=2.0)
    opinions = {"rules": False, "math_verify": True, "timed_out": []}
    assert half == Graded(False, "6/112", opinions)  # where the two disagree
    assert right == Graded(True, "3/56", {**opinions, "rules": True})
    assert none == Graded(False, None, {**opinions, "math_verify": False})
    assert hung.correct is False and "rules" in hung.detail["timed_out"]
    for text, graded in zip(texts[:3], (half, right, none), strict=True):
        assert math.grade(problem, text) == (graded.correct, graded.extracted)


def test_a_placeholder_box_does_not_take_the_answers_place(math500):
    problem = next(p for p in math500 if p.answer == "\\frac{3}{56}")
    for box in ("", "?", r"\text{your answer}"):
        (graded,) = math.grade_all([problem], [rf"\boxed{{\frac{{3}}{{56}}}} \boxed{{{box}}}"])
        assert graded.correct and graded.extracted == r"\frac{3}{56}"
        assert graded.detail == {"rules": True, "math_verify": True, "timed_out": []}


def test_several_boxes_in_one_sentence_change_no_verdict_and_are_counted():
    problem = Problem("p", "", "2, 3")
    spread, single = r"It is \boxed{2} or \boxed{3}.", r"It is \boxed{2}. So \boxed{2, 3}."
    graded, whole = math.grade_all([problem] * 2, [spread, single])
    wrong = {"rules": False, "math_verify": False, "timed_out": [], "boxes": 2}
    assert graded == Graded(False, "3", wrong)
    assert whole == Graded(True, "2, 3", {"rules": True, "math_verify": True, "timed_out": []})


def test_the_draw_of_500_is_a_function_of_its_seed(data_dir):
    drawn = math.load_math_train(data_dir=data_dir)
    assert len({problem.id for problem in drawn}) == 500
    assert all(problem.answer for problem in drawn)
    assert math.load_math_train(data_dir=data_dir, limit=7) == drawn[:7]
    other = math.load_math_train(data_dir=data_dir, seed=1)
    assert len({p.id for p in drawn} & {p.id for p in other}) < 60  # 500^2 / 12,000 = 21 expected
    assert [problem.id for problem in drawn[:5]] == FIRST_DRAWN


def test_empty_answers_are_never_drawn(data_dir):
    everything = math.load_math_train(data_dir=data_dir, num=12_000)
    assert len(everything) == 11_996
    assert not {"888", "1011", "5341", "5343"} & {problem.id for problem in everything}


def test_subject_and_level_are_known(math500, data_dir):
    for problems in (math500, math.load_math_train(data_dir=data_dir)):
        assert {problem.meta["level"] for problem in problems} == {1, 2, 3, 4, 5}
        assert len({problem.meta["subject"] for problem in problems}) == 7
