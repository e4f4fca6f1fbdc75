import random
import re

import pytest

from powerjax.tasks import Problem, arithmetic

GOLDEN = (
    "test-0-0",
    "Leo has 42 books, wins 8, gets 9, gets 2, wins 8, loses 3. How many books?\nA:",
    "66",
)


@pytest.fixture(scope="module")
def train():
    return arithmetic.problems("train", 3000, seed=0)


def test_prompt_and_meta_tell_the_same_story(train):
    for problem in train:
        clauses = re.split(r", |\. ", problem.prompt)
        story = re.fullmatch(r"(\w+) has (\d+) (\w+)", clauses[0])
        assert problem.prompt.endswith(f". How many {story[3]}?\nA:")
        assert int(story[2]) == problem.meta["start"]
        steps = []
        for clause in clauses[1:-1]:
            words = clause.split()
            if words[0] == "doubles":
                steps.append(("*", 2))
            else:
                assert words[0] in arithmetic.GAINS + arithmetic.LOSSES
                assert story[1] not in words
                steps.append(("+" if words[0] in arithmetic.GAINS else "-", int(words[-1])))
        assert steps == problem.meta["steps"]


def test_answers_follow_from_the_steps(train):
    for problem in train:
        value = problem.meta["start"]
        assert 3 <= len(problem.meta["steps"]) <= 5
        for operation, operand in problem.meta["steps"]:
            value = eval(f"{value}{operation}{operand}")
            assert 2 <= value <= 99
        assert str(value) == problem.answer
        assert str(eval(_nested(arithmetic.trace(problem)))) == problem.answer


def _nested(trace: str) -> str:
    """`44*2+7` evaluated from left to right."""
    parts = re.findall(r"^\d+|[-+*]\d+", trace)
    return "(" * (len(parts) - 1) + ")".join(parts)


def test_every_completion_is_correct(train):
    rng = random.Random(0)
    for problem in train:
        completion = arithmetic.completion(problem, rng)
        steps = re.findall(r" (\d+[-+*]\d+)=(\d+)\.", completion)
        assert all(str(eval(step)) == result for step, result in steps)
        # Each step starts from the last result, and they are a prefix of the problem's steps.
        value = str(problem.meta["start"])
        expected = problem.meta["steps"][: len(steps)]
        for (step, result), (operation, operand) in zip(steps, expected, strict=True):
            assert step == f"{value}{operation}{operand}"
            value = result
        assert completion.endswith(rf" \boxed{{{problem.answer}}}")
        written = "".join(f" {step}={result}." for step, result in steps)
        assert completion == rf"{written} \boxed{{{problem.answer}}}"
        assert arithmetic.grade(problem, completion) == (True, problem.answer)


def test_styles_come_in_the_stated_shares(train):
    rng = random.Random(1)
    texts = [arithmetic.completion(problem, rng) for problem in train]
    terse = sum("=" not in text for text in texts) / len(texts)
    assert abs(terse - arithmetic.FIRST_JUMP) < 0.03  # 3 standard errors
    full = sum(
        text.count("=") == len(p.meta["steps"]) for p, text in zip(train, texts, strict=True)
    )
    assert full > 0.15 * len(texts)


def test_a_longer_stream_only_appends():
    assert arithmetic.problems("test", 20, seed=3) == arithmetic.problems("test", 50, seed=3)[:20]
    assert arithmetic.problems("test", 20, seed=3) != arithmetic.problems("test", 20, seed=4)
    assert arithmetic.load("test", 5) == arithmetic.problems("test", 5)
    assert len(arithmetic.load()) == 200


def test_ids_are_unique_across_splits_and_seeds():
    ids = [
        problem.id
        for split in arithmetic.SPLITS
        for seed in (0, 1, 10)
        for problem in arithmetic.problems(split, 20, seed)
    ]
    assert len(set(ids)) == len(ids)
    assert not any("/" in name for name in ids)  # it separates the parts of a record's id


@pytest.mark.parametrize("test_seed", [0, 1])
def test_no_numeric_trace_is_in_both_splits(train, test_seed):
    seen = {arithmetic.trace(problem) for problem in train}
    held_out = {arithmetic.trace(p) for p in arithmetic.problems("test", 1000, seed=test_seed)}
    assert not seen & held_out


def test_the_first_problem_stays_what_it_is():
    """The asset was trained on these streams, so no change of Python may change them."""
    problem = arithmetic.problems("test", 1)[0]
    assert (problem.id, problem.prompt, problem.answer) == GOLDEN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r" \boxed{90}", (True, "90")),
        (r" 1+1=2. \boxed{ 90 }", (True, "90")),
        (r" \boxed{90} \boxed{91}", (False, "91")),
        (r" \boxed{91} \boxed{90}", (True, "90")),
        (r" \boxed{90} \boxed{9", (True, "90")),
        (r" \boxed{9", (False, None)),
        (r" \boxed{}", (False, "")),
        (r" \boxed{090}", (False, "090")),
        (" 90", (False, None)),
        ("", (False, None)),
    ],
)
def test_grade_takes_the_last_box(text, expected):
    assert arithmetic.grade(Problem("p", "", "90"), text) == expected


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="no split 'dev': choose one of train, test"):
        arithmetic.problems("dev")
