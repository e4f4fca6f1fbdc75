"""experiments/plan.py: a plan from a config.json alone."""

import json
import re
import shlex

import pytest

from tests.experiments import programs
from tests.models import published

_HF = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 131_072,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """name -> (exit status, output, errors) of the plans that the tests look at."""
    folder = tmp_path_factory.mktemp("models")
    for name, more in (("seven", {}), ("large", {"num_hidden_layers": 280})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(_HF | more))
    seven = f"--model={folder}/seven"
    asked = {
        "one": [seven, "--hardware=a100-40gb:1"],
        "node": [f"{seven}/config.json", "--hardware=a100-40gb:8", "--task=code"],
        "pod": [seven, "--hardware=tpu-v4:32", "--mean_length=3072", "--efficiency=1"],
        "asked": [seven, "--hardware=h100-80gb:16", "--model_axis=2"],
        "short": [
            *(seven, "--hardware=tpu-v6e:1", "--task=arithmetic", "--longest_prompt=64"),
            "--num_mcmc_steps=0",
        ],
        "too long": [seven, "--longest_prompt=130000"],
        "too large": [f"--model={folder}/large", "--hardware=a100-40gb:1"],
        "no chip": [seven, "--hardware=a300:1"],
        "no axis": [seven, "--hardware=a100-40gb:8", "--model_axis=3"],
        "no model": [f"--model={folder}/none"],
        "too good": [seven, "--efficiency=2"],
    }
    for name, hf in published.CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(hf))
        asked[name] = [f"--model={folder}/{name}.json", "--hardware=h100-80gb:1"]
    return dict(zip(asked, programs.ends("experiments.plan", list(asked.values())), strict=True))


def test_memory_tokens_hours_and_the_commands_are_said(plans):
    code, out, err = plans["one"]
    assert code == 0, err
    assert re.search(r"^ +1 +1 +14\.19 .* \*$", out, re.M)  # weights of 7.6 B in bfloat16, chosen
    # One chain of 600 tokens: 600, and 10 moves of half of 192, 384, 576, 600 tokens (plus 1).
    tokens = 500 * (600 + 10 * (96.5 + 192.5 + 288.5 + 300.5))
    assert re.search(rf"^Base Teacher +500 +{tokens:,.0f} ", out, re.M)
    assert "bash launch/a100.sh" in out and "fits 38.0" in out
    code, out, err = plans["node"]
    assert code == 0, err
    assert "TRAIN_TASK=mbpp EVAL_TASK=humaneval" in out and "GPUS=8 bash launch/a100x8.sh" in out
    assert re.search(r"^Base Teacher +420 ", out, re.M)
    assert re.search(r"^Distilled Standard +656 ", out, re.M)
    code, out, err = plans["asked"]
    assert code == 0, err
    assert "sbatch --nodes=2 launch/slurm.sbatch" in out and "MODEL_AXIS=2" in out
    code, out, err = plans["pod"]
    assert code == 0, err
    assert "bash launch/tpu_pod.sh NAME ZONE" in out


@pytest.mark.parametrize(
    ("name", "weights"),
    [("Qwen3-8B", 15.26), ("Llama-3.1-8B", 14.96), ("gemma-3-12b", 21.92)],
)
def test_models_of_other_families_are_planned(name, weights, plans):
    code, out, err = plans[name]
    assert code == 0, err
    assert re.search(rf"^ +1 +1 +{weights} .* \*$", out, re.M)


def test_at_the_full_length_expected_is_at_most(plans):
    lines = [line for line in plans["pod"][1].split("\n") if line.startswith(("Base", "Distil"))]
    assert len(lines) == 7
    for line in lines:
        expected, most = re.findall(r"[\d,]{7,}", line)[:2]
        assert expected == most


def test_launch_takes_the_variables_that_are_printed(plans):
    pipeline = (programs.ROOT / "launch" / "pipeline.sh").read_text()
    pipeline += (programs.ROOT / "launch" / "a100x8.sh").read_text()
    for what in ("one", "node", "pod", "asked"):
        (line,) = [x for x in plans[what][1].split("\n") if x.strip().startswith("MODEL=")]
        for given in shlex.split(line.rstrip("\\ ")):
            assert f"{given.split('=')[0]}:-" in pipeline, given


def test_the_commands_run_what_was_planned(plans):
    """They train on the training problems, with the lengths and moves that the flags gave."""
    code, out, err = plans["short"]
    assert code == 0, err
    (line,) = [x for x in out.split("\n") if x.strip().startswith("MODEL=")]
    given = dict(x.partition("=")[::2] for x in shlex.split(line.rstrip("\\ ")))
    assert given["TRAIN_TASK"] == given["EVAL_TASK"] == "arithmetic" and given["MODEL_AXIS"] == "1"
    assert given["TEACHER_FLAGS"].split() == [
        *("--split=train", "--limit=2000", "--max_new_tokens=64", "--num_mcmc_steps=0"),
        "--block_size=64",
    ]
    assert given["EVAL_FLAGS"].split() == ["--split=test", "--limit=1000", "--max_new_tokens=64"]
    assert re.search(r"experiments.reproduce .*--num_mcmc_steps=0", out)
    assert "MEM_FRACTION=0.95 python -m experiments.reproduce" in plans["one"][1]
    assert "TEACHER_FLAGS" not in plans["one"][1]  # the launchers' own settings


def test_mistakes_end_in_one_line(plans):
    for what, said in {
        "too long": "133072 tokens (prompt and completion) are more than the model's context",
        "too large": "the model does not fit: with 1 devices per copy, each needs",
        "no chip": "hardware 'a300:1': give CHIP:COUNT, the chip one of a100-40gb",
        "no axis": "--model_axis=3: on this hardware one of 1, 2, 4, 8",
        "no model": "none: no such folder, and not a Hugging Face id",
        "too good": "--efficiency=2: a share of the roofline, up to 1",
    }.items():
        code, _, err = plans[what]
        assert code == 1 and "Traceback" not in err
        assert len([line for line in err.split("\n") if said in line]) == 1, (what, err)
