"""Problems from a user's file: what is read, how rows are named, and how answers are compared."""

import json

import pytest

from powerjax.tasks import jsonl

USER = {"role": "user", "content": "6*7?"}
ANSWER = {"role": "assistant", "content": "42"}


def _write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_rows_are_read_in_order_and_limited(tmp_path):
    rows = {"prompt": "a", "answer": 4, "id": "x"}, {"prompt": [1, 2]}, {"prompt": "c"}
    path = _write(tmp_path / "p.jsonl", *rows)
    problems = jsonl.load(path)
    assert [p.prompt for p in problems] == ["a", [1, 2], "c"]
    assert (problems[0].id, problems[0].answer, problems[1].answer) == ("x", "4", None)
    assert jsonl.load(path, limit=2) == problems[:2]


def test_a_row_may_have_a_conversation_in_place_of_a_prompt(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, USER, ANSWER, USER]
    path = _write(tmp_path / "p.jsonl", {"messages": turns, "answer": 42}, {"messages": [USER]})
    first, second = jsonl.load(path)
    assert (first.prompt, first.answer) == (turns, "42")
    assert (second.prompt, second.answer) == ([USER], None) and first.id != second.id


def test_unnamed_rows_keep_their_name_when_others_come_or_go(tmp_path):
    first = jsonl.load(_write(tmp_path / "a.jsonl", {"prompt": "q"}, {"prompt": "q"}))
    second = jsonl.load(_write(tmp_path / "b.jsonl", {"prompt": "p"}, {"prompt": "q"}))
    assert first[0].id == second[1].id and first[1].id == f"{first[0].id}-2"


@pytest.mark.parametrize(
    "row, complaint",
    [
        ({"text": "a"}, "no prompt and no messages, only text"),
        ({}, "no prompt and no messages, only an empty object"),
        ({"prompt": ""}, "not empty"),
        ({"messages": []}, "messages must be a list of messages, each with a role and a content"),
        ({"messages": [{"role": "user"}]}, "each with a role and a content that are text"),
        ({"messages": [{"content": "a"}]}, "each with a role and a content that are text"),
        ({"messages": [USER], "prompt": "a"}, "a prompt and messages: leave one of them out"),
        ({"messages": [USER, ANSWER]}, "nothing to answer: leave that one out"),
        ({"Messages": [USER]}, "the key 'Messages' is not read: write 'messages'"),
        ({"prompt": [1, "a"]}, "list of token ids"),
        ({"prompt": "b", "id": "x"}, "the problem_id 'x' is that of line 1"),
        ({"prompt": "b", "Answer": "4"}, "the key 'Answer' is not read: write 'answer'"),
        ({"prompt": "b", "ANSWER ": "4"}, "the key 'ANSWER ' is not read: write 'answer'"),
        ({"Prompt": "b"}, "the key 'Prompt' is not read: write 'prompt'"),
        ({"prompt": "b", "answer": None, "Answer": "4"}, "the key 'Answer' is not read"),
        ({"prompt": "b", "\ufeffAnswer": "4"}, "is not read: write 'answer'"),
        ({"prompt": "b", "problemId": 1}, "write 'problem_id'"),
        ({"prompt": "b", "answer": "4\ud800"}, "not half a surrogate pair"),
        ({"prompt": "b", "id": 1.5}, "id must be text or a whole number, and is 1.5"),
        ({"prompt": "b", "Problem ID": 1}, "write 'problem_id'"),
        ({"prompt": "b", "answer": ["4", "four"]}, "text or a number, not list"),
        ({"prompt": "b", "answer": {"value": 4}}, "not dict: write it as"),
        ({"prompt": "b", "answer": True}, "not bool"),
        ({"prompt": "b", "answer": float("nan")}, "NaN is no number"),
        ({"prompt": "b", "answer": " "}, "not empty text: "),
        ({"prompt": "\ud800"}, "(without half of a surrogate pair)"),
        ({"prompt": [1, -1]}, "list of token ids (0 or more)"),
        ({"prompt": 5}, "must be text"),
        ({"prompt": "b", "id": [1]}, "id must be text or a whole number"),
        ({"prompt": "b", "problem_id": "\udfff"}, "half a surrogate pair"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, complaint):
    path = _write(tmp_path / "p.jsonl", {"prompt": "a", "id": "x"}, row)
    with pytest.raises(ValueError) as raised:
        jsonl.load(path)
    assert str(raised.value).startswith(f"{path}, line 2: ") and complaint in str(raised.value)


@pytest.mark.parametrize(
    "answer, completion, expected",
    [
        ("42", r"6*7=42. \boxed{42}", (True, "42")),
        ("42", r"\boxed{41} no, \boxed{42}", (True, "42")),
        ("1234.50", "\\boxed{$1,234.5}", (True, "$1,234.5")),
        ("yes", " yes\n", (True, "yes")),
        ("yes", "no", (False, "no")),
        (None, "anything", (None, None)),
        (9007199254740993, "9007199254740992", (False, "9007199254740992")),
        (9007199254740993, r"\boxed{9,007,199,254,740,993}", (True, "9,007,199,254,740,993")),
        (int("1" * 309), "1" * 308 + "2", (False, "1" * 308 + "2")),
        (int("1" * 309), "1" * 309, (True, "1" * 309)),
        ("nan", "nan", (True, "nan")),
        ("inf", "1e999", (False, "1e999")),
        (0.1, "0.10", (True, "0.10")),
        ("1000", "1e3", (True, "1e3")),
        ("1e999999999", "1e999999998", (False, "1e999999998")),
        (-5, "−5", (True, "−5")),
        ("1234", r"\boxed{\$1{,}234}", (True, r"\$1{,}234")),
        ("12 345", "12345", (True, "12345")),
        ("11/2", "1 1/2", (False, "1 1/2")),
        ("1 23", "12 3", (False, "12 3")),
        ("a  1\n2", "a 1 2", (True, "a 1 2")),
        ("32349", "32, 349", (False, "32, 349")),
        ("1, 2", "1,2", (True, "1,2")),
        ("42", r"\boxed{42}. \boxed{\text{your answer}}", (True, "42")),
    ],
)
def test_answers_are_compared_by_value(tmp_path, answer, completion, expected):
    (problem,) = jsonl.load(_write(tmp_path / "p.jsonl", {"prompt": "q", "answer": answer}))
    assert jsonl.grade(problem, completion) == expected


@pytest.mark.parametrize(
    "written, other",
    [
        ("0.1234567890123456789012345", "0.12345678901234568"),
        ("9007199254740993.0", "9007199254740992"),
        ("1e23", "99999999999999991611392"),
        ("1e-400", "0"),
    ],
)
def test_a_number_with_a_point_keeps_the_digits_of_the_file(tmp_path, written, other):
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "q", "answer": {written}}}')
    (problem,) = jsonl.load(path)
    assert jsonl.grade(problem, written)[0] and not jsonl.grade(problem, other)[0]


def test_other_spellings_beside_the_key_are_the_users_own(tmp_path):
    row = {"prompt": "q", "answer": "4", "Answer": "long", "problem_id": "x", "ID": 7}
    (problem,) = jsonl.load(_write(tmp_path / "p.jsonl", row))
    assert (problem.id, problem.answer) == ("x", "4")


@pytest.mark.parametrize(
    "rows, says",
    [
        (
            [{"prompt": "a", "solution": "4"}] * 2,
            "no row has the key 'answer', so there will be no",
        ),
        ([{"prompt": "a", "solution": "4"}] * 2, "(the keys are 'prompt', 'solution')"),
        ([{"prompt": "a", "answer": None}], "no row has an 'answer' that is not null, so there"),
        ([{"prompt": "a"}, {"prompt": "b", "answer": 4}], "1 of 2 rows have no 'answer'"),
    ],
)
def test_a_line_says_why_there_is_no_accuracy(tmp_path, caplog, rows, says):
    path = _write(tmp_path / "p.jsonl", *rows)
    jsonl.load(path)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{path}: ") and says in line and "\n" not in line


def test_where_every_row_has_an_answer_nothing_is_said(tmp_path, caplog):
    jsonl.load(_write(tmp_path / "p.jsonl", {"prompt": "a", "answer": 4}))
    assert not caplog.records
