"""A run's records: what is drawn again, what is taken up, and what is refused."""

import dataclasses

import pytest

from powerjax import evaluation, records
from powerjax.records import shards
from powerjax.runs import collect
from powerjax.tasks import Problem, registry
from tests import older, tiny

PROBLEMS = [Problem(f"p{i}", [5 + i, 9], None) for i in range(6)]


def _collect(lm, path, problems=PROBLEMS, share=shards.Share(), **changed):  # noqa: B008, immutable
    """Returns the records of `path` after a run of a few power chains, and the run's stats."""
    settings = {"max_new_tokens": 8, "block_size": 4, "num_mcmc_steps": 1, "alpha": 2.0}
    settings |= {"seed": 0, "num_samples": 2, "num_slots": 4, **changed}
    with records.RecordFile(path) as file:
        stats = collect.collect(
            lm,
            problems,
            file,
            task=registry.get("arithmetic"),
            model="m",
            sampler="power",
            settings=settings,
            share=share,
            elsewhere=shards.elsewhere(path.parent, path),
            progress=False,
        )
        return file.records, stats


def _write(path, drawn):
    path.write_bytes(b"".join(map(records.encode, drawn)))


@pytest.fixture(scope="module")
def whole(tiny_qwen, tmp_path_factory):
    """The records of a run that nothing disturbed."""
    return _collect(tiny_qwen, tmp_path_factory.mktemp("whole") / "records.jsonl")[0]


def _tokens(drawn):
    return {records.chain_name(record): record["tokens"] for record in drawn}


def test_older_records_are_taken_up_where_they_stopped(tiny_qwen, whole, tmp_path):
    path = tmp_path / "records.jsonl"
    before = [older.as_before(record) for record in whole[:5]]
    _write(path, before)
    drawn, stats = _collect(tiny_qwen, path)
    assert stats is not None and drawn[:5] == before and len(drawn) == 12
    assert _tokens(drawn) == _tokens(whole)
    assert {record["id"] for record in drawn[5:]} <= {record["id"] for record in whole}
    again, stats = _collect(tiny_qwen, path)
    assert stats is None and again == drawn


def test_processes_share_what_an_older_run_lacks(tiny_qwen, whole, tmp_path):
    """An older run of two processes is taken up by three: each chain once, none left out."""
    before = [older.as_before(record) for record in whole]
    parts = [[r for r in before if shards.Share(i, 2).owns(r["id"])][: 3 - i] for i in range(2)]
    for i, part in enumerate(parts):
        _write(shards.Share(i, 2).path(tmp_path), part)
    for i in range(3):
        share = shards.Share(i, 3)
        _collect(tiny_qwen, share.path(tmp_path), share=share)
    gathered = shards.gather(tmp_path, [(p.id, j) for p in PROBLEMS for j in range(2)])
    assert not gathered.missing and not gathered.num_repeated
    assert _tokens(gathered.records) == _tokens(whole)
    assert sum(len(records.read(path)) for path in gathered.parts) == len(whole)
    assert [r for r in gathered.records if r in before] != []


def _proposed(lm, move):
    return {"proposal": tiny.student(lm), "move": move, "block_size": 8}


def test_a_run_with_a_proposal_model_is_taken_up(tiny_qwen, tmp_path):
    """Of a run that was killed the rest is drawn as if nothing had disturbed it."""
    path, keywords = tmp_path / "records.jsonl", _proposed(tiny_qwen, "restart")
    whole, _ = _collect(tiny_qwen, path, **keywords)
    path.unlink()
    _write(path, whole[:5])
    drawn, stats = _collect(tiny_qwen, path, **keywords)
    assert stats is not None and drawn[:5] == whole[:5] and _tokens(drawn) == _tokens(whole)
    for changed, words in (
        ({"proposal": tiny.student(tiny_qwen, seed=2)}, "proposal_hash"),
        ({"proposal_temperature": 0.5}, "proposal_temperature 1"),
    ):
        with pytest.raises(ValueError, match=words):
            _collect(tiny_qwen, path, **(keywords | changed))
    with pytest.raises(ValueError, match=r"proposal tiny_qwen\+student, .* has .* proposal None"):
        _collect(tiny_qwen, path, block_size=8)


@pytest.mark.full
@pytest.mark.parametrize("move", ["restart", "suffix", "mixture"])
def test_processes_share_the_chains_of_a_proposal_model(tiny_qwen, tmp_path, move):
    keywords = _proposed(tiny_qwen, move)
    whole, _ = _collect(tiny_qwen, tmp_path / "records.jsonl", **keywords)
    (tmp_path / "records.jsonl").unlink()
    for i in range(2):
        share = shards.Share(i, 2)
        _collect(tiny_qwen, share.path(tmp_path), share=share, **keywords)
    gathered = shards.gather(tmp_path, [(p.id, j) for p in PROBLEMS for j in range(2)])
    assert not gathered.missing and not gathered.num_repeated
    assert _tokens(gathered.records) == _tokens(whole)


def test_an_older_and_a_newer_record_of_one_chain_are_the_same(whole, tmp_path):
    _write(tmp_path / "records.jsonl", map(older.as_before, whole[:2]))
    _write(shards.Share(0, 2).path(tmp_path), whole[1:4])
    gathered = shards.gather(tmp_path, [])
    assert _tokens(gathered.records) == _tokens(whole[:4])
    _write(shards.Share(0, 2).path(tmp_path), [{**whole[1], "top_k": 3}])
    _write(tmp_path / "records.jsonl", [whole[1]])
    with pytest.raises(ValueError, match="is another one in"):
        shards.gather(tmp_path, [])


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"top_k": 5}, "top_k None, and this run has top_k 5"),
        ({"max_new_tokens": 6}, "max_new_tokens 8, and this run has max_new_tokens 6"),
        ({"stop": "horizon"}, "stop eos, and this run has stop horizon"),
        ({"alpha": 3.0}, "alpha 2, temperature 0.5, and this run has alpha 3"),
    ],
)
def test_a_file_of_another_law_is_refused_in_one_line(tiny_qwen, whole, tmp_path, changed, words):
    path = tmp_path / "records.jsonl"
    _write(path, whole[:1])
    with pytest.raises(ValueError) as error:
        _collect(tiny_qwen, path, **changed)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert whole[0]["id"] in str(error.value) and records.read(path) == whole[:1]


def test_the_same_law_written_otherwise_goes_on(tiny_qwen, whole, tmp_path):
    path = tmp_path / "records.jsonl"
    _write(path, whole)
    assert _collect(tiny_qwen, path, temperature=0.5, kernel="exact", num_slots=2)[1] is None


def test_problems_prompted_in_two_styles_are_two_rows(tiny_qwen, whole, tmp_path):
    chat = [dataclasses.replace(problem, style="chat") for problem in PROBLEMS]
    drawn, _ = _collect(tiny_qwen, tmp_path / "records.jsonl", chat)
    assert not {record["id"] for record in drawn} & {record["id"] for record in whole}
    names = [result.sampler for result in evaluation.rows([*whole, *drawn])]
    assert names == ["Power, raw prompt", "Power, chat template"]
