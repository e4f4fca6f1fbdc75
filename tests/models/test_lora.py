"""Merging PEFT adapters: against W + scale B A in numpy, and against peft itself with --parity."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from powerjax import models
from tests.golden import cases

TARGETS = {
    "qwen2_tied": ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"),
    "phi3_default": ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj"),
}


def _write_adapter(folder, case, rank=4, **settings):
    """A random adapter on TARGETS of every layer; returns {module: (A, B)}."""
    rng = np.random.default_rng(5)
    shapes = {name: x.shape for name, x in cases.weights(cases.CASES[case], 0).items()}
    pairs = {}
    for i in range(cases.CASES[case]["num_hidden_layers"]):
        for target in TARGETS[case]:
            module = f"model.layers.{i}.{target}"
            out_size, in_size = shapes[f"{module}.weight"]
            a = 0.3 * rng.standard_normal((rank, in_size))
            b = 0.3 * rng.standard_normal((out_size, rank))
            pairs[module] = a.astype(np.float32), b.astype(np.float32)
    folder.mkdir()
    prefix = "base_model.model."
    arrays = {f"{prefix}{m}.lora_A.weight": a for m, (a, _) in pairs.items()}
    arrays |= {f"{prefix}{m}.lora_B.weight": b for m, (_, b) in pairs.items()}
    save_file(arrays, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": [t.split(".")[-1] for t in TARGETS[case]],
        "inference_mode": True,
        "base_model_name_or_path": "base",
    } | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return pairs


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_merge_is_w_plus_scale_b_a(case, use_rslora, tmp_path):
    base = cases.write_checkpoint(case, tmp_path / "base")
    pairs = _write_adapter(tmp_path / "adapter", case, use_rslora=use_rslora)
    merged = cases.write_checkpoint(case, tmp_path / "merged")
    arrays = load_file(merged / "model.safetensors")
    for module, (a, b) in pairs.items():
        arrays[f"{module}.weight"] += 8 / (2 if use_rslora else 4) * (b @ a)
    save_file(arrays, merged / "model.safetensors")
    found = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    expected = models.load(merged, dtype="float32")
    plain = models.load(base, dtype="float32")
    tokens = np.arange(12).reshape(2, 6)
    np.testing.assert_allclose(found.logits(tokens), expected.logits(tokens), atol=1e-4)
    assert np.abs(found.logits(tokens) - plain.logits(tokens)).max() > 0.1
    assert found.adapter == str(tmp_path / "adapter")


@pytest.mark.parametrize("case", TARGETS)
def test_merge_against_peft(case, tmp_path, parity, record_property):
    peft = pytest.importorskip("peft", reason="compares with peft: pip install peft")
    import torch
    from transformers import AutoModelForCausalLM

    base = cases.write_checkpoint(case, tmp_path / "base")
    _write_adapter(tmp_path / "adapter", case)
    tokens = np.arange(12).reshape(2, 6)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    found = models.load(base, dtype="float32", adapter=tmp_path / "adapter").logits(tokens)
    worst = float(np.abs(found - expected).max())
    record_property("max|dlogit|", f"{worst:.1e}")
    assert worst <= 1e-4


def _fails(error, tmp_path, *parts):
    base = cases.write_checkpoint("qwen2_tied", tmp_path / "base")
    with pytest.raises(error) as caught:
        models.load(base, adapter=tmp_path / "adapter")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_absent_adapter(tmp_path):
    _fails(FileNotFoundError, tmp_path, "adapter_config.json")


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 8}}, {"peft_type": "IA3"}],
)
def test_unsupported_settings(settings, tmp_path):
    _write_adapter(tmp_path / "adapter", "qwen2_tied", **settings)
    name = "IA3" if "peft_type" in settings else next(iter(settings))
    _fails(ValueError, tmp_path, name)


def test_rank_that_does_not_fit(tmp_path):
    _write_adapter(tmp_path / "adapter", "qwen2_tied", r=8)
    _fails(ValueError, tmp_path, "rank 8", "(4, ")


def test_unknown_target(tmp_path):
    _write_adapter(tmp_path / "adapter", "phi3_default")
    _fails(ValueError, tmp_path, "gate_up_proj", "Qwen2ForCausalLM")


def test_b_missing(tmp_path):
    _write_adapter(tmp_path / "adapter", "qwen2_tied")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    arrays = load_file(path)
    gone = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    del arrays[gone]
    save_file(arrays, path)
    _fails(ValueError, tmp_path, "model.layers.1.mlp.up_proj")
