"""experiments/evaluate.py, run as its users run it: tables, resuming, programs, mistakes."""

import csv
import json
import shutil

import pytest

from powerjax import records
from powerjax.tasks import arithmetic, registry
from tests.experiments import programs

ROWS = {"standard": (1.0, 1.0, 0), "power": (4.0, 0.25, 10)}  # alpha, temperature, moves


def _record(problem, task, sampler, seed, sample, completion, **fields):
    alpha, temperature, moves = ROWS[sampler]
    return {
        "id": f"{task}/{problem.id}/tiny/{sampler}/{seed}/{sample}",
        "task": task,
        "problem_id": problem.id,
        "model": "tiny",
        "sampler": sampler,
        "alpha": alpha,
        "temperature": temperature,
        "seed": seed,
        "sample_index": sample,
        "prompt": problem.prompt,
        "completion": completion,
        "tokens": [7, 8, 9 + sample],
        "self_reward": -0.5 - 0.1 * sample,
        "num_tokens": 3,
        "finish_reason": "length",
        "num_mcmc_steps": moves,
        "acceptance_rate": 0.5 if moves else None,
        "num_forward_tokens": 10 + 9 * moves,
        "correct": None,
        **fields,
    }


def _write(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in made))


def _sums(sampler, seed, right):
    """Returns two completions of each of six problems, `right` of which are right."""
    made = []
    for i, problem in enumerate(arithmetic.load("test", 206)[200:]):
        for sample in range(2):
            answer = problem.answer if 2 * i + sample < right else "-1"
            text = rf" \boxed{{{answer}}}"
            made.append(_record(problem, "arithmetic", sampler, seed, sample, text))
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three run folders: two seeds of one sampler, and one with a file per row of its table."""
    folder = tmp_path_factory.mktemp("runs")
    _write(folder / "seed0" / "records.jsonl", _sums("standard", 0, 4))
    _write(folder / "seed1" / "records.jsonl", _sums("standard", 1, 6))
    _write(folder / "rows" / "records" / "base_power.jsonl", _sums("power", 0, 10))
    counts = [{"num_records": 12, "moves": [120], "accepted": [60]}]
    (folder / "rows" / "records" / "base_power.stages.json").write_text(json.dumps(counts))
    return folder


def _evaluate(*arguments):
    return programs.end(programs.start("experiments.evaluate", "--noprogress", *arguments))


@pytest.mark.full
def test_rows_of_several_folders_are_scored_written_and_taken_up_again(runs, tmp_path):
    out = tmp_path / "eval"
    given = ",".join(str(runs / name) for name in ("seed0", "seed1", "rows"))
    arguments = [f"--records={given}", f"--out={out}", "--model=tiny", "--pass_at=1,2"]
    code, printed, err = _evaluate(*arguments)
    assert code == 0, err
    table = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["sampler"] for row in table] == ["Standard", "Power"]
    assert table[0]["passes"] == "4" and table[0]["accuracy %"].startswith("41.7 ±")
    assert table[1]["passes"] == "2" and table[1]["accuracy %"] == "83.3 ± 0.0"
    assert table[1]["pass@2"] == "83.3" and table[1]["accepted"] == "0.500"
    assert "at equal cost in forward tokens" in printed and "(n=4)" in printed
    assert "evaluated r is under tiny." in printed
    standard, power = json.loads((out / "summary.json").read_text())
    assert standard["accuracy"]["mean"] == pytest.approx(10 / 24)
    assert standard["best_of"][3]["forward_tokens"] == 40 and power["stages"] == [[120, 60]]
    assert power["evaluated_self_reward"]["mean"] < 0
    assert r"\begin{tabular}" in (out / "table.tex").read_text()
    assert (out / "table.md").read_text().startswith("| model | sampler |")
    assert "<title>arithmetic, evaluated</title>" in (out / "report.html").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["task"] == "arithmetic"

    whole = {name: records.read(out / name) for name in ("verdicts.jsonl", "scores.jsonl")}
    assert all(len(made) == 36 for made in whole.values())
    for name in whole:  # as if the first run had been killed in the middle of a line
        lines = (out / name).read_bytes().split(b"\n")
        (out / name).write_bytes(b"\n".join(lines[:20]) + b"\n" + lines[20][:15])
    code, again, err = _evaluate(*arguments)
    assert code == 0, err
    assert again == printed
    for name, made in whole.items():
        by_id = {record["id"]: record for record in records.read(out / name)}
        assert {record["id"] for record in made} == set(by_id)


def test_runs_of_other_settings_are_rows_of_their_own(runs, tmp_path):
    """Records of three runs with one seed that differ in top_k and max_new_tokens.

    A fourth run is of an older version, whose records do not state all of their settings.
    """
    names = []
    for top_k, longest in ((None, 64), (20, 64), (20, 32)):
        made = _sums("standard", 0, 4)
        for record in made:
            record |= {"top_k": top_k, "max_new_tokens": longest}
            record["id"] = records.record_id(
                law=record,
                **{name: record[name] for name in ("task", "problem_id", "model", "sampler")},
                **{name: record[name] for name in ("seed", "sample_index")},
            )
        names.append(str(tmp_path / f"{top_k}-{longest}.jsonl"))
        _write(tmp_path / names[-1], made)
    out = tmp_path / "eval"
    given = ",".join([*names, str(runs / "seed0")])
    code, printed, err = _evaluate(f"--records={given}", f"--out={out}")
    assert code == 0, err
    table = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [(row["sampler"], row["passes"]) for row in table] == [
        ("Standard, no top_k, 64 tokens", "2"),
        ("Standard, top_k 20, 64 tokens", "2"),
        ("Standard, top_k 20, 32 tokens", "2"),
        ("Standard, settings not recorded", "2"),
    ]
    assert "do not state all settings of their law" in printed


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
def test_programs_that_were_recorded_ungraded_are_run(data_dir, tmp_path):
    problems = registry.get("humaneval").load(data_dir=data_dir, limit=3)
    bodies = {0: lambda p: p.answer, 1: lambda p: "    import os; os._exit(0)\n"}
    made = [
        _record(problem, "humaneval", "power", 0, sample, body(problem))
        for problem in problems
        for sample, body in bodies.items()
    ]
    path = tmp_path / "code.jsonl"
    _write(path, made)
    with path.open("a") as file:
        file.write('{"id": "humaneval/Huma')  # as a kill leaves it
    out = tmp_path / "eval"
    code, printed, err = _evaluate(f"--records={path}", f"--data_dir={data_dir}", f"--out={out}")
    assert code == 0, err
    (summary,) = json.loads((out / "summary.json").read_text())
    assert summary["accuracy"]["mean"] == 0.5 and summary["pass_at"]["2"]["mean"] == 1.0
    assert summary["majority_accuracy"] is None
    verdicts = {r["id"][-1]: r["grade_detail"] for r in records.read(out / "verdicts.jsonl")}
    assert verdicts["0"]["status"] == "passed" and verdicts["1"]["status"] == "ended"
    assert verdicts["0"]["isolation"] == "bubblewrap"
    assert "majority" not in printed
    assert f"{path}: its last line is cut short (no newline), and left out." in printed


def test_answers_spread_over_several_boxes_are_counted_in_a_line(data_dir, tmp_path):
    (problem,) = registry.get("math500").load(data_dir=data_dir, limit=1)
    texts = [r"\boxed{3} and \boxed{\frac{\pi}{2}}.", problem.meta["solution"]]
    path = tmp_path / "math.jsonl"
    _write(path, [_record(problem, "math500", "power", 0, i, text) for i, text in enumerate(texts)])
    out = tmp_path / "eval"
    code, printed, err = _evaluate(f"--records={path}", f"--data_dir={data_dir}", f"--out={out}")
    assert code == 0, err
    line = "1 of 2 completions have several boxes in their last sentence"
    assert line in printed and line in (out / "report.html").read_text()
    (summary,) = json.loads((out / "summary.json").read_text())
    assert summary["accuracy"]["mean"] == 0.5


def test_mistakes_end_in_one_line_that_says_what_to_do(runs, data_dir, tmp_path):
    made = _sums("standard", 0, 4)
    files = {
        "lame": [{**made[0], "id": None}],
        "double": [made[0], made[0]],
        "mixed": [made[0], {**made[1], "task": "math500"}],
        "gone": [made[0], {**made[1], "problem_id": "test-x"}],
        "far": [made[0], {**made[1], "problem_id": "test-0-99999999"}],
        "unknown": [{**record, "task": "prompts"} for record in made],
        "wordless": [{**record, "completion": None} for record in made],
        "poor": [{**record, "self_reward": None} for record in made],
        "empty": [],
    }
    for name, rows in files.items():
        _write(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "bare").mkdir()
    out, seed0 = f"--out={tmp_path / 'out'}", f"--records={runs / 'seed0'}"

    def given(name):
        return f"--records={tmp_path / name}"

    cases = [
        ([out], "give --records"),
        ([out, given("none.jsonl")], "there is no such file or folder"),
        ([out, given("bare")], "holds neither records.jsonl nor records/*.jsonl"),
        ([out, given("empty.jsonl")], "no record in 1 files"),
        ([out, given("lame.jsonl")], "lame.jsonl, line 1: the record has no id"),
        ([out, given("double.jsonl")], "is that of"),
        ([out, given("mixed.jsonl")], "evaluate one task at a time"),
        ([out, given("mixed.jsonl"), "--task=arithmetic"], "is of the task math500"),
        ([out, given("gone.jsonl")], "of the problem 'test-x'"),
        ([out, given("far.jsonl")], "problem number 99,999,999 of arithmetic"),
        ([out, given("unknown.jsonl")], "give --task, the file of its prompts"),
        ([out, given("wordless.jsonl")], "give --model, whose tokenizer"),
        ([f"{out}2", given("poor.jsonl")], "has no self_reward"),
        ([out, seed0, "--task=humaneval", f"--data_dir={tmp_path}/none"], "is not a folder"),
        ([out, seed0, "--task=math500", f"--data_dir={tmp_path}"], "holds no math500"),
        ([out, seed0, "--task=math500", f"--data_dir={data_dir}"], "is of the task arithmetic"),
        ([out, seed0, "--pass_at=1,x"], "give numbers such as 1,4,16"),
        ([f"--out={runs / 'seed0'}", seed0], "choose a folder of its own"),
    ]
    asked = [["--noprogress", *argv] for argv, _ in cases]
    ends = programs.ends("experiments.evaluate", asked)
    for (argv, expected), (code, _, err) in zip(cases, ends, strict=True):
        (line,) = err.strip().split("\n")
        assert code == 1 and expected in line and "Traceback" not in err, (argv, code, err)
