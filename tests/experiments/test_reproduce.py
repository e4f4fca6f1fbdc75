"""experiments/reproduce.py: the embedded pipeline, restarts, and the real path without weights.

The checkpoint of the real path has random weights, two thin layers, and the vocabulary and the
tokenizer of Qwen2.5; its folder is called Qwen2.5-7B, so that the paper's numbers stand beside it.
"""

import csv
import itertools
import json
import math
import shutil

import pytest

from powerjax import evaluation, records
from powerjax.models import ModelConfig, checkpoint
from tests.experiments import programs
from tests.tasks.test_gpqa import _csv, _rows

pytestmark = pytest.mark.full

# Record files in the order in which the paper's numbers rise.
_SAMPLERS = ["base_standard", "base_temperature", "base_power"]
_ALPHAS = ["base_standard", "base_power_alpha_2", "base_power"]  # 1, 2, 4
_REAL = ["--limit=2", "--seeds=2", "--max_new_tokens=8", "--block_size=4", "--num_mcmc_steps=2"]
_LABELS = [
    *("RandW Standard", "RandW Power", "Base Standard", "Base Temperature", "Base Power"),
    *("Base Power(inf)", "Distilled Standard", "Distilled Temperature"),
]


def _reproduce(*arguments, optimized=False):
    return programs.end(programs.start("experiments.reproduce", *arguments, optimized=optimized))


def _table(folder):
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {f"{row['model']} {row['sampling']}": row for row in rows}


def _records(folder):
    return [record for path in folder.glob("records/*.jsonl") for record in records.read(path)]


def _rises(folder, files, value):
    """Returns the lower ends of the 95 % intervals of the paired differences from row to row."""
    made = [records.read(folder / "records" / f"{file}.jsonl") for file in files]
    return [
        evaluation.paired_difference(after, before, value).low
        for before, after in itertools.pairwise(made)
    ]


def test_the_quick_run_shows_the_papers_pattern(quick_run, record_property):
    folder, out = quick_run
    record_property("the whole run", out.strip().rsplit(": ", 1)[1])
    assert min(_rises(folder, _SAMPLERS, "self_reward")) > 0
    assert min(_rises(folder, _SAMPLERS, "correct")) > 0
    assert min(_rises(folder, _ALPHAS, "correct")) > 0
    table = _table(folder)
    for label in ("RandW Standard", "RandW Power"):
        assert float(table[label]["accuracy_mean"]) == 0
    random = [float(table[f"RandW {name}"]["self_reward_mean"]) for name in ("Standard", "Power")]
    assert -math.log(384) < random[0] < random[1]  # as it must be for a model's own samples
    student, teacher = table["Distilled Standard"], table["Base Power"]
    gap = float(student["accuracy_mean"]) - float(teacher["accuracy_mean"])
    record_property("student minus teacher", f"{100 * gap:.1f} points")
    assert gap > -0.05
    assert float(student["forward_tokens"]) == float(student["num_tokens"])
    assert float(teacher["forward_tokens"]) > 10 * float(student["forward_tokens"])
    claims = (folder / "table.md").read_text().split("## The paper's pattern")[1]
    assert claims.count("\n- yes: ") == 5 and "\n- NO" not in claims


def test_one_command_gives_plan_table_and_report(quick_run):
    folder, out = quick_run
    plan, *_ = out.split("Base      Standard")
    assert "memory on each device: weights 2.4" in plan and "tokens/s" in plan
    assert all(f"\n{label} " in plan for label in [*_LABELS, "Base Teacher", "student"])
    assert sorted(_table(folder)) == sorted([*_LABELS, "Base Power, alpha 2"])
    assert "| model | sampling | r* |" in (folder / "table.md").read_text()
    assert "paper |" not in (folder / "table.md").read_text()
    assert r"\toprule" in (folder / "table.tex").read_text()
    page = (folder / "report.html").read_text()
    assert "pattern, on these rows" in page and "RandW" in page
    made = _records(folder)
    assert len(made) == len({record["id"] for record in made}) == 200 * 4 * 9 + 1000
    random = next(r for r in made if r["model"] == "tiny-randw" and r["sampler"] == "power")
    assert random["num_mcmc_steps"] == 2
    assert (folder / "student" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.fixture(scope="module")
def again(quick_run, tmp_path_factory):
    """A copy of the quick run's folder, and a function that runs its command again."""
    made, _ = quick_run
    folder = tmp_path_factory.mktemp("again") / "run"
    shutil.copytree(made, folder)

    def run(*more):
        # Compiled as the run was: other code rounds in another way.
        return _reproduce(*programs.QUICK, f"--out={folder}", *more, optimized=True)

    return folder, run


def test_a_damaged_run_is_made_whole_and_ends_in_the_same_table(again):
    folder, run = again
    before = (folder / "table.csv").read_text()
    path = folder / "records" / "base_power.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (folder / "verdicts" / "base_standard.jsonl").unlink()
    shutil.rmtree(folder / "student" / "adapter")
    for name in ("records", "verdicts"):
        (folder / name / "distilled_standard.jsonl").unlink()
    code, out, err = run()
    assert code == 0, err
    assert (folder / "table.csv").read_text() == before
    plan = out.split("in all")[0]
    assert "\nBase Power " in plan and "\nBase Standard " in plan
    assert "\nBase Power(inf) " not in plan and "\nstudent " not in plan


def test_a_whole_run_is_only_told_again(again):
    folder, run = again
    before = (folder / "table.csv").read_text()
    code, out, err = run()
    assert code == 0, err
    assert "Plan of" not in out and (folder / "table.csv").read_text() == before


def test_what_cannot_be_is_refused_in_one_line(again):
    folder, _ = again
    cases = {
        "--alpha=3": "holds a run made with --alpha=4.0",
        "--alphas=2,0.5": "--alphas=2,0.5: give numbers from 1 up",
        "--wording=stub": "--wording=stub: --task=arithmetic has one wording",
    }
    before = (folder / "table.csv").read_text()
    argvs = [[*programs.QUICK, f"--out={folder}", flag] for flag in cases]
    ends = programs.ends("experiments.reproduce", argvs)
    for (flag, complaint), (code, _, err) in zip(cases.items(), ends, strict=True):
        assert code == 1 and err.count("\n") == 1 and complaint in err, flag
    assert (folder / "table.csv").read_text() == before


@pytest.fixture(scope="module")
def model(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "Qwen2.5-7B"
    published = json.loads((data_dir / "configs" / "Qwen2.5-0.5B.config.json").read_text())
    thin = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    thin |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = ModelConfig.from_hf(published | thin)
    params = checkpoint.random_params(config, "float32", seed=1)
    checkpoint.save(folder, config, params, stop_ids=(151643,))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(data_dir / "tokenizers" / "Qwen2.5-0.5B" / name, folder)
    return folder


def _real(model, data_dir, out, task):
    """Runs the launcher on a published task and returns what it printed."""
    flags = [f"--model={model}", f"--data_dir={data_dir}", f"--out={out}", f"--task={task}"]
    code, said, err = _reproduce(*flags, *_REAL, "--noprogress")
    assert code == 0, err
    assert sorted(_table(out)) == sorted(_LABELS)
    return said


def test_math_stands_beside_the_paper(model, data_dir, tmp_path):
    _real(model, data_dir, tmp_path, "math")
    row = _table(tmp_path)["Base Power"]
    assert row["paper_accuracy"] == "0.706" and row["paper_self_reward"] == "-0.093"
    assert float(row["self_reward_difference_in_standard_errors"]) < 0
    assert "0.706 ± 0.017" in (tmp_path / "table.md").read_text()
    assert "learning rate 1e-05 (constant)" in (tmp_path / "table.md").read_text()
    assert "Not the paper's settings: 2 problems (its 500)" in (tmp_path / "table.md").read_text()
    made = _records(tmp_path)
    asked = {record["problem_id"] for record in made if record["task"] == "math500"}
    assert len(asked) == 2 and len(made) == 2 * (2 * 8 + 1)
    assert all(r["prompt"].endswith(r"within \boxed{{}}.") for r in made)


def test_code_is_graded_in_the_sandbox(model, data_dir, tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap")
    _real(model, data_dir, tmp_path, "code")
    made = _records(tmp_path)
    assert {record["task"] for record in made} == {"humaneval", "mbpp"}
    verdicts = [r for path in tmp_path.glob("verdicts/*") for r in records.read(path)]
    assert {record["id"] for record in made} == {verdict["id"] for verdict in verdicts}
    assert {v["grade_detail"]["isolation"] for v in verdicts} == {"bubblewrap"}
    assert all(v["correct"] is False for v in verdicts)


def test_of_gpqa_nothing_that_is_written_or_said_holds_text(model, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    (data / "gpqa").mkdir(parents=True)
    main = _rows(448)
    (data / "gpqa/gpqa_main.csv").write_text(_csv(main), newline="")
    (data / "gpqa/gpqa_diamond.csv").write_text(_csv(main[: 2 * 198 : 2]), newline="")
    said = _real(model, data, out, "gpqa")
    made = _records(out)
    assert len(made) == 2 * (2 * 8 + 1) and all(r["prompt_sha256"] for r in made)
    assert pytest.approx(0.0) not in [r["log_prob"] for r in made]
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    given = [f"--model={model}", f"--records={out}/records/base_teacher.jsonl", "--lora_rank=2"]
    given += [f"--data_dir={data}", "--task=gpqa_rest", "--max_length=4096", "--noprogress"]
    ((code, told, err),) = programs.ends("experiments.distill", [[*given, f"--out={out}/student2"]])
    assert code == 0, err
    said += told + err
    written += [path.read_bytes() for path in (out / "student2").rglob("*") if path.is_file()]
    for text in [said.encode(), *written]:
        assert b"zorbs" not in text and b"multiple choice" not in text


def test_without_bubblewrap_nothing_is_sampled(model, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "run"
    flags = [f"--model={model}", f"--data_dir={data_dir}", f"--out={out}", "--task=code", *_REAL]
    code, _, err = _reproduce(*flags)
    assert code == 1 and err.count("\n") == 1 and "apt-get install bubblewrap" in err
    assert not out.exists()
