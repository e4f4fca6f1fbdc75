"""A run folder that an earlier version wrote, at commit be549f7, is taken as if it were of today.

older_run/ holds the files of such a run as they were written. It drew two passes of two arithmetic
problems by power sampling from the model "tiny".
"""

import json
import shutil
from pathlib import Path

import pytest

from powerjax import evaluation, models, records, runs
from powerjax.records import shards, stage_counts
from powerjax.runs import Row, collect, grading, rescoring
from powerjax.tasks import registry
from tests import older

WRITTEN = Path(__file__).parent / "older_run"
TASK = registry.get("arithmetic")
SAMPLER = {"alpha": 2.0, "block_size": 4, "num_mcmc_steps": 2, "max_new_tokens": 8, "num_slots": 4}
SETTINGS = {**SAMPLER, "seed": 0, "num_samples": 2, "stop": "eos"}
ROW = Row("Base", "Power", "power", SETTINGS)


@pytest.fixture(scope="module")
def lm():
    return models.load("tiny", dtype="float32")


@pytest.fixture(scope="module")
def problems():
    return TASK.load(limit=2)


@pytest.fixture
def folder(tmp_path):
    """A copy of the folder that may be changed."""
    return Path(shutil.copytree(WRITTEN, tmp_path / "run"))


def _manifest(folder) -> dict:
    return json.loads((folder / records.MANIFEST).read_text())


def _without_hashes(folder, count: int) -> list[records.Record]:
    """Gives the first `count` records the ids that they had before ids had a hash."""
    path = folder / shards.WHOLE
    drawn = records.read(path)
    drawn = [*map(older.as_before, drawn[:count]), *drawn[count:]]
    path.write_bytes(b"".join(map(records.encode, drawn)))
    return drawn


def _collect(lm, problems, folder, **changed):
    """The records of the folder after a run of its chains, and the run's stats."""
    with records.RecordFile(folder / shards.WHOLE) as file:
        stats = collect.collect(
            lm,
            problems,
            file,
            task=TASK,
            model="tiny",
            sampler="power",
            settings={**SETTINGS, **changed},
            progress=False,
        )
        return file.records, stats


def test_the_manifest_is_taken_up_with_the_flags_it_has(folder):
    before = _manifest(folder)
    records.open_run(folder, before["settings"])
    records.note_prompts(folder, before["prompts"])
    after = _manifest(folder)
    assert after["settings"] == before["settings"] and after["prompts"] == before["prompts"]
    assert after["starts"][:-1] == before["starts"]
    (first, last) = after["starts"]
    assert first.keys() == last.keys() and first["device"].keys() == last["device"].keys()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"alpha": 3.0}, "made with --alpha=2.0, and this command has --alpha=3.0: choose another"),
        ({"seed": 1, "stop": "horizon"}, "--seed=0 --stop=eos, and this command has --seed=1"),
    ],
)
def test_other_flags_are_refused_in_one_line_that_says_what_to_do(folder, changed, words):
    settings = _manifest(folder)["settings"] | {"limit": 7}
    with pytest.raises(ValueError) as error:
        records.open_run(folder, settings | changed, free=("limit",))
    line = str(error.value)
    assert words in line and "\n" not in line and "limit" not in line
    assert line.endswith("choose another --out, or give the flags it was made with")
    assert (folder / records.MANIFEST).read_bytes() == (WRITTEN / records.MANIFEST).read_bytes()


@pytest.mark.parametrize("num_without_hash", [0, 2, 4])
def test_records_of_both_kinds_of_ids_are_read_and_none_is_drawn_again(
    lm, problems, folder, num_without_hash
):
    drawn = _without_hashes(folder, num_without_hash)
    assert records.read(folder / shards.WHOLE, needs=("id", "tokens")) == drawn
    after, stats = _collect(lm, problems, folder)
    assert stats is None and after == drawn
    labels = {records.sampler_label(record) for record in drawn}
    assert labels == {"power"} and len({records.chain_name(record) for record in drawn}) == 4


def test_what_the_run_lacks_is_drawn_under_the_ids_it_would_have_had(lm, problems, folder):
    written = records.read(folder / shards.WHOLE)
    (folder / shards.WHOLE).write_bytes(b"".join(map(records.encode, written[:1])))
    _without_hashes(folder, 1)
    after, stats = _collect(lm, problems, folder)
    assert stats is not None and after[0]["id"] == "arithmetic/test-0-1/tiny/power/0/0"
    assert {record["id"] for record in after[1:]} == {record["id"] for record in written[1:]}
    assert list(after[1]) == list(written[1])  # the fields, in their order


def test_chains_of_another_law_are_refused_in_one_line_that_says_what_to_do(lm, problems, folder):
    with pytest.raises(ValueError) as error:
        _collect(lm, problems, folder, alpha=3.0)
    line = str(error.value)
    assert "drawn with alpha 2, temperature 0.5, and this run has alpha 3" in line
    assert line.endswith("choose another --out, or move the records of the other run away")
    assert "\n" not in line


def test_tables_keep_records_apart_that_state_less(folder):
    written = records.read(folder / shards.WHOLE)
    (row,) = evaluation.rows(written)
    assert (row.model, row.sampler, row.summary.num_passes) == ("tiny", "Power", 2)
    (row,) = evaluation.rows([older.as_before(record) for record in written])
    assert (row.sampler, row.summary.num_passes) == ("Power", 2)
    names = [row.sampler for row in evaluation.rows(_without_hashes(folder, 2))]
    assert names == ["Power, settings not recorded", "Power"]


def test_verdicts_scores_and_counts_of_a_row_are_taken_up(lm, problems, folder, monkeypatch):
    """Nothing is graded or scored again: the hashes of what they were made from are the same."""
    for name, path in (("records", ROW.path(folder)), ("verdicts", ROW.verdicts(folder))):
        path.parent.mkdir()
        shutil.copy(folder / f"{name}.jsonl", path)
    shutil.copy(stage_counts.beside(folder / shards.WHOLE), stage_counts.beside(ROW.path(folder)))
    result = runs.finished_result(problems, ROW, folder, task=TASK)
    assert result is not None and list(result.stages) == [(8, 7), (8, 8)]
    assert [record["correct"] for record in result.records] == [False] * 4

    drawn = grading.load([folder / shards.WHOLE])
    before = (folder / "scores.jsonl").read_bytes()
    monkeypatch.setattr(models.LM, "score", None)
    scored = rescoring.rescore(lm, drawn, problems, folder / "scores.jsonl", progress=False)
    assert (folder / "scores.jsonl").read_bytes() == before
    for record in scored:
        assert record["evaluated_self_reward"] == pytest.approx(record["self_reward"], abs=1e-4)
