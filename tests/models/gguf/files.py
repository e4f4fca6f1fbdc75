"""GGUF files for tests, written by the package `gguf` as llama.cpp's conversion writes them.

Tensor names come from that package's own map, and what the conversion does to weights is written
down here anew, so a test that reads such a file does not compare the reader with itself.
"""

import itertools
import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

SIZES = {
    "vocab_size": 61,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "hidden_act": "silu",
}
# GGUF architecture -> config.json, as models of it have it.
CONFIGS = {
    "qwen2": SIZES
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": 4,  # with as many matrices as there are types
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": None,
    },
    "qwen3": SIZES
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "head_dim": 128,
    },
    "llama": SIZES
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "gemma3": {key: value for key, value in SIZES.items() if key != "hidden_act"}
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "num_hidden_layers": 6,
        "query_pre_attn_scalar": 64,
        "rope_local_base_freq": 10_000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 32,
        "sliding_window_pattern": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
}
_DEQUANTISED = [t for t in Type if t in (Type.F32, Type.F16) or t in gguf.quants._type_traits]
MIXED = tuple(_DEQUANTISED)  # every type that the package dequantises


def shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a checkpoint, by its Hugging Face name."""
    c = CONFIGS[architecture]
    d, f, h = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * h, c["num_key_value_heads"] * h
    found = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        found["lm_head.weight"] = (c["vocab_size"], d)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if architecture == "gemma3":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        found |= {f"{layer}.{norm}.weight": (d,) for norm in norms}
        for name, size in (("q", q), ("k", kv), ("v", kv)):
            found[f"{layer}.self_attn.{name}_proj.weight"] = (size, d)
            if architecture == "qwen2":
                found[f"{layer}.self_attn.{name}_proj.bias"] = (size,)
        if architecture in ("qwen3", "gemma3"):
            found |= {f"{layer}.self_attn.{name}_norm.weight": (h,) for name in "qk"}
        found[f"{layer}.self_attn.o_proj.weight"] = (d, q)
        found |= {f"{layer}.mlp.{name}_proj.weight": (f, d) for name in ("gate", "up")}
        found[f"{layer}.mlp.down_proj.weight"] = (d, f)
    return found


def metadata(architecture: str) -> dict:
    """Returns the sizes in GGUF's keys, of the types that llama.cpp writes."""
    c = CONFIGS[architecture]
    keys = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.key_length": c["head_dim"],
        "attention.value_length": c["head_dim"],
        "attention.layer_norm_rms_epsilon": float(np.float32(c["rms_norm_eps"])),
        "rope.freq_base": c["rope_theta"],
    }
    if architecture == "gemma3":
        keys |= {
            "attention.sliding_window": c["sliding_window"],
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        }
    named = {f"{architecture}.{key}": value for key, value in keys.items()}
    return {"general.architecture": architecture} | named


def rope_freqs(hf: dict) -> np.ndarray:
    """Returns the factors that llama.cpp's conversion of Llama 3 writes, by its loop."""
    scaling, h = hf["rope_scaling"], hf["head_dim"]
    factors = []
    for freq in 1.0 / hf["rope_theta"] ** (np.arange(0, h, 2, dtype=np.float32) / h):
        wavelength = 2 * np.pi / freq
        original = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def converted(architecture: str, name: str, x: np.ndarray) -> np.ndarray:
    """Returns a checkpoint's tensor as llama.cpp's conversion changes it."""
    c = CONFIGS[architecture]
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return x + np.float32(1)
    heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}
    heads = heads.get(name.split(".")[-2])
    if architecture != "llama" or heads is None:
        return x
    return x.reshape(heads, 2, len(x) // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def restored(architecture: str, name: str, x: np.ndarray) -> np.ndarray:
    """Returns the checkpoint's tensor of a converted one."""
    c = CONFIGS[architecture]
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return x - np.float32(1)
    heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}
    heads = heads.get(name.split(".")[-2])
    if architecture != "llama" or heads is None:
        return x
    return x.reshape(heads, len(x) // heads // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def packed(rng: np.random.Generator, shape: tuple[int, ...], kind: Type) -> np.ndarray:
    """Returns random bytes of a type, in which every scale is a finite number."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    return rng.integers(0, 60, (*shape[:-1], shape[-1] // size * num_bytes), np.uint8)


def write(
    path: Path,
    architecture: str,
    *,
    types=MIXED,
    extra: dict | None = None,
    further=None,
    leave_out=(),
) -> dict[str, np.ndarray]:
    """Writes a GGUF file of random weights, and returns its checkpoint: float32 arrays by name.

    Args:
      types: the types of the matrices, one after the other; vectors are F32.
      extra: further metadata by key.
      further: further float32 tensors by GGUF name.
      leave_out: the GGUF names of tensors that are not written.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (metadata(architecture) | (extra or {})).items():
        if key != "general.architecture":
            add(writer, key, value)
    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    names = gguf.get_tensor_name_map(arch, CONFIGS[architecture]["num_hidden_layers"])
    kinds = itertools.cycle(types)
    checkpoint = {}
    for name, shape in shapes(architecture).items():
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if len(shape) == 1:
            # Multiples of 1/256, which a norm's + 1 leaves as they are.
            x = rng.integers(-256, 256, shape).astype(np.float32) / 256
            data, kind = converted(architecture, name, x), Type.F32
        else:
            kind = next(kinds)
            data = packed(rng, shape, kind)
            x = restored(architecture, name, gguf.quants.dequantize(data, kind))
            if kind in (Type.F32, Type.F16):
                data = data.view(np.float32 if kind == Type.F32 else np.float16)
        checkpoint[name] = np.ascontiguousarray(x)
        if own not in leave_out:
            writer.add_tensor(own, data, raw_dtype=kind)
    if "llama3" in str(CONFIGS[architecture].get("rope_scaling")):
        writer.add_tensor("rope_freqs.weight", rope_freqs(CONFIGS[architecture]))
    for own, x in (further or {}).items():
        writer.add_tensor(own, x)
    finish(writer)
    return checkpoint


def write_folder(folder: Path, architecture: str, checkpoint: dict[str, np.ndarray]) -> Path:
    """Writes a checkpoint in Hugging Face's format, in float32."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[architecture]))
    save_file(checkpoint, folder / "model.safetensors")
    return folder


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes what was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer: gguf.GGUFWriter, key: str, value) -> None:
    """Adds one value under the type that llama.cpp writes it as."""
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    kinds |= {str: writer.add_string, list: writer.add_array}
    kinds[type(value)](key, value)
