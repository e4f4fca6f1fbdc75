"""PEFT folders in and out, against W + scale B A, and with --parity against peft itself."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from powerjax import models
from powerjax.models import checkpoint, lora, peft
from tests.golden import cases
from tests.models import peft_folders


@pytest.mark.parametrize("case", peft_folders.CASES)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_adds_scale_b_a_merged_or_not(case, use_rslora, tmp_path):
    base = cases.write_checkpoint(case, tmp_path / "base")
    pairs = peft_folders.write_adapter(tmp_path / "adapter", case, use_rslora=use_rslora)
    merged = cases.write_checkpoint(case, tmp_path / "merged")
    arrays = load_file(merged / "model.safetensors")
    for module, (a, b) in pairs.items():
        arrays[f"{module}.weight"] += 8 / (2 if use_rslora else 4) * (b @ a)
    save_file(arrays, merged / "model.safetensors")
    lm = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    expected = models.load(merged, dtype="float32")
    plain = models.load(base, dtype="float32")
    tokens = np.arange(12).reshape(2, 6)
    np.testing.assert_allclose(lm.logits(tokens), expected.logits(tokens), atol=1e-4)
    np.testing.assert_allclose(lm.merged().logits(tokens), expected.logits(tokens), atol=1e-4)
    assert np.abs(lm.logits(tokens) - plain.logits(tokens)).max() > 0.1
    assert lm.adapter_name == lm.merged().adapter_name == str(tmp_path / "adapter")
    assert lm.merged().adapter is None and plain.adapter_name is None


@pytest.mark.parametrize("case", peft_folders.TARGETS)
def test_peft_computes_the_same_of_an_adapter(case, tmp_path, parity, record_property):
    base = cases.write_checkpoint(case, tmp_path / "base")
    peft_folders.write_adapter(tmp_path / "adapter", case)
    lm = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    peft_folders.check_against_peft(lm, base, tmp_path / "adapter", record_property)


# Target modules of an adapter: all seven, and such that adapt some of a fused layer's parts.
EXPORTS = [lora.TARGETS, ("q_proj", "v_proj", "up_proj", "down_proj"), ("k_proj",)]


@pytest.mark.parametrize("case", peft_folders.TARGETS)
@pytest.mark.parametrize("targets", EXPORTS)
@pytest.mark.parametrize("rslora", [False, True])
def test_saved_and_loaded_is_the_same_adapter(case, targets, rslora, tmp_path):
    config = models.load(cases.write_checkpoint(case, tmp_path / "base")).config
    adapter = peft_folders.random_adapter(config, targets, rslora)
    peft.save(tmp_path / "adapter", adapter, config, base_model="base")
    reloaded = peft.load(tmp_path / "adapter", config)
    assert reloaded.config == adapter.config
    chex.assert_trees_all_equal(reloaded.params, jax.tree.map(jnp.asarray, adapter.params))


@pytest.mark.parametrize("case", peft_folders.TARGETS)
@pytest.mark.parametrize("targets", EXPORTS)
def test_peft_loads_what_is_saved_here(case, targets, tmp_path, parity, record_property):
    base = cases.write_checkpoint(case, tmp_path / "base")
    lm = models.load(base, dtype="float32")
    adapter = peft_folders.random_adapter(lm.config, targets)
    peft.save(tmp_path / "adapter", adapter, lm.config, base_model=str(base))
    lm = dataclasses.replace(lm, adapter=adapter)
    peft_folders.check_against_peft(lm, base, tmp_path / "adapter", record_property)


@pytest.mark.parametrize("case", peft_folders.TARGETS)
def test_what_peft_saves_loads_here(case, tmp_path, parity, record_property):
    peft_lib = pytest.importorskip("peft", reason="compares with peft: pip install peft")
    import torch
    from transformers import AutoModelForCausalLM

    base = cases.write_checkpoint(case, tmp_path / "base")
    names = [t.split(".")[-1] for t in peft_folders.TARGETS[case]]
    pattern = {names[0]: 6, "layers.1.self_attn.o_proj": 2}
    torch.manual_seed(0)
    model = peft_lib.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        peft_lib.LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=names,
            rank_pattern=pattern,
            alpha_pattern={names[0]: 3},
            init_lora_weights=False,
        ),
    )
    model.save_pretrained(tmp_path / "adapter")
    lm = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    peft_folders.check_against_peft(lm, base, tmp_path / "adapter", record_property)


@pytest.mark.parametrize("case", peft_folders.TARGETS)
def test_a_merged_student_has_equal_logits_in_transformers(case, tmp_path, parity, record_property):
    import torch
    from transformers import AutoModelForCausalLM

    base = cases.write_checkpoint(case, tmp_path / "base")
    lm = models.load(base, dtype="float32")
    student = dataclasses.replace(lm, adapter=peft_folders.random_adapter(lm.config, lora.TARGETS))
    merged = student.merged()
    checkpoint.save(tmp_path / "merged", lm.config, merged.params, shard_bytes=30_000)
    assert (tmp_path / "merged" / "model.safetensors.index.json").is_file()
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(peft_folders.TOKENS)).logits.numpy()
    worst = float(np.abs(student.logits(peft_folders.TOKENS) - expected).max())
    record_property("max|dlogit|", f"{worst:.1e}")
    assert worst <= 1e-4


def test_absent_adapter(tmp_path):
    peft_folders.check_refusal(FileNotFoundError, tmp_path, "adapter_config.json")


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_alpha": 0},
        {"rank_pattern": [4]},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa_niter_4"},
        {"target_parameters": ["mlp.experts.down_proj"]},
        {"r": 4.0},
        {"r": True},
        {"r": None},
        {"lora_alpha": float("nan")},
        {"lora_alpha": "8"},
        {"lora_dropout": -0.1},
        {"use_rslora": "yes"},
        {"rank_pattern": {"q_proj": "4"}},
        {"alpha_pattern": {"q_proj": None}},
        {"layers_to_transform": "0"},
    ],
)
def test_unsupported_settings(settings, tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied", **settings)
    name = "IA3" if "peft_type" in settings else next(iter(settings))
    peft_folders.check_refusal(ValueError, tmp_path, name, str(tmp_path / "adapter"))


def test_an_adapter_of_a_model_with_fewer_layers(tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    arrays = load_file(path)
    save_file({k: x for k, x in arrays.items() if ".layers.0." in k}, path)
    peft_folders.check_refusal(
        ValueError, tmp_path, "q_proj in 1 layers, and the model has", "another model?"
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["layers_to_transform"] = [0]  # now the file names what it adapts
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    assert list(models.load(tmp_path / "base", adapter=tmp_path / "adapter").adapter.params) == [
        "layers_0"
    ]


@pytest.mark.parametrize(
    "targets",
    [
        r".*\.(q|o)_proj|.*mlp\.(up|down)_proj",
        ["self_attn.q_proj", "o_proj", "mlp.up_proj", "down_proj"],
        "all-linear",
    ],
)
def test_layers_are_missed_however_targets_are_named(targets, tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied", target_modules=targets)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    arrays = load_file(path)
    if targets == "all-linear":
        peft_folders.check_refusal(
            ValueError, tmp_path, "k_proj in 0 layers, and the model has", "another model?"
        )
        return
    cases.write_checkpoint("qwen2_tied", tmp_path / "base")
    models.load(tmp_path / "base", adapter=tmp_path / "adapter")
    save_file({k: x for k, x in arrays.items() if ".layers.0.mlp.up" not in k}, path)
    peft_folders.check_refusal(ValueError, tmp_path, "up_proj in", "another model?")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["exclude_modules"] = r".*\.0\.mlp\.up_proj"  # now the file names what it adapts
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    models.load(tmp_path / "base", adapter=tmp_path / "adapter")


def test_tensors_without_pefts_prefix_are_the_same_adapter(tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied")
    cases.write_checkpoint("qwen2_tied", tmp_path / "base")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    with_prefix = models.load(tmp_path / "base", adapter=tmp_path / "adapter").adapter
    arrays = {k.removeprefix("base_model.model."): x for k, x in load_file(path).items()}
    save_file(arrays, path)
    without = models.load(tmp_path / "base", adapter=tmp_path / "adapter").adapter
    chex.assert_trees_all_equal(with_prefix.params, without.params)


def test_a_broken_pattern_is_named(tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied", rank_pattern={"q_proj[": 4})
    peft_folders.check_refusal(ValueError, tmp_path, "q_proj[", "is no pattern")


def test_rank_that_does_not_fit(tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied", r=8)
    peft_folders.check_refusal(ValueError, tmp_path, "rank 8", "(4, ")


def test_unknown_target(tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "phi3_default")
    peft_folders.check_refusal(ValueError, tmp_path, "gate_up_proj", "Qwen2ForCausalLM")


def test_b_missing(tmp_path):
    peft_folders.write_adapter(tmp_path / "adapter", "qwen2_tied")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    arrays = load_file(path)
    removed = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    del arrays[removed]
    save_file(arrays, path)
    peft_folders.check_refusal(ValueError, tmp_path, "model.layers.1.mlp.up_proj")
