"""Counts of moves beside a record file: added up over starts, and never of other records."""

import types

import pytest

from powerjax.records import stage_counts


def _stats(moves, accepted):
    return types.SimpleNamespace(stage_moves=moves, stage_accepted=accepted)


def test_starts_add_up_stage_by_stage(tmp_path):
    path = tmp_path / "records.jsonl"
    assert stage_counts.read(path, 10) == []
    stage_counts.keep(path, _stats([40, 20], [10, 5]), 6)
    stage_counts.keep(path, _stats([8], [2]), 4)
    assert stage_counts.beside(path).name == "records.stages.json"
    assert stage_counts.read(path, 10) == [(48, 12), (20, 5)]
    assert stage_counts.read(path, 12) == [(48, 12), (20, 5)]  # a killed start's are not counted


def test_counts_of_more_records_than_there_are_say_nothing(tmp_path):
    path = tmp_path / "records.jsonl"
    stage_counts.keep(path, _stats([40], [10]), 6)
    assert stage_counts.read(path, 5) == []


def test_a_sampler_without_moves_leaves_no_file(tmp_path):
    path = tmp_path / "records.jsonl"
    stage_counts.keep(path, _stats([], []), 6)
    assert not stage_counts.beside(path).exists() and list(tmp_path.iterdir()) == []


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    stage_counts.beside(path).write_text("[{")
    with pytest.raises(ValueError, match=r"records\.stages\.json is not valid JSON: delete it"):
        stage_counts.read(path, 1)
    for text in ("5", "[1]", "null", '[{"num_records": "x", "moves": [], "accepted": []}]'):
        stage_counts.beside(path).write_text(text)
        with pytest.raises(ValueError, match=r"records\.stages\.json"):
            stage_counts.read(path, 1)
