"""Problems from a user's file: what is read, how rows are named, and how answers are compared."""

import json

import pytest

from powerjax.tasks import jsonl


def _write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_rows_are_read_in_order_and_limited(tmp_path):
    rows = {"prompt": "a", "answer": 4, "id": "x"}, {"prompt": [1, 2]}, {"prompt": "c"}
    path = _write(tmp_path / "p.jsonl", *rows)
    found = jsonl.load(path)
    assert [p.prompt for p in found] == ["a", [1, 2], "c"]
    assert (found[0].id, found[0].answer, found[1].answer) == ("x", "4", None)
    assert jsonl.load(path, limit=2) == found[:2]


def test_unnamed_rows_keep_their_name_when_others_come_or_go(tmp_path):
    one = jsonl.load(_write(tmp_path / "a.jsonl", {"prompt": "q"}, {"prompt": "q"}))
    two = jsonl.load(_write(tmp_path / "b.jsonl", {"prompt": "p"}, {"prompt": "q"}))
    assert one[0].id == two[1].id and one[1].id == f"{one[0].id}-2"


@pytest.mark.parametrize(
    "row, complaint",
    [
        ({"text": "a"}, "no prompt, only text"),
        ({}, "no prompt, only an empty object"),
        ({"prompt": ""}, "not empty"),
        ({"prompt": [1, "a"]}, "list of token ids"),
        ({"prompt": "b", "id": "x"}, "the problem_id 'x' is that of line 1"),
        ({"prompt": "\ud800"}, "half a surrogate pair is none"),
        ({"prompt": [1, -1]}, "list of token ids (0 or more)"),
        ({"prompt": 5}, "must be text"),
        ({"prompt": "b", "id": [1]}, "id must be text or a whole number"),
        ({"prompt": "b", "problem_id": "\udfff"}, "half a surrogate pair"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, complaint):
    path = _write(tmp_path / "p.jsonl", {"prompt": "a", "id": "x"}, row)
    with pytest.raises(ValueError) as found:
        jsonl.load(path)
    assert str(found.value).startswith(f"{path}, line 2: ") and complaint in str(found.value)


@pytest.mark.parametrize(
    "answer, completion, expected",
    [
        ("42", r"6*7=42. \boxed{42}", (True, "42")),
        ("42", r"\boxed{41} no, \boxed{42}", (True, "42")),
        ("1234.50", "\\boxed{$1,234.5}", (True, "$1,234.5")),
        ("yes", " yes\n", (True, "yes")),
        ("yes", "no", (False, "no")),
        (None, "anything", (None, None)),
    ],
)
def test_answers_are_compared_by_value(tmp_path, answer, completion, expected):
    (problem,) = jsonl.load(_write(tmp_path / "p.jsonl", {"prompt": "q", "answer": answer}))
    assert jsonl.grade(problem, completion) == expected
