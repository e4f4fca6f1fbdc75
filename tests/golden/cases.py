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
# What the families below have in common. H is not D / N, so that a mistake of one for the other is
# one of shapes.
_OTHERS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LLAMA = _OTHERS | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
_QWEN3 = _OTHERS | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
_MISTRAL = _OTHERS | {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
_OLMO2 = _OTHERS | {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"}
_GEMMA3 = _OTHERS | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "query_pre_attn_scalar": 20,
    "sliding_window": 8,
    "tie_word_embeddings": True,
}
# Of the 6 frequencies of 12 numbers two turn more than once in 32 tokens, the third .24 times, and
# the others less than a tenth.
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 0.1,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
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
    "phi4_mini": _PHI3
    | {
        "hidden_size": 64,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 16,
        "rope_scaling": _LONGROPE,
        "tie_word_embeddings": True,
    },
    "qwen2_window": _QWEN2 | {"use_sliding_window": True, "max_window_layers": 1},
    "llama3": _LLAMA | {"rope_scaling": _LLAMA3, "attention_bias": True, "mlp_bias": True},
    "smollm2": _LLAMA | {"head_dim": None, "tie_word_embeddings": True},
    "llama_linear": _LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "qwen3": _QWEN3 | {"rope_theta": 1_000_000.0},
    "qwen3_bias": _QWEN3 | {"attention_bias": True, "tie_word_embeddings": True},
    "mistral": _MISTRAL | {"sliding_window": None},
    "mistral_window": _MISTRAL | {"sliding_window": 8},
    "gemma3": _GEMMA3,
    "olmo2": _OLMO2,
}


_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
_NORMS = {
    "gemma3_text": (*_TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
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

    phi3 has fused projections. Which others have biases and norms follows from the model type.

    hf: the checkpoint's config.json.
    """
    kind = hf["model_type"]
    hidden, ffw, heads = hf["hidden_size"], hf["intermediate_size"], hf["num_attention_heads"]
    head_dim = hf.get("head_dim") or hidden // heads
    q_size, kv_size = heads * head_dim, hf["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (VOCABULARY, hidden), "model.norm.weight": (hidden,)}
    if not hf.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (VOCABULARY, hidden)
    linears = {
        "self_attn.q_proj": (q_size, hidden),
        "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden),
        "self_attn.o_proj": (hidden, q_size),
        "mlp.gate_proj": (ffw, hidden),
        "mlp.up_proj": (ffw, hidden),
        "mlp.down_proj": (hidden, ffw),
    }
    if kind == "phi3":
        linears = {
            "self_attn.qkv_proj": (q_size + 2 * kv_size, hidden),
            "self_attn.o_proj": (hidden, q_size),
            "mlp.gate_up_proj": (2 * ffw, hidden),
            "mlp.down_proj": (hidden, ffw),
        }
    biased = ("q_proj", "k_proj", "v_proj") if kind == "qwen2" else ()
    biased += ("q_proj", "k_proj", "v_proj", "o_proj") if hf.get("attention_bias") else ()
    biased += ("gate_proj", "up_proj", "down_proj") if hf.get("mlp_bias") else ()
    norms = {f"{name}.weight": (hidden,) for name in _NORMS.get(kind, _TWO_NORMS)}
    if kind in ("qwen3", "gemma3_text", "olmo2"):
        sizes = (q_size, kv_size) if kind == "olmo2" else (head_dim, head_dim)
        norms |= {f"self_attn.{x}_norm.weight": (n,) for x, n in zip("qk", sizes, strict=True)}
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.{name}": shape for name, shape in norms.items()}
        for name, shape in linears.items():
            shapes[f"{layer}.{name}.weight"] = shape
            if name.endswith(biased):
                shapes[f"{layer}.{name}.bias"] = shape[:1]
    mean = 0.0 if kind == "gemma3_text" else 1.0  # of the norms' weights, to which Gemma adds 1
    tensors = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = 0.25 * rng.standard_normal(shape)
        tensors[name] = (values + mean if "norm" in name else values).astype(np.float32)
    return tensors


def write_checkpoint(case: str, folder: Path, seed: int = 0) -> Path:
    """Writes the case's config.json and model.safetensors into `folder`, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    hf = CASES[case]
    (folder / "config.json").write_text(json.dumps(hf))
    save_file(weights(hf, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
