"""The tiny random checkpoints and inputs of the parity tests, the same on every machine.

Weights and inputs come from numpy generators with fixed seeds, so the golden files hold results
only. Each case is a Hugging Face config.json. Both sides load the folder that `write_checkpoint`
writes.
"""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent
VOCABULARY = 61
NUM_GREEDY = 64
LENGTHS = (23, 17, 30)  # tokens of the prompts of a batch
NUM_STEPS = 16  # steps of cached decode with rewinds

_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "use_sliding_window": False,
    "sliding_window": 8,
    "bos_token_id": None,
    "eos_token_id": None,
}
_PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_act": "silu",
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "sliding_window": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.25, 1.5, 1.75, 2.0],
    "long_factor": [1.5, 2.5, 4.0, 8.0, 16.0, 30.0],
}

CASES = {
    "qwen2_tied": _QWEN2 | {"tie_word_embeddings": True},
    "qwen2_untied": _QWEN2 | {"tie_word_embeddings": False},
    "phi3_default": _PHI3 | {"num_key_value_heads": 2},
    "phi3_partial": _PHI3 | {"partial_rotary_factor": 0.5, "tie_word_embeddings": True},
    "phi3_longrope_short": _PHI3
    | {"original_max_position_embeddings": 128, "rope_scaling": _LONGROPE},
    "phi3_longrope_long": _PHI3
    | {"original_max_position_embeddings": 16, "rope_scaling": _LONGROPE},
}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What both sides compute from, for one case and seed: token ids and counts of tokens."""

    prompts: list[np.ndarray]
    start_lengths: np.ndarray  # [B] tokens that each row of `rows` holds before the first step
    rows: np.ndarray  # [B,S] prompts, and zeros after them
    step_tokens: np.ndarray  # [steps,B] the token that each step feeds per row
    step_positions: np.ndarray  # [steps,B] where it is fed: at the row's end, or further back


def inputs(seed: int) -> Inputs:
    """Returns prompts of unequal length, and steps that rewind each row or not, independently."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCABULARY, n) for n in LENGTHS]
    width = max(LENGTHS) + NUM_STEPS
    rows = np.zeros((len(prompts), width), np.int64)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    lengths = np.array(LENGTHS)
    positions = []
    for _ in range(NUM_STEPS):
        rewind = rng.random(len(prompts)) < 0.4
        lengths = np.where(rewind, rng.integers(1, lengths), lengths)
        positions.append(lengths)
        lengths = lengths + 1
    step_tokens = rng.integers(0, VOCABULARY, (NUM_STEPS, len(prompts)))
    return Inputs(prompts, np.array(LENGTHS), rows, step_tokens, np.array(positions))


def prefixes(inputs: Inputs) -> list[np.ndarray]:
    """Returns, per step, every row's tokens [B,S] once that step's token is fed."""
    rows, copies = inputs.rows.copy(), []
    for tokens, positions in zip(inputs.step_tokens, inputs.step_positions, strict=True):
        rows[np.arange(len(rows)), positions] = tokens
        copies.append(rows.copy())
    return copies


def weights(hf: dict, seed: int) -> dict[str, np.ndarray]:
    """Returns random float32 tensors by their names in a Hugging Face checkpoint.

    phi3 has fused projections without biases. Every other family gets separate ones with biases of
    q, k and v, so a family without these needs a branch here.

    hf: the checkpoint's config.json.
    """
    hidden, ffw, heads = hf["hidden_size"], hf["intermediate_size"], hf["num_attention_heads"]
    head_dim = hidden // heads
    kv_size = hf["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (VOCABULARY, hidden), "model.norm.weight": (hidden,)}
    if not hf.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (VOCABULARY, hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, ffw)
        if hf["model_type"] == "phi3":
            shapes[f"{layer}.self_attn.qkv_proj.weight"] = (hidden + 2 * kv_size, hidden)
            shapes[f"{layer}.mlp.gate_up_proj.weight"] = (2 * ffw, hidden)
            continue
        for name, size in (("q", hidden), ("k", kv_size), ("v", kv_size)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (size, hidden)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (size,)
        for name in ("gate", "up"):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (ffw, hidden)
    tensors = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = 0.25 * rng.standard_normal(shape)
        tensors[name] = (values + 1.0 if "norm" in name else values).astype(np.float32)
    return tensors


def write_checkpoint(case: str, folder: Path, seed: int = 0) -> Path:
    """Writes the case's config.json and model.safetensors into `folder`, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    hf = CASES[case]
    (folder / "config.json").write_text(json.dumps(hf))
    save_file(weights(hf, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
