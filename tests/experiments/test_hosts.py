"""experiments/sample.py in several processes: kills, another number of them, mistakes."""

import json
import re
import signal
import time

import pytest

from powerjax import models, records
from powerjax.sample import draws, mh
from tests.experiments import programs
from tests.parallel.test_rendezvous import free_port
from tests.sample import edges

pytestmark = pytest.mark.full

_JOB = ["--limit=16", "--num_samples=2", "--num_mcmc_steps=20", "--num_slots=2", "--noprogress"]
_DRAWN = ("tokens", "completion", "correct", "finish_reason", "num_forward_tokens", "num_tokens")
_FLOATS = ("log_prob", "self_reward", "acceptance_rate", "log_probs")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The records of one process that nothing disturbed, with the --num_slots of all tests here."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, _, err = programs.end(programs.start("experiments.sample", *_JOB, f"--out={folder}"))
    assert code == 0, err
    return records.read(folder / "records.jsonl")


@pytest.fixture
def start():
    """Returns a function that starts processes; at the test's end those that still run are killed.

    Of `count` processes in all it starts those with these ids, or all of them.
    """
    started = []

    def start(folder, count, ids=None, *, meet=True, flags=(), of_one=None, num_devices=1):
        address = f"127.0.0.1:{free_port()}"
        processes = []
        for i in range(count) if ids is None else ids:
            given = [*_JOB, f"--out={folder}", f"--num_processes={count}", f"--process_id={i}"]
            given += [f"--coordinator={address}"] if meet else []
            given += [*flags, *(of_one or {}).get(i, ())]
            processes.append(programs.start("experiments.sample", *given, num_devices=num_devices))
        started.extend(processes)
        return processes

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _parts(folder):
    return {path.name: records.read(path) for path in sorted(folder.glob("records-*.jsonl"))}


def _kill_midway(process, path, at_least):
    while not path.exists() or path.read_bytes().count(b"\n") < at_least:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert programs.end(process)[0] == -signal.SIGKILL


def _assert_same(found, expected):
    """Asserts that the records have the same ids and draws, and the same numbers up to 1e-4."""
    assert len({record["id"] for record in found}) == len(found) == len(expected)
    expected = {record["id"]: record for record in expected}
    for record in found:
        other = expected[record["id"]]
        assert record.keys() == other.keys()
        for name in _DRAWN:
            assert record[name] == other[name], (record["id"], name)
        for name in _FLOATS:
            assert record[name] == pytest.approx(other[name], abs=1e-4), (record["id"], name)


def test_a_lost_process_is_started_again_alone(undisturbed, tmp_path, start):
    """Of two processes one is killed. The other ends its share, and the lost one later its own."""
    folder = tmp_path / "run"
    first, second = start(folder, 2)
    lost = folder / "records-00001-of-00002.jsonl"
    _kill_midway(second, lost, 1)
    code, out, err = programs.end(first)
    assert code == 0, err
    before = _parts(folder)
    done = sum(map(len, before.values()))
    assert done < len(undisturbed)
    found = re.search(r"this share is done; (\d+) of (\d+) completions are other", out)
    assert int(found[1]) >= len(undisturbed) - done and int(found[2]) == len(undisturbed)
    assert not (folder / "records.jsonl").exists()

    code, _, err = programs.end(programs.start("experiments.merge_shards", f"--out={folder}"))
    assert code == 1 and "Traceback" not in err
    assert f"{len(undisturbed) - done} completions are missing: run the command of" in err

    (again,) = start(folder, 2, [1], meet=False)
    code, out, err = programs.end(again)
    assert code == 0, err
    assert f"{done} records are in {folder}: going on from there" in out
    assert "accuracy" in out
    after = _parts(folder)
    for name, kept in before.items():  # nothing was made twice, nor anything lost
        assert after[name][: len(kept)] == kept
    assert sum(map(len, after.values())) == len(undisturbed)
    _assert_same(records.read(folder / "records.jsonl"), undisturbed)


def test_a_run_goes_on_with_another_number_of_processes(undisturbed, tmp_path, start):
    """Of three processes two are killed. Then two processes make what the three left out."""
    folder = tmp_path / "run"
    processes = start(folder, 3)
    for i in (1, 2):
        _kill_midway(processes[i], folder / f"records-{i:05d}-of-00003.jsonl", 1)
    code, _, err = programs.end(processes[0])
    assert code == 0, err
    before = _parts(folder)
    with (folder / "records-00002-of-00003.jsonl").open("ab") as file:  # a torn line
        file.write(b'{"id": "arithmetic/test-0-9/tiny/po')
    for process in start(folder, 2):
        code, _, err = programs.end(process)
        assert code == 0, err
    after = _parts(folder)
    assert set(after) == set(before) | {f"records-0000{i}-of-00002.jsonl" for i in (0, 1)}
    for name, kept in before.items():
        assert after[name] == kept
    assert sum(map(len, after.values())) == len(undisturbed)
    _assert_same(records.read(folder / "records.jsonl"), undisturbed)

    code, out, err = programs.end(programs.start("experiments.merge_shards", f"--out={folder}"))
    assert code == 0, err
    assert f"{len(undisturbed)} of {len(undisturbed)} completions are in {folder}" in out
    _assert_same(records.read(folder / "records.jsonl"), undisturbed)


def test_two_processes_of_four_devices_draw_the_chains_of_one(undisturbed, tmp_path, start):
    """Each process splits the model over its own four devices: sums are taken in other orders."""
    folder = tmp_path / "run"
    for process in start(folder, 2, flags=["--model_axis=4"], num_devices=4):
        code, out, err = programs.end(process)
        assert code == 0, err
        assert "on 4 x cpu" in out
    found = {record["id"]: record for record in records.read(folder / "records.jsonl")}
    expected = {record["id"]: record for record in undisturbed}
    assert found.keys() == expected.keys()
    different = [i for i in expected if found[i]["tokens"] != expected[i]["tokens"]]
    assert len(different) <= 2
    _assert_same(
        [record for record in found.values() if record["id"] not in different],
        [record for record in undisturbed if record["id"] not in different],
    )
    lm = models.load("tiny", dtype="float32") if different else None
    for record in (expected[i] for i in different):
        settings = mh.settings(
            record["alpha"],
            block_size=record["block_size"],
            num_mcmc_steps=record["num_mcmc_steps"],
            max_new_tokens=64,
            stop_ids=lm.stop_ids,
        )
        chain = [record["problem_id"]], [record["sample_index"]]
        (key,) = draws.chain_keys(record["seed"], *chain)
        assert edges.margin(lm, lm.encode(record["prompt"]), key, settings) < 1


def test_processes_that_differ_end_with_one_line_each(tmp_path, start):
    folder = tmp_path / "run"
    for process in start(folder, 2, of_one={1: ["--alpha=2"]}):
        code, _, err = programs.end(process)
        assert code == 1
        assert _lines(err) == [
            "sample: process 1 has alpha 2.0, process 0 has 4.0: start all of them alike"
        ]
    assert not folder.exists()


def test_nobody_waits_for_ever(tmp_path, start):
    """A process gives up without a coordinator, and the coordinator without the other process."""
    (alone,) = start(tmp_path / "run", 2, [1], flags=["--wait_s=1"])
    code, _, err = programs.end(alone)
    assert code == 1
    (line,) = _lines(err)
    assert re.match(r"sample: no coordinator at 127.0.0.1:\d+ within 1 s", line)
    (first,) = start(tmp_path / "run", 2, [0], flags=["--wait_s=1"])
    code, _, err = programs.end(first)
    assert code == 1
    (line,) = _lines(err)
    assert line.startswith("sample: process 1 of 2 did not come to the coordinator")


def test_every_host_says_what_is_wrong_and_ends(tmp_path):
    cases = {
        "--model_axis=3": "--model_axis=3 does not fit the 1 devices of process {i}",
        "--data_axis=3": "--data_axis=3 does not divide by the 2 processes",
        "--data_axis=4": "a mesh of data 2 x model 1 does not fit 1 devices",
        "--out=/proc/no/such": "/proc/no",
    }
    common = [*_JOB, f"--out={tmp_path}/run", "--num_processes=2"]
    addresses = [f"--coordinator=127.0.0.1:{free_port()}" for _ in cases]
    argvs = [
        [
            [*common, address, f"--process_id={i}", flag]
            for address, flag in zip(addresses, cases, strict=True)
        ]
        for i in range(2)
    ]
    for i, ends in enumerate(programs.ends_side_by_side("experiments.sample", argvs)):
        for said, (code, _, err) in zip(cases.values(), ends, strict=True):
            assert code == 1
            (line,) = _lines(err)
            assert said.format(i=i) in line


def test_half_a_place_is_refused(tmp_path):
    given = [*_JOB, f"--out={tmp_path}/run", "--num_processes=2"]
    code, _, err = programs.end(programs.start("experiments.sample", *given))
    assert code == 1
    (line,) = _lines(err)
    assert "coordinator, num_processes and process_id go together" in line


def test_a_run_of_other_flags_is_not_merged(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"alpha": 4}}))
    given = [f"--out={tmp_path}"]
    code, _, err = programs.end(programs.start("experiments.merge_shards", *given))
    assert code == 1
    assert "manifest.json: no manifest of experiments.sample" in err and "Traceback" not in err


def _lines(err: str) -> list[str]:
    return [line for line in err.split("\n") if line.startswith("sample: ") or "Traceback" in line]
