"""The table of a record's fields, in every reader of records."""

import json

import numpy as np
import pytest

from powerjax import evaluation, records
from powerjax.evaluation import proposition4
from powerjax.records import fields, shards
from powerjax.runs import grading

RECORD = {
    "id": "t/p0/m/power/0/0",
    "task": "t",
    "problem_id": "p0",
    "model": "m",
    "sampler": "power",
    "alpha": 4.0,
    "seed": 0,
    "sample_index": 0,
    "prompt": "1+1=",
    "completion": "2",
    "tokens": [17, 0],
    "log_probs": [-1.0, -2.0],
    "log_prob": -3.0,
    "num_tokens": 2,
    "self_reward": -1.5,
    "finish_reason": "eos",
    "correct": True,
}

TRACE = {"log_p": [-1.5], "length": [3], "accepted": [1], "kind": ["suffix"]}


def _gather(path):
    (path.parent / shards.WHOLE).write_bytes(path.read_bytes())
    return shards.gather(path.parent, [("p0", 0)])


def _open(path):
    with records.RecordFile(path) as file:
        return file.records


READERS = {
    "read": records.read,
    "RecordFile": _open,
    "grading.load": lambda path: grading.load([path]),
    "gather": _gather,
}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("completion", 5, "must be text, and is 5"),
        ("completion", "\ud83d", "text with half a surrogate pair"),
        ("prompt", 7, "must be text, token ids or chat messages, and is 7"),
        ("prompt", [1, "a"], "a list of something else"),
        ("id", "\ud800", "half a surrogate pair"),
        ("seed", "0", "must be a whole number of 64 bits, and is text"),
        ("seed", True, "and is True"),
        ("seed", 2**64, "must be a whole number of 64 bits"),
        ("sample_index", -1, "must be a whole number, 0 or more, and is -1"),
        ("num_tokens", 10**400, "must be a whole number, 0 or more"),
        ("self_reward", "x", "must be a finite number, and is text"),
        ("log_prob", 10**400, "must be a finite number"),
        ("log_probs", ["a"], "must be a list of finite numbers"),
        ("tokens", "ab", "must be a list of token ids, 0 or more, and is text"),
        ("tokens", [1.0], "a list of something else"),
        ("tokens", [-1], "must be a list of token ids, 0 or more"),
        ("tokens", [2**31], "must be a list of token ids"),
        ("problem_id", ["p0"], "must be text or a whole number"),
        ("model", {"name": "m"}, "must be text, and is an object"),
        ("alpha", "4", 'must be a finite number or "inf"'),
        ("correct", "yes", "must be true or false"),
        ("extracted_answer", 5, "must be text"),
        ("grade_detail", [1], "must be an object"),
        ("finish_reason", 1, "must be text"),
        ("top_k", [1], "must be a whole number"),
        ("trace", [1], "must be an object of four lists of one length"),
        ("trace", {"log_p": [-1.0]}, "log_p, length, accepted and kind, and is an object"),
        ("trace", TRACE | {"kind": ["jump"]}, "must be an object of four lists"),
        ("trace", TRACE | {"length": [1, 2]}, "must be an object of four lists of one length"),
        ("adapter_merged", "yes", "must be true or false, and is text"),
    ],
)
def test_every_reader_names_file_line_and_field(tmp_path, field, value, words):
    path = tmp_path / "part.jsonl"
    other = {**RECORD, "id": "other", "problem_id": "p1"}
    rows = [other, {**RECORD, field: value}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    for name, reader in READERS.items():
        with pytest.raises(ValueError) as error:
            reader(path)
        line = str(error.value)
        assert f".jsonl, line 2: {field} " in line and words in line and "\n" not in line, name
    assert path.read_bytes() == before


def test_unknown_fields_and_unknown_values_pass(tmp_path):
    path = tmp_path / "r.jsonl"
    row = {
        **RECORD,
        "top_k": 20.0,
        "mine": {"a": ["\ud800"]},
        "alpha": "inf",
        "prompt": [1, 2],
        "correct": None,
    }
    path.write_text(json.dumps(row) + "\n")
    for reader in (records.read, _open):
        assert reader(path) == [row]
    fields.check({**RECORD, "prompt": [{"role": "user", "content": "a"}]}, "here")


@pytest.mark.parametrize("field", ["id", "problem_id", "sample_index", "tokens"])
def test_a_record_without_a_field_that_gather_needs_is_named(tmp_path, field):
    path = tmp_path / shards.WHOLE
    path.write_text(json.dumps({**RECORD, field: None}) + "\n")
    with pytest.raises(ValueError, match=rf"records\.jsonl, line 1: the record has no {field}"):
        shards.gather(tmp_path, [("p0", 0)])


def test_names_that_are_text_and_numbers_are_gathered_in_one_order(tmp_path):
    rows = [{**RECORD, "id": str(name), "problem_id": name} for name in ("b", 3, "a", 1)]
    (tmp_path / shards.WHOLE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    gathered = shards.gather(tmp_path, [])
    assert [record["problem_id"] for record in gathered.records] == [1, 3, "a", "b"]


def test_records_in_memory_are_checked_where_they_are_used():
    for bad in ({"seed": "x"}, {"log_prob": None}, {"log_prob": "x"}):
        with pytest.raises(ValueError, match="the record 't/p0/m/power/0/0'"):
            proposition4.samples([{**RECORD, **bad}] * 2)
    with pytest.raises(ValueError, match="self_reward must be a finite number"):
        evaluation.rows([{**RECORD, "self_reward": "x"}])
    of_numpy = {**RECORD, "self_reward": np.float32(-1.5), "num_tokens": np.int64(2)}
    assert evaluation.rows([of_numpy])[0].summary.num_tokens == 2
