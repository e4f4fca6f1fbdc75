"""The training loop: resume, metrics, signals, and folders that it must leave alone."""

import dataclasses
import functools
import json
import logging
import os
import resource
import shutil
import signal
import struct
import time

import jax
import numpy as np
import pytest

from powerjax import distill, records
from powerjax.distill import batches, checkpoints, loop, step
from powerjax.models import checkpoint, lora

LORA = lora.LoraConfig(rank=2, alpha=4.0, dropout=0.1, target_modules=("q_proj", "down_proj"))
SETTINGS = distill.Settings(learning_rate=0.05, num_steps=9, schedule="linear", remat=False)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Compiles the step once for all tests, because compiling takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "make_step", functools.cache(step.make_step))
        yield


@pytest.fixture(scope="module")
def corpus(tiny_qwen):
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": rng.integers(1, 97, 3).tolist(), "tokens": [*rng.integers(1, 9, 6).tolist(), 0]}
        for _ in range(10)
    ]
    return distill.load(tiny_qwen, rows)


@pytest.fixture(scope="module")
def undisturbed(tiny_qwen, corpus, tmp_path_factory):
    """What nine steps of four examples give, three steps per epoch, and their folder."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return _train(tiny_qwen, corpus, folder), folder


def _train(lm, corpus, folder, settings=SETTINGS, lora_config=LORA, **options):
    options = {"batch_size": 4, "save_steps": 2, "progress": False, **options}
    return distill.train(lm, corpus, lora_config, settings, folder, **options)


def _interrupt(monkeypatch, at, how):
    """Calls `how` while batch number `at` is made."""
    make_batch, calls = batches.make_batch, []

    def make(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            how()
        return make_batch(*args, **kwargs)

    monkeypatch.setattr(batches, "make_batch", make)


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.adapter.params, b.adapter.params)


def _assert_same_numbers(a, b):
    """Asserts that two metrics files have the same rows but for the times."""
    times = ("seconds", "tokens_per_s")
    strip = [[{k: v for k, v in row.items() if k not in times} for row in rows] for rows in (a, b)]
    assert strip[0] == strip[1]


def test_a_run_learns_and_leaves_a_row_for_each_step(undisturbed, corpus):
    trained, folder = undisturbed
    rows = _rows(folder)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["epoch"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sum(row["num_tokens"] for row in rows[:3]) == 70  # seven completion tokens each
    assert trained.first_loss == rows[0]["loss"] and trained.last_loss == rows[-1]["loss"]
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[6:]) < np.mean(losses[:3]) - 0.5
    assert (trained.num_steps, trained.num_done, trained.num_tokens) == (9, 9, 3 * 100)
    assert all(row["seconds"] > 0 and row["tokens_per_s"] > 0 for row in rows)
    assert rows[0]["learning_rate"] == 0 and rows[1]["learning_rate"] == pytest.approx(0.05)
    assert _steps(folder) == [8, 9]  # the last two of 2, 4, 6, 8, 9


def test_each_epoch_has_its_own_order_and_a_later_start_its_rest(corpus):
    whole = list(loop._order(corpus, SETTINGS, 4, 0))
    for epoch in range(3):
        drawn = batches.epoch_batches(corpus, batch_size=4, seed=0, epoch=epoch)
        for (_, number, indices), expected in zip(whole[3 * epoch :], drawn, strict=False):
            assert number == epoch and indices.tolist() == expected.tolist()
    rest = list(loop._order(corpus, SETTINGS, 4, 5))
    assert [(step, indices.tolist()) for step, _, indices in rest] == [
        (step, indices.tolist()) for step, _, indices in whole[5:]
    ]


def test_tensorboard_has_the_same_losses(undisturbed):
    _, folder = undisturbed
    _, losses = _tensorboard(folder)
    assert losses == pytest.approx({row["step"]: row["loss"] for row in _rows(folder)})


def _tensorboard(folder):
    """Reads the last event file.

    Returns the step from which it overrules earlier files, or None, and its losses by step.
    """
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    path = max((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    file, start, losses = path.read_bytes(), None, {}
    while file:
        (size,) = struct.unpack("<Q", file[:8])
        event = event_pb2.Event.FromString(file[12 : 12 + size])
        if event.session_log.status == event_pb2.SessionLog.START:
            start = event.step
        for value in event.summary.value:
            if value.tag == "loss":
                losses[event.step] = value.simple_value
        file = file[16 + size :]
    return start, losses


def test_a_run_that_died_ends_in_the_same_adapter_with_each_step_once(
    tiny_qwen, corpus, undisturbed, tmp_path, monkeypatch
):
    def die():
        raise RuntimeError("as if killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="as if killed"):
        _interrupt(patch, 8, die)  # step 6 has a checkpoint, step 6 or 7 a row
        _train(tiny_qwen, corpus, tmp_path)
    assert _steps(tmp_path) == [4, 6]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": 9.0}\n{"step": 8, "lo')
    (tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir()  # a save cut short
    trained = _train(tiny_qwen, corpus, tmp_path, resume=True)
    whole, folder = undisturbed
    assert trained.num_done == 3
    _assert_same(trained, whole)
    _assert_same_numbers(_rows(tmp_path), _rows(folder))
    assert trained.first_loss == whole.first_loss
    assert _steps(tmp_path) == [8, 9]
    start, losses = _tensorboard(tmp_path)
    assert start == 7 and list(losses) == [7, 8, 9]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_a_whole_step_with_its_checkpoint(
    tiny_qwen, corpus, undisturbed, tmp_path, monkeypatch, number
):
    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(distill.Stopped) as stopped:
        _interrupt(patch, 5, lambda: os.kill(os.getpid(), number))
        _train(tiny_qwen, corpus, tmp_path, save_steps=100)
    assert (stopped.value.step, stopped.value.signal_number) == (5, number)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before
    assert _steps(tmp_path) == [5] and len(_rows(tmp_path)) == 5
    _assert_same(_train(tiny_qwen, corpus, tmp_path, resume=True), undisturbed[0])


def test_a_second_ctrl_c_ends_at_once(tiny_qwen, corpus, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    _interrupt(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt) as stopped:
        _train(tiny_qwen, corpus, tmp_path)
    assert not isinstance(stopped.value, distill.Stopped) and _steps(tmp_path) == []


def test_a_finished_run_taken_up_again_gives_its_adapter_and_does_nothing(
    tiny_qwen, corpus, undisturbed
):
    whole, folder = undisturbed
    rows = _rows(folder)
    again = _train(tiny_qwen, corpus, folder, resume=True)
    _assert_same(again, whole)
    assert (again.num_done, again.last_loss) == (0, whole.last_loss) and _rows(folder) == rows


def test_resume_without_a_checkpoint_starts(tiny_qwen, corpus, undisturbed, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 7.5}\n')  # killed before its first
    trained = _train(tiny_qwen, corpus, tmp_path, resume=True)
    _assert_same(trained, undisturbed[0])
    _assert_same_numbers(_rows(tmp_path), _rows(undisturbed[1]))


def _snapshot(folder):
    """Returns every file's bytes and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_the_folder_of_another_run_is_refused_and_left_as_it_is(tiny_qwen, corpus, undisturbed):
    _, folder = undisturbed
    before = _snapshot(folder)
    fewer = distill.load(tiny_qwen, [dataclasses.asdict(e) for e in corpus.examples[:9]])
    cases = [
        ({}, {"resume": False}, "holds a checkpoint of step 9: add --resume"),
        ({"corpus": fewer}, {}, "of a run on other examples"),
        ({}, {"batch_size": 2}, "batch_size=4, and this one has 2"),
        ({}, {"lora_config": lora.LoraConfig(rank=3)}, "lora_rank=2, and this one has 3"),
        ({}, {"settings": dataclasses.replace(SETTINGS, seed=1)}, "seed=0, and this one has 1"),
        ({"lm": dataclasses.replace(tiny_qwen, name="other")}, {}, "model=tiny_qwen, and this"),
    ]
    for replaced, options, message in cases:
        run = {"lm": tiny_qwen, "corpus": corpus, **replaced}
        with pytest.raises(ValueError) as error:
            _train(**run, folder=folder, **{"resume": True, **options})
        assert message in str(error.value) and "\n" not in str(error.value)
    assert _snapshot(folder) == before


def test_rematerialisation_may_change_when_a_run_is_taken_up_again(tiny_qwen, corpus, undisturbed):
    settings = dataclasses.replace(SETTINGS, remat=True)
    assert _train(tiny_qwen, corpus, undisturbed[1], settings, resume=True).num_done == 0


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tiny_qwen, corpus, tmp_path):
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30, warmup=0.0)
    with pytest.raises(ValueError, match=r"step 2: the loss is .*--learning_rate") as error:
        _train(tiny_qwen, corpus, tmp_path, settings)
    assert "\n" not in str(error.value)
    assert _steps(tmp_path) == [] and [row["step"] for row in _rows(tmp_path)] == [1]


def test_a_damaged_checkpoint_is_named(tiny_qwen, corpus, undisturbed, tmp_path):
    shutil.copytree(undisturbed[1], tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "9" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"the checkpoint \S+/9 cannot be read \(.*delete that"):
        _train(tiny_qwen, corpus, tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
    _assert_same(_train(tiny_qwen, corpus, tmp_path / "run", resume=True), undisturbed[0])


def test_a_full_disk_is_said_once_and_the_last_checkpoint_kept(
    tiny_qwen, corpus, undisturbed, tmp_path, monkeypatch, caplog
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        while checkpoints.last_step(tmp_path) is None:  # saves are asynchronous
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    try:
        with monkeypatch.context() as patch, pytest.raises(OSError) as error:
            _interrupt(patch, 4, fill)
            _train(tiny_qwen, corpus, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno in records.DISK_FULL and error.value.filename == str(tmp_path)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert checkpoints.last_step(tmp_path) == 2
    _assert_same(_train(tiny_qwen, corpus, tmp_path, resume=True), undisturbed[0])


def test_a_model_with_an_adapter_is_refused(tiny_qwen, corpus, undisturbed, tmp_path):
    student = dataclasses.replace(tiny_qwen, adapter=undisturbed[0].adapter)
    with pytest.raises(ValueError, match=r"take lm\.merged\(\)"):
        _train(student, corpus, tmp_path)


@pytest.mark.parametrize("other", ["drawn anew", "merged"])
def test_other_weights_under_the_same_name_are_refused(
    tiny_qwen, corpus, undisturbed, tmp_path, other
):
    shutil.copytree(undisturbed[1], tmp_path / "run")
    if other == "merged":
        lm = dataclasses.replace(tiny_qwen, adapter=undisturbed[0].adapter).merged()
    else:
        params = checkpoint.random_params(tiny_qwen.config, "float32", seed=2)
        lm = dataclasses.replace(tiny_qwen, params=params)
    with pytest.raises(ValueError, match="of a run on other weights under the name tiny_qwen"):
        _train(lm, corpus, tmp_path / "run", resume=True)


def test_identity_is_json_and_leaves_out_what_changes_no_number(tiny_qwen, corpus):
    run = checkpoints.identity(tiny_qwen, corpus, LORA, SETTINGS, batch_size=4)
    assert json.loads(json.dumps(run)) == run and run["lora_target_modules"][0] == "q_proj"
    assert run["corpus"] == corpus.fingerprint and "remat" not in run


def test_settings_of_numpy_numbers_have_the_identity_of_pythons(tiny_qwen, corpus):
    of_numpy = dataclasses.replace(
        SETTINGS, seed=np.int64(SETTINGS.seed), num_steps=np.int32(SETTINGS.num_steps)
    )
    runs = [
        checkpoints.identity(tiny_qwen, corpus, LORA, settings, batch_size=size)
        for settings, size in ((SETTINGS, 4), (of_numpy, np.int64(4)))
    ]
    assert runs[0] == runs[1]
