"""experiments/sample.py with a proposal model: records, kills, two processes, mistakes."""

import json
import signal
import time

import pytest

from powerjax import models, records
from powerjax.models import peft
from tests import tiny
from tests.experiments import programs
from tests.parallel.test_rendezvous import free_port

_JOB = ["--limit=8", "--num_samples=2", "--num_mcmc_steps=16", "--num_slots=2", "--noprogress"]
_DRAWN = ("tokens", "correct", "finish_reason", "acceptance_rate", "proposal", "move")
_COSTS = ("num_forward_tokens", "num_proposal_forward_tokens")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of a student of the embedded model, with random weights."""
    lm = models.load("tiny", dtype="float32")
    folder = tmp_path_factory.mktemp("student") / "adapter"
    peft.save(folder, tiny.student(lm, size=0.01).adapter, lm.config)
    return folder


def test_records_say_what_proposed_and_mistakes_say_what_to_do(tmp_path, adapter):
    student = f"--proposal_adapter={adapter}"
    made, out = f"--out={tmp_path / 'made'}", f"--out={tmp_path / 'out'}"
    job = ["--limit=2", "--noprogress", made, student]
    cases = [
        ([*job, "--trace"], None),
        ([*job, "--trace", "--num_mcmc_steps=1", "--move=restart", "--block_size=64"], None),
        ([*job, "--trace", "--move=suffix"], "made with --move=restart, and this command has"),
        ([*job], "made with --trace=True"),
        ([*job, "--trace", "--proposal_temperature=.5"], "made with --proposal_temperature=1.0"),
        (["--limit=2", made, "--trace"], f"made with --proposal_adapter={adapter}"),
        ([out, "--move=suffix"], "--move needs a proposal model: give --proposal_adapter or"),
        ([out, "--mixture=.4,.3,.3"], "--mixture needs a proposal model"),
        ([out, "--proposal_temperature=.5"], "--proposal_temperature needs a proposal model"),
        ([out, student, "--sampler=standard"], "--sampler=standard takes no proposal model"),
        ([out, student, "--sampler=power_inf"], "or take --sampler=power"),
        ([out, student, "--merge_adapter"], "leave it out"),
        ([out, student, "--mixture=.4,.3,.3"], "--mixture is for --move=mixture"),
        ([out, student, "--move=mixture", "--mixture=a,b"], "--mixture=a,b: give three numbers"),
        ([out, student, "--move=mixture", "--mixture=.5,.6,0"], "three numbers that sum to 1"),
        ([out, student, "--block_size=16"], "restart moves draw whole completions"),
        ([out, student, "--temperature=.3"], "no move here is the base's"),
        ([out, student, "--proposal_temperature=1e-9"], "proposal_temperature is 1e-09"),
        ([out, "--sampler=standard", "--trace"], "no moves to trace: leave out --trace"),
        ([out, f"--proposal_adapter={tmp_path}"], "has no adapter_config.json"),
        ([out, f"--proposal_model={tmp_path}/none"], "no such folder"),
    ]
    ends = programs.ends("experiments.sample", [argv for argv, _ in cases])
    for (argv, words), (code, _, err) in zip(cases, ends, strict=True):
        assert code == (words is not None), (argv, code, err)
        assert "Traceback" not in err and (words or "") in err, (argv, err)
        assert len([line for line in err.split("\n") if line.startswith("sample: ")]) == code
    assert "of the model," in ends[0][1] and "of the proposal model" in ends[0][1]
    assert "proposal: LM(tiny with" in ends[0][1]
    assert "going on from there" in ends[1][1]  # what is given is what was the default
    drawn = records.read(tmp_path / "made" / "records.jsonl")
    assert len(drawn) == 2
    for record in drawn:
        assert record["proposal"].startswith("tiny+") and record["move"] == "restart"
        assert (record["num_mcmc_steps"], record["block_size"]) == (1, 64)
        assert record["num_proposal_forward_tokens"] == record["num_forward_tokens"]
        assert record["trace"]["kind"] == ["restart"]
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert manifest["settings"]["proposal_adapter"] == str(adapter)
    assert not (tmp_path / "out").exists()


def _by_id(folder):
    drawn = records.read(folder / "records.jsonl")
    assert len({record["id"] for record in drawn}) == len(drawn)
    return {record["id"]: record for record in drawn}


def _assert_same(folder, expected):
    """Asserts equal draws; scores are equal up to rounding, which the size of a batch changes."""
    drawn = _by_id(folder)
    assert drawn.keys() == expected.keys()
    for name, record in drawn.items():
        other = expected[name]
        assert record.keys() == other.keys()
        for field in (*_DRAWN, *_COSTS):
            assert record[field] == other[field], (name, field)
        assert record["log_probs"] == pytest.approx(other["log_probs"], abs=1e-4)
        for field in ("length", "accepted", "kind"):
            assert record["trace"][field] == other["trace"][field], (name, field)


def _kill_midway(process, path, at_least):
    while not path.exists() or path.read_bytes().count(b"\n") < at_least:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert programs.end(process)[0] == -signal.SIGKILL


_MOVES = ("restart", "suffix", "mixture")


@pytest.mark.full
def test_a_killed_run_and_two_processes_leave_the_same_records(tmp_path, adapter):
    """Runs of all three moves. One process, or one pair, makes what none is to be killed in."""

    def command(kind, move, *more):
        out = f"--out={tmp_path / f'{kind} {move}'}"
        return [*_JOB, f"--proposal_adapter={adapter}", f"--move={move}", "--trace", out, *more]

    wholes = [command("whole", move) for move in _MOVES]
    for code, _, err in programs.ends("experiments.sample", wholes):
        assert code == 0, err
    expected = {move: _by_id(tmp_path / f"whole {move}") for move in _MOVES}
    assert [len(drawn) for drawn in expected.values()] == [16, 16, 16]

    for move in _MOVES:
        killed = tmp_path / f"killed {move}"
        process = programs.start("experiments.sample", *command("killed", move))
        _kill_midway(process, killed / "records.jsonl", 3)
        assert 3 <= len(_by_id(killed)) < 16
    again = [command("killed", move) for move in _MOVES]
    for code, out, err in programs.ends("experiments.sample", again):
        assert code == 0 and "going on from there" in out, err

    places = [[f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"] for _ in _MOVES]
    pair = [
        [
            command("shared", move, *place, f"--process_id={i}")
            for move, place in zip(_MOVES, places, strict=True)
        ]
        for i in range(2)
    ]
    for ends in programs.ends_side_by_side("experiments.sample", pair):
        for code, _, err in ends:
            assert code == 0, err
    for move in _MOVES:
        assert len(list((tmp_path / f"shared {move}").glob("records-*-of-00002.jsonl"))) == 2
        for kind in ("killed", "shared"):
            _assert_same(tmp_path / f"{kind} {move}", expected[move])


@pytest.mark.full
def test_hosts_with_other_moves_end_with_one_line_each(tmp_path, adapter):
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    job = [*_JOB, *place, f"--proposal_adapter={adapter}", f"--out={tmp_path / 'run'}"]
    pair = [
        programs.start("experiments.sample", *job, f"--process_id={i}", f"--move={move}")
        for i, move in enumerate(("restart", "suffix"))
    ]
    for process in pair:
        code, _, err = programs.end(process)
        assert code == 1 and "process 1 has move suffix, process 0 has restart" in err
        assert "Traceback" not in err
