"""LoRA in peft and torch: a random adapter's logits, and the adapter after AdamW steps.

    python -m tests.golden.training [CASE ...]

writes tests/golden/lora_CASE.npz. Phi3's checkpoint fuses q, k, v into one layer, and gate, up into
another. So the seven layers are trained in a LlamaForCausalLM that has the same weights unfused and
computes the same function.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from powerjax.models.lora import TARGETS
from tests.golden import cases

CASES = ("qwen2_tied", "phi3_default", "gemma3")
RANK, ALPHA = 4, 8.0
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
NUM_STEPS = 10
ROWS, TOKENS = 8, 24
# What Phi3's and Llama's settings in transformers have under the same name.
_SETTINGS_OF_BOTH = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
)


def adapter(case: str, seed: int) -> dict[str, np.ndarray]:
    """Returns a random adapter of all targets: {"layers_0/mlp/up_proj/lora_a": [in,r], ...}."""
    rng = np.random.default_rng([seed, 2])
    hf = cases.CASES[case]
    hidden, ffw = hf["hidden_size"], hf["intermediate_size"]
    head_dim = hf.get("head_dim") or hidden // hf["num_attention_heads"]
    q_size, kv_size = (hf[f"num_{kind}_heads"] * head_dim for kind in ("attention", "key_value"))
    sizes = {name: (hidden, hidden) for name in TARGETS}
    sizes |= {"q_proj": (hidden, q_size), "o_proj": (q_size, hidden)}
    sizes |= {"k_proj": (hidden, kv_size), "v_proj": (hidden, kv_size)}
    sizes |= {"gate_proj": (hidden, ffw), "up_proj": (hidden, ffw), "down_proj": (ffw, hidden)}
    values = {}
    for i in range(hf["num_hidden_layers"]):
        for name, (in_size, out_size) in sizes.items():
            block = "self_attn" if name[0] in "qkvo" else "mlp"
            path = f"layers_{i}/{block}/{name}"
            values[f"{path}/lora_a"] = 0.1 * rng.standard_normal((in_size, RANK))
            values[f"{path}/lora_b"] = 0.1 * rng.standard_normal((RANK, out_size))
    return {path: x.astype(np.float32) for path, x in values.items()}


def batches(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (tokens, completion) of each step, for prompts and completions of many lengths.

    tokens: ids [ROWS,TOKENS], 0 after a row's end. completion: bool [ROWS,TOKENS].
    """
    rng = np.random.default_rng([seed, 3])
    steps = []
    for _ in range(NUM_STEPS):
        tokens = rng.integers(0, cases.VOCABULARY, (ROWS, TOKENS))
        starts = rng.integers(1, 9, ROWS)[:, None]
        stops = rng.integers(10, TOKENS + 1, ROWS)[:, None]
        place = np.arange(TOKENS)
        steps.append((np.where(place < stops, tokens, 0), (place >= starts) & (place < stops)))
    return steps


def reference(case: str, folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Returns what peft and torch compute from the checkpoint in `folder`, as float32 arrays.

    "logits" are those of the first batch. "1/loss" and "10/loss" are losses, "1/PATH" and "10/PATH"
    the adapter after so many steps.
    """
    import peft
    import torch

    base = unfused(case, folder, seed)
    settings = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS)
    )
    model = peft.get_peft_model(base, settings)
    values = adapter(case, seed)
    tensors = {path: _tensor(model, path) for path in values}
    with torch.no_grad():
        for path, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(values[path].T))
    steps = batches(seed)
    with torch.no_grad():
        arrays = {"logits": model(torch.from_numpy(steps[0][0])).logits.numpy()}
    optimizer = torch.optim.AdamW(tensors.values(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for i, (tokens, completion) in enumerate(steps, start=1):
        labels = torch.from_numpy(np.where(completion, tokens, -100))
        loss = model(torch.from_numpy(tokens), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i in (1, NUM_STEPS):
            arrays[f"{i}/loss"] = loss.detach().numpy()
            for path, tensor in tensors.items():
                arrays[f"{i}/{path}"] = tensor.detach().numpy().T.copy()
    return arrays


def unfused(case: str, folder: Path, seed: int):
    """Returns the checkpoint in transformers, with q, k, v, gate and up as separate layers."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    if not case.startswith("phi3"):
        return model
    c = model.config
    settings = {name: getattr(c, name) for name in _SETTINGS_OF_BOTH}
    llama = LlamaForCausalLM(
        LlamaConfig(
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False,
            attn_implementation="eager",
            **settings,
        )
    )
    weights = {}
    for name, x in model.state_dict().items():
        if "qkv_proj" in name:
            kv_size = (x.shape[0] - c.hidden_size) // 2
            for part, y in zip("qkv", x.split([c.hidden_size, kv_size, kv_size]), strict=True):
                weights[name.replace("qkv", part)] = y
        elif "gate_up_proj" in name:
            for part, y in zip(("gate", "up"), x.chunk(2), strict=True):
                weights[name.replace("gate_up", part)] = y
        else:
            weights[name] = x
    llama.load_state_dict(weights)
    return llama


def _tensor(model, path: str):
    """Returns peft's parameter for one of our paths. It is the transpose of ours."""
    layer, block, name, part = path.split("/")
    module = model.base_model.model.model.layers[int(layer.removeprefix("layers_"))]
    adapted = getattr(getattr(module, block), name)
    return getattr(adapted, {"lora_a": "lora_A", "lora_b": "lora_B"}[part])["default"].weight


def main():
    for case in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            cases.write_checkpoint(case, Path(folder), 0)
            arrays = reference(case, Path(folder), 0)
        path = cases.GOLDEN / f"lora_{case}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, loss {arrays['1/loss']:.3f}")


if __name__ == "__main__":
    main()
