"""experiments/distill.py, run as its users run it: kills, SIGTERM, mistakes."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from powerjax import models
from powerjax.distill import run_folder
from powerjax.tasks import arithmetic
from tests.experiments import programs
from tests.parallel.test_rendezvous import free_port

_FLAGS = ["--lora_rank=2", "--target_modules=q_proj,down_proj", "--learning_rate=1e-3"]
_FLAGS += ["--epochs=12", "--batch_size=4", "--save_steps=8", "--noremat", "--noprogress"]
_NUM_STEPS = 96


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of 32 answers as a user might write it: texts and no tokens."""
    path = tmp_path_factory.mktemp("teacher") / "worked.jsonl"
    problems = arithmetic.problems("train", 32)
    rows = [{"prompt": p.prompt, "completion": f" \\boxed{{{p.answer}}}"} for p in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, out, err = programs.end(_start(folder, teacher, "--export=merged"))
    assert code == 0, err
    return {"folder": folder, "out": out}


def _start(folder, teacher, *more, **options):
    given = [*_FLAGS, f"--records={teacher}", f"--out={folder}", *more]
    return programs.start("experiments.distill", *given, **options)


def _stop_midway(process, path, at_least, how):
    """Waits for `at_least` rows of the file, then sends the signal."""
    while not path.exists() or path.read_bytes().count(b"\n") < at_least:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(how)
    return programs.end(process)


def _steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]


def test_a_run_leaves_a_student_and_says_how_to_sample_it(undisturbed, teacher):
    folder, out = undisturbed["folder"], undisturbed["out"]
    assert _steps(folder) == list(range(1, _NUM_STEPS + 1))
    for line in (
        f"adapter  {folder}/adapter",
        f"merged model  {folder}/merged",
        "examples  32",
        f"steps  {_NUM_STEPS}, of 4 examples",
        f"--model=tiny --adapter={folder}/adapter --sampler=standard --out={folder}-samples",
        "tokens/s",
    ):
        assert line in out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["records"] == str(teacher)
    assert manifest["settings"]["lora_rank"] == 2 and manifest["settings"]["seed"] == 0
    left = {"adapter", "checkpoints", "manifest.json", "merged", "metrics.jsonl", "tensorboard"}
    assert {path.name for path in folder.iterdir()} == left | {".lock"}
    assert (folder / "merged" / "tokenizer.json").exists()


def test_adapter_and_merged_model_are_one_student_that_has_learnt(undisturbed, teacher):
    folder = undisturbed["folder"]
    rows = [json.loads(line) for line in teacher.open()][:8]
    base = models.load("tiny", dtype="float32")
    student = models.load("tiny", dtype="float32", adapter=str(folder / "adapter"))
    merged = models.load(str(folder / "merged"), dtype="float32")
    assert merged.stop_ids == base.stop_ids and merged.encode("4+4=") == base.encode("4+4=")
    prompts = [row["prompt"] for row in rows]
    texts = [[*base.encode(row["completion"]), 0] for row in rows]
    before, after, same = (lm.score(prompts, texts) for lm in (base, student, merged))
    assert np.mean(np.concatenate(after)) > np.mean(np.concatenate(before)) + 0.05
    for a, b in zip(after, same, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.full
def test_killed_and_preempted_and_resumed_it_ends_in_the_same_student_bit_for_bit(
    undisturbed, teacher, tmp_path
):
    folder = tmp_path / "run"
    path = folder / "metrics.jsonl"
    code, _, err = _stop_midway(_start(folder, teacher), path, 21, signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    assert not (folder / "adapter").exists()

    resumed = _start(folder, teacher, "--resume")
    code, _, err = _stop_midway(resumed, path, 45, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, err
    (line,) = [text for text in err.split("\n") if text.startswith("distill: ")]
    step = _steps(folder)[-1]
    assert f"the checkpoint of step {step} of {_NUM_STEPS} is safe in {folder}; to go on: " in line
    assert line.count("--resume") == 1 and "experiments.distill --lora_rank=2" in line
    assert max(int(p.name) for p in (folder / "checkpoints").iterdir()) == step < _NUM_STEPS

    code, out, err = programs.end(_start(folder, teacher, "--resume"))
    assert code == 0, err
    assert f"the last {_NUM_STEPS - step} by this command" in out
    assert _steps(folder) == list(range(1, _NUM_STEPS + 1))
    ours, whole = (
        load_file(run / "adapter" / "adapter_model.safetensors")
        for run in (folder, undisturbed["folder"])
    )
    assert ours.keys() == whole.keys() and all(np.abs(x).max() > 0 for x in ours.values())
    assert all(ours[name].tobytes() == whole[name].tobytes() for name in ours)


_FAILING_EXPORTS = """
import json, sys
from absl import flags
from experiments import distill
from powerjax import cli

def fails(error):
    def fail(*_, **__):
        raise error
    return fail

for error in {errors}:
    distill.export.save_adapter = fails(error)
    try:
        cli.run(distill.main)
    except SystemExit as end:
        print("END", end.code, file=sys.stderr, flush=True)
    flags.FLAGS.unparse_flags()
"""


@pytest.mark.full
def test_what_stops_an_export_says_the_command_that_goes_on(undisturbed, teacher):
    cases = {
        "KeyboardInterrupt()": (130, "SIGINT; the checkpoint of step 96 is safe"),
        "OSError(28, 'No space left on device')": (1, "the disk is full"),
        "RuntimeError('RESOURCE_EXHAUSTED: of memory')": (1, "out of device memory: try"),
    }
    given = [*_FLAGS, f"--records={teacher}", f"--out={undisturbed['folder']}", "--resume"]
    done = subprocess.run(
        [sys.executable, "-c", _FAILING_EXPORTS.format(errors=f"[{', '.join(cases)}]"), *given],
        cwd=programs.ROOT,
        env=programs.environment(),
        capture_output=True,
        text=True,
    )
    *parts, rest = re.split(r"^END (\d+)\n", done.stderr, flags=re.MULTILINE)
    assert rest == "" and len(parts) == 2 * len(cases), done.stderr
    for (status, said), err, code in zip(cases.values(), parts[::2], parts[1::2], strict=True):
        assert int(code) == status, err
        (line,) = [line for line in err.split("\n") if said in line]
        assert "--resume" in line and "Traceback" not in err


@pytest.mark.full
def test_a_finished_run_without_its_metrics_is_exported_again(undisturbed, teacher, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed["folder"], folder)
    (folder / "metrics.jsonl").unlink()
    code, out, err = programs.end(_start(folder, teacher, "--resume"))
    assert code == 0, err
    assert f"adapter  {folder}/adapter" in out and "at last" not in out


@pytest.mark.parametrize("what", ["out", "safetensors version"])
def test_hosts_that_differ_end_with_one_line_each(teacher, tmp_path, what):
    """They differ in --out, which all hosts share, or in the version of an installed package."""
    other = tmp_path / "packages" / "safetensors-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n")
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    first = _start(tmp_path / "run", teacher, *place, "--process_id=0")
    if what == "out":
        second = _start(tmp_path / "other", teacher, *place, "--process_id=1")
    else:
        env = {"PYTHONPATH": str(other.parent)}
        second = _start(tmp_path / "run", teacher, *place, "--process_id=1", env=env)
    for process in (first, second):
        code, _, err = programs.end(process)
        (line,) = [line for line in err.split("\n") if line.startswith("distill: ")]
        assert code == 1 and "Traceback" not in err
        assert line.startswith(f"distill: process 1 has {what} ")
        assert line.endswith(": start all of them alike")
    assert not (tmp_path / "run").exists() and not (tmp_path / "other").exists()


def _snapshot(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_mistakes_end_in_one_line_that_says_what_to_do(undisturbed, teacher, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "1", "completion": "2"}\n{"prompt": 1}\n')
    (tmp_path / "torn.jsonl").write_text('{"prompt": \n{"prompt": "1", "completion": "2"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "sampled").mkdir()
    (tmp_path / "sampled" / "records.jsonl").write_text("{}\n")
    (tmp_path / "student" / "adapter").mkdir(parents=True)
    (tmp_path / "secret.jsonl").write_text('{"id": "1", "prompt_sha256": "0", "tokens": [1]}\n')
    out, given = f"--out={tmp_path / 'run'}", f"--records={teacher}"
    made = [f"--out={undisturbed['folder']}", *_FLAGS]
    cases = [
        ([out, f"--records={tmp_path}/bad.jsonl"], "bad.jsonl, line 2: no completion, only prompt"),
        ([out, f"--records={tmp_path}/torn.jsonl"], "torn.jsonl, line 1: not valid JSON"),
        ([out, f"--records={tmp_path}/empty.jsonl"], "empty.jsonl holds no examples"),
        ([out, f"--records={tmp_path}/none.jsonl"], "none.jsonl: no such file"),
        ([out, f"--records={tmp_path}/secret.jsonl"], "secret.jsonl, line 1: no prompt, only its"),
        (
            [out, f"--records={tmp_path}/secret.jsonl", "--task=arithmetic"],
            "holds no prompt, and it was not made with that of these problems",
        ),
        ([out, given, "--data_dir=x"], "--data_dir is about the problems of a --task"),
        ([f"--out={tmp_path}/busy", given], "busy: another process is training in it"),
        ([out], "--records"),
        ([out, given, "--max_length=9"], "longer than --max_length=9; the longest has "),
        ([out, given, "--lora_rank=200"], "rank 200 is larger than"),
        ([out, given, "--target_modules=q_proj,w_proj"], "no layer is called 'w_proj'"),
        ([out, given, "--lora_dropout=1"], "the dropout is 1.0"),
        ([out, given, "--data_axis=3"], "a mesh of data 3 x model 1 does not fit 2 devices"),
        ([out, given, "--batch_size=7"], "a batch of 7 examples does not divide over a data axis"),
        ([out, given, "--model=nowhere/none/x"], "no such folder"),
        ([out, given, "stray"], "unexpected argument 'stray'"),
        ([out, given, "--process_id=1"], "coordinator, num_processes and process_id go together"),
        ([f"--out={tmp_path}/sampled", given], "records.jsonl is not of this run"),
        ([f"--out={tmp_path}/student", given], "adapter is not of this run"),
        ([*made, given], "holds a checkpoint of step 96: add --resume"),
        ([*made, given, "--resume", "--lora_rank=4"], "lora_rank=2, and this one has 4"),
        ([*made, given, "--resume", "--dtype=bfloat16"], "dtype=float32, and this one has bf"),
        (
            [*made, given, "--resume", "--random_weights"],
            "other weights under the name tiny (--model, --revision and --random_weights decide",
        ),
    ]
    before = _snapshot(undisturbed["folder"])
    with run_folder.locked(tmp_path / "busy"):
        ends = programs.ends("experiments.distill", [argv for argv, _ in cases], num_devices=2)
    for (argv, expected), (code, _, err) in zip(cases, ends, strict=True):
        lines = [line for line in err.split("\n") if expected in line]
        assert code == 1 and len(lines) == 1, (argv, code, err)
        assert "Traceback" not in err
        assert len(err.strip().split("\n")) <= 2, err  # absl adds where to find help
    assert not (tmp_path / "run").exists()
    assert _snapshot(undisturbed["folder"]) == before
