"""PEFT folders and adapters that several test files write, and what they check of them."""

import json
import warnings

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from powerjax import models
from powerjax.models import lora
from tests.golden import cases

TOKENS = np.arange(12).reshape(2, 6)

# The adapted modules of each golden case, as its checkpoint names them.
TARGETS = {
    "qwen2_tied": ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"),
    "phi3_default": ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj"),
}
# The cases of the families whose layers have the names of Qwen2's.
OTHERS = ("llama3", "qwen3", "mistral_window", "gemma3", "olmo2")
TARGETS |= dict.fromkeys(OTHERS, TARGETS["qwen2_tied"])
# For tests that compile: the first of its kind always, the others by --full.
CASES = [pytest.param(c, marks=pytest.mark.full if c in OTHERS else ()) for c in TARGETS]


def write_adapter(folder, case, rank=4, **settings):
    """Writes a PEFT folder with a random adapter on TARGETS of every layer.

    settings: entries that replace those of adapter_config.json. Returns {module: (A, B)}.
    """
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


def check_against_peft(lm, base, folder, record_property):
    """Asserts that `lm` has the logits of peft's model of the same base and adapter folders."""
    peft = pytest.importorskip("peft", reason="compares with peft: pip install peft")
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns of keys that are missing or not used
        warnings.filterwarnings("ignore", category=FutureWarning)
        model = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(TOKENS)).logits.numpy()
    worst = float(np.abs(lm.logits(TOKENS) - expected).max())
    record_property("max|dlogit|", f"{worst:.1e}")
    assert worst <= 1e-4


def random_adapter(config, targets, rslora=False):
    """Returns a random adapter of rank 4 and alpha 8."""
    settings = lora.LoraConfig(4, 8, 0.05, targets, rslora)
    rng = np.random.default_rng(8)
    params = jax.tree.map(
        lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32),
        lora.shapes(config, settings),
    )
    return lora.Adapter(settings, params)


def check_refusal(error, tmp_path, *parts):
    """Asserts that tmp_path/adapter is refused by `error`, in one line that names every part."""
    base = cases.write_checkpoint("qwen2_tied", tmp_path / "base")
    with pytest.raises(error) as caught:
        models.load(base, adapter=tmp_path / "adapter")
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
