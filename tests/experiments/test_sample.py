"""experiments/sample.py, run as its users run it: kills, Ctrl-C, full disks, mistakes."""

import json
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors import numpy

from powerjax import models, records
from powerjax.models import checkpoint
from powerjax.tasks import registry
from tests import older, tokenizer_folder
from tests.experiments import programs

# Some seconds of work, so that signals find it under way.
_FLAGS = ["--limit=10", "--num_samples=3", "--num_mcmc_steps=24", "--num_slots=2", "--noprogress"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, out, err = _end(_start(folder))
    assert code == 0, err
    return {"folder": folder, "out": out, "err": err}


def _start(folder, **options):
    return programs.start("experiments.sample", *_FLAGS, f"--out={folder}", **options)


def _end(process):
    return programs.end(process)


def _stop_midway(process, path, at_least, how):
    """Waits for `at_least` lines of the file, then sends the signal."""
    while not path.exists() or path.read_bytes().count(b"\n") < at_least:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(how)
    return _end(process)


def _by_id(folder):
    """id -> what the chain drew."""
    found = records.read(folder / "records.jsonl")
    assert len(found) == len({record["id"] for record in found})
    kept = ("tokens", "correct", "acceptance_rate", "num_forward_tokens", "finish_reason")
    return {record["id"]: [record[key] for key in kept] for record in found}


def test_a_run_leaves_its_records_and_says_what_they_show(undisturbed):
    found = records.read(undisturbed["folder"] / "records.jsonl")
    assert len(found) == 30
    names = {records.chain_name(record): record for record in found}
    record = names["arithmetic/test-0-3/tiny/power/0/1"]
    assert re.fullmatch(r"arithmetic/test-0-3/tiny/power-[0-9a-f]{8}/0/1", record["id"])
    assert (record["top_k"], record["max_new_tokens"], record["dtype"]) == (None, 64, "float32")
    assert record["sample_index"] == 1 and record["problem_id"] == "test-0-3"
    assert record["prompt"].endswith("\nA:") and record["tokens"] and record["completion"]
    assert (record["alpha"], record["temperature"], record["num_mcmc_steps"]) == (4.0, 0.25, 24)
    assert (record["stop"], record["block_size"], record["kernel"]) == ("eos", 64, "exact")
    assert record["num_tokens"] == len(record["tokens"]) == len(record["log_probs"])
    assert record["self_reward"] == pytest.approx(record["log_prob"] / record["num_tokens"])
    assert isinstance(record["correct"], bool) and record["adapter"] is None
    for word in ("accuracy", "self-reward", "best of 3", "acceptance", "tokens/s", "pi^4"):
        assert word in undisturbed["out"]
    manifest = json.loads((undisturbed["folder"] / "manifest.json").read_text())
    assert manifest["settings"]["alpha"] == 4.0 and manifest["settings"]["model"] == "tiny"
    assert "experiments.sample --limit=10" in manifest["starts"][0]["command"]


def test_killed_interrupted_and_taken_up_again_it_leaves_the_same_records(undisturbed, tmp_path):
    folder = tmp_path / "run"
    path = folder / "records.jsonl"
    code, _, _ = _stop_midway(_start(folder), path, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    with path.open("ab") as file:  # as if the kill had come in the middle of a line
        file.write(b'{"id": "arithmetic/test-0-9/tiny/po')
    before = path.read_bytes().count(b"\n")
    assert 3 <= before < 30

    code, _, err = _stop_midway(_start(folder), path, before + 1, signal.SIGINT)
    assert code == 130
    (line,) = [text for text in err.split("\n") if text]
    safe = path.read_bytes().count(b"\n")
    assert f"interrupted; {safe} records are safe in {folder}; to go on: " in line
    assert "experiments.sample --limit=10" in line

    code, out, err = _end(_start(folder))
    assert code == 0, err
    assert f"{safe} records are in {path}: going on from there" in out
    assert _by_id(folder) == _by_id(undisturbed["folder"])


def test_a_run_of_before_ids_had_a_hash_goes_on_and_makes_no_record_twice(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed["folder"], folder)
    path = folder / "records.jsonl"
    made = [older.as_before(record) for record in records.read(path)]
    path.write_bytes(b"".join(map(records.encode, made[:-2])))
    argv = [*_FLAGS, f"--out={folder}"]
    first, second = programs.ends("experiments.sample", [argv, argv])
    assert first[0] == second[0] == 0, (first, second)
    assert f"28 records are in {path}: going on from there" in first[1]
    assert f"30 records are in {path}: going on from there" in second[1]
    found = records.read(path)
    assert found[:28] == made[:28] and len(found) == 30
    drawn = {records.chain_name(record): record["tokens"] for record in found}
    assert drawn == {record["id"]: record["tokens"] for record in made}


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_finished(undisturbed, tmp_path):
    folder = tmp_path / "run"
    room = 6000

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    code, _, err = _end(_start(folder, preexec_fn=small_disk))
    assert code == 1
    (line,) = [text for text in err.split("\n") if text.startswith("sample: ")]
    found = records.read(folder / "records.jsonl")
    assert found and (folder / "records.jsonl").stat().st_size <= room
    assert "the disk is full" in line and f"{len(found)} records are safe" in line
    assert "Traceback" not in err
    whole = _by_id(undisturbed["folder"])
    assert all(whole[name] == drawn for name, drawn in _by_id(folder).items())


def test_mistakes_end_in_one_line_that_says_what_to_do(undisturbed, tmp_path):
    rows = ['{"prompt": "6*7=", "answer": "42"}', '{"text": "no prompt"}', '{"prompt": ""}']
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(rows))
    torn = tmp_path / "torn.jsonl"
    torn.write_text(rows[0] + "\n{'prompt': 1}\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": [5] * 4200}))
    out = f"--out={tmp_path / 'run'}"
    made = f"--out={undisturbed['folder']}"
    cases = [
        ([out, f"--task={bad}"], "bad.jsonl, line 2: no prompt and no messages, only text"),
        ([out, f"--task={torn}"], "torn.jsonl, line 2: not valid JSON"),
        ([out, f"--task={tmp_path}/empty.jsonl"], "empty.jsonl holds no prompts"),
        ([out, f"--task={tmp_path}/none.jsonl"], "there is no such file"),
        ([out, f"--task={tmp_path}/long.jsonl"], "4200 tokens"),
        ([out, f"--model={tmp_path}/none"], "no such folder"),
        ([out, "--split=dev"], "--split=dev: arithmetic has test, train"),
        ([out, "--sampler=standard", "--alpha=2"], "does not take --alpha"),
        ([out, "stray"], "unexpected argument 'stray'"),
        ([made, *_FLAGS, "--alpha=2", "--seed=5"], "--alpha=4.0"),
        ([out, "--alpha=0.5"], "--alpha=0.5"),
        ([out, "--block_size=0"], "--block_size=0"),
        ([out, "--temperature=0"], "--temperature=0.0: must be above 0"),
    ]
    ends = programs.ends("experiments.sample", [argv for argv, _ in cases])
    for (argv, expected), (code, _, err) in zip(cases, ends, strict=True):
        lines = [line for line in err.split("\n") if expected in line]
        assert code == 1 and len(lines) == 1, (argv, code, err)
        assert "Traceback" not in err
        assert len(err.strip().split("\n")) <= 2, err  # absl adds where to find help
    assert records.read(tmp_path / "run" / "records.jsonl") == []


def test_a_chat_models_template_is_used_and_said_and_a_broken_one_is_one_line(tmp_path, tiny_qwen):
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text('{"prompt": "2+2="}\n')
    folders = {
        "asked-it": "{{ bos_token }}{{ messages[0].content }}:",
        "student-iter1": "{{ bos_token }}{{ messages[0].content }}:",
        "broken-chat": "{{ raise_exception('no users') }}",
    }
    for name, template in folders.items():
        folder = tokenizer_folder.write(tmp_path / name, chat_template=template)
        checkpoint.save(folder, tiny_qwen.config, tiny_qwen.params, stop_ids=(1,))
    flags = ["--sampler=standard", "--max_new_tokens=4", "--noprogress", "--dtype=float32"]
    commands = [
        [*flags, f"--task={prompts}", f"--model={tmp_path / name}", f"--out={tmp_path / name}-run"]
        for name in folders
    ]
    asked, raw, broken = programs.ends("experiments.sample", commands)
    assert asked[0] == raw[0] == 0 and broken[0] == 1, (asked, raw, broken)
    said = broken[2].strip().splitlines()[-1]
    assert said.startswith("sample: ") and "broken-chat" in said and "no users" in said
    assert "--chat_template=off" in said and "Traceback" not in broken[2]
    found = {}
    for name in ("asked-it", "student-iter1"):
        manifest = json.loads((tmp_path / f"{name}-run" / "manifest.json").read_text())
        (record,) = records.read(tmp_path / f"{name}-run" / "records.jsonl")
        style = manifest["prompts"]["mine"]["style"]
        assert record["prompt_style"] == style and manifest["prompts"]["mine"]["why"]
        found[name] = style, record["prompt"]
    assert found == {"asked-it": ("chat", "<s>2+2=:"), "student-iter1": ("raw", "2+2=")}


@pytest.mark.full
def test_chains_that_overflow_in_float16_are_named_and_all_others_recorded(tmp_path):
    """A weight of 1e5 for the token "8": again on the next start, and sound in float32."""
    asset = Path(models.__file__).parent / "assets" / "tiny"
    model = shutil.copytree(asset, tmp_path / "wide")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    tensors = numpy.load_file(model / "model.safetensors")
    table = tensors["model.embed_tokens.weight"].astype("float32")
    tensors["lm_head.weight"] = table.copy()
    lm = models.load("tiny", dtype="float32")
    table[lm.encode("8")[-1], 5] = 1e5
    tensors["model.embed_tokens.weight"] = table
    numpy.save_file(tensors, model / "model.safetensors")
    flags = [f"--model={model}", "--limit=12", "--num_mcmc_steps=2", "--num_samples=2"]
    flags += ["--num_slots=4", "--noprogress", "--sampler=power"]

    def sampled(out, dtype):
        code, _, err = _end(
            programs.start("experiments.sample", *flags, f"--dtype={dtype}", f"--out={out}")
        )
        return code, err, _by_id(out)

    code, err, made = sampled(tmp_path / "half", "float16")
    assert code == 1 and 0 < len(made) < 24
    err = err.splitlines()[-1]  # numpy has warned of the cast before
    assert "--dtype=bfloat16" in err
    problems = [problem for problem in registry.get("arithmetic").load(limit=12)]
    hit = [problem.id for problem in problems if "8" in problem.prompt]
    assert hit and all(f"{name!r} samples 0, 1;" in err for name in hit)
    assert f"in {24 - len(made)} of 24 chains" in err
    before = (tmp_path / "half" / "records.jsonl").read_bytes()
    code, err, _ = sampled(tmp_path / "half", "float16")
    assert code == 1 and f"in {24 - len(made)} of {24 - len(made)} chains" in err
    assert (tmp_path / "half" / "records.jsonl").read_bytes() == before
    code, err, whole = sampled(tmp_path / "single", "float32")
    assert code == 0 and len(whole) == 24, err
