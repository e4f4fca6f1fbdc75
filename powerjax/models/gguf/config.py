"""The metadata of a GGUF file as the dict of a Hugging Face config.json."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from powerjax.models.gguf import file_format

# GGUF's `general.architecture` -> (`architectures[0]`, `model_type`) of config.json.
ARCHITECTURES = {
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "llama": ("LlamaForCausalLM", "llama"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
}
ROPE_FREQS = "rope_freqs.weight"  # factors that divide the frequencies of Llama 3.1 and later
# low_freq_factor, high_freq_factor and original context of every Llama 3.1, 3.2 and 3.3.
_LLAMA3 = (1.0, 4.0, 8192)
_GEMMA3_PATTERN = 6  # each sixth layer attends to everything
_GEMMA3_27B_LAYERS = 62
_STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>")
_CONTROL = 3  # the token type of special tokens
# Keys that would change the mathematics, and that no model of the architectures has.
_CHANGES = (
    "attention.clamp_kqv",
    "attention.scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "logit_scale",
    "residual_scale",
)
_KEYS = {  # of config.json -> of GGUF, below the architecture's name
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}


def read_config(path: Path) -> dict[str, Any]:
    """Returns a GGUF file's metadata as the dict of a config.json, as `hf_config` has it.

    Raises ValueError, in one line with the file's name, as `file_format.read` and `hf_config` do.
    """
    header = file_format.read(path)
    factors = None
    if (info := header.tensors.get(ROPE_FREQS)) is not None and info.type_number == 0:
        factors = np.fromfile(path, "<f4", math.prod(info.shape), offset=info.offset)
    try:
        return hf_config(header.metadata, header.shapes, factors)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def hf_config(
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    rope_freqs: np.ndarray | None = None,
) -> dict[str, Any]:
    """Returns a config.json's dict, with the keys of transformers 4 for the architecture.

    `eos_token_id` is a list of all tokens that end a completion, see `stop_ids`.

    Args:
      metadata: the file's metadata by key.
      shapes: the shape of every tensor by GGUF name, rows first.
      rope_freqs: float32[H/2], the factors of `rope_freqs.weight`; None where the file has none.

    Raises ValueError that says what is wrong with the file; its message is the rest of a sentence
    that begins with the file's name.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"is a GGUF of the architecture {architecture!r}, and only those of"
            f" {', '.join(ARCHITECTURES)} are read"
        )
    sizes = _Sizes(metadata, architecture)
    missing = [sizes.name(key) for key in _KEYS.values() if sizes.get(key) is None]
    missing += [name for name in ("token_embd.weight",) if len(shapes.get(name, ())) != 2]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}: it is no whole model, download it again")
    for key in (own for own in _KEYS.values() if not own.endswith("epsilon")):
        if type(sizes.get(key)) is not int or sizes.get(key) < 1:
            raise ValueError(f"has the {sizes.name(key)} {sizes.get(key)!r}: download it again")
    unread = [sizes.name(key) for key in _CHANGES if sizes.get(key)]
    if unread or sizes.get("attention.causal") is False:
        what = unread[0] if unread else "attention in both directions"
        raise ValueError(f"has {what}, which is not supported")
    if sizes.get("expert_count"):
        raise ValueError(f"is a mixture of {sizes.get('expert_count')} experts, which is not read")
    head_dim = _head_dim(sizes)
    hf_name, model_type = ARCHITECTURES[architecture]
    hf = {key: sizes.get(own) for key, own in _KEYS.items()}
    hf |= {
        "architectures": [hf_name],
        "model_type": model_type,
        "vocab_size": shapes["token_embd.weight"][0],
        "num_key_value_heads": sizes.get("attention.head_count_kv") or hf["num_attention_heads"],
        "head_dim": head_dim,
        "rms_norm_eps": shortest(hf["rms_norm_eps"]),
        "rope_theta": shortest(sizes.get("rope.freq_base") or 10_000.0),
        "rope_scaling": _rope_scaling(sizes, head_dim, rope_freqs),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(stop_ids(metadata)) or None,
    }
    rotated = sizes.get("rope.dimension_count") or head_dim
    if rotated != head_dim:
        hf["partial_rotary_factor"] = rotated / head_dim
    return hf | _own_keys(architecture, sizes, shapes, hf)


def stop_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the tokens that end a completion, the end of sequence first.

    They are those that the metadata names as ends of a sequence, a turn or a message, and the
    special tokens by which well-known vocabularies end a document. A chat model's `eos_token_id`
    often is its end of turn alone.
    """
    ids = [metadata.get(f"tokenizer.ggml.{key}") for key in _STOP_KEYS]
    types = metadata.get("tokenizer.ggml.token_type", [])
    for token, (text, kind) in enumerate(
        zip(metadata.get("tokenizer.ggml.tokens", []), types, strict=False)
    ):
        if kind == _CONTROL and text in _DOCUMENT_ENDS:
            ids.append(token)
    return tuple(dict.fromkeys(token for token in ids if token is not None))


def shortest(value: float) -> float:
    """Returns the float that a float32's shortest decimal text stands for: 1e-06, as written."""
    return float(str(np.float32(value)))


class _Sizes:
    """The metadata below the architecture's name."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str):
        self.metadata, self.architecture = metadata, architecture

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def get(self, key: str) -> Any:
        """Returns a value, None where there is none, and a list's one value where all agree.

        Raises ValueError for a list of values that differ from layer to layer.
        """
        value = self.metadata.get(self.name(key))
        if not isinstance(value, list) or key.endswith("_pattern"):
            return value
        if len(set(value)) != 1:
            raise ValueError(f"has a {self.name(key)} that differs between layers, not supported")
        return value[0]


def _head_dim(sizes: _Sizes) -> int:
    """Returns H. Raises ValueError where values have another width than keys."""
    key, value = sizes.get("attention.key_length"), sizes.get("attention.value_length")
    if key is None:
        key = sizes.get("embedding_length") // sizes.get("attention.head_count")
    if value not in (None, key):
        raise ValueError(f"has keys of {key} numbers per head and values of {value}, not supported")
    return key


def _rope_scaling(
    sizes: _Sizes, head_dim: int, rope_freqs: np.ndarray | None
) -> dict[str, Any] | None:
    """Returns the `rope_scaling` of config.json, None where positions are not scaled."""
    kind, factor = sizes.get("rope.scaling.type"), sizes.get("rope.scaling.factor")
    if rope_freqs is not None and not np.all(rope_freqs == 1):
        theta = sizes.get("rope.freq_base") or 10_000.0
        original = sizes.get("rope.scaling.original_context_length")
        return llama3_scaling(rope_freqs, theta, head_dim, original)
    if kind == "none" or factor in (None, 0, 1):
        return None
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": shortest(factor)}
    original = sizes.get("rope.scaling.original_context_length")
    return {
        "rope_type": kind,
        "factor": shortest(factor),
        "original_max_position_embeddings": original,
    }


def llama3_scaling(
    rope_freqs: np.ndarray, theta: float, head_dim: int, original: int | None = None
) -> dict[str, Any]:
    """Returns the `rope_scaling` of kind llama3 whose factors the file holds.

    The file has the factors alone. Every published model has the same limits, so these are taken,
    the factor is the largest of the file, and the factors that follow have to equal the file's.

    Args:
      rope_freqs: float32[H/2].
      theta: the base of the frequencies.
      original: the context of pretraining in tokens; None stands for that of Llama 3.

    Raises ValueError where they differ.
    """
    low, high, context = _LLAMA3
    context = original or context
    factor = float(np.max(rope_freqs))
    # The inverse of `_compute_llama3_parameters` in transformers' modeling_rope_utils.py.
    turns = context / (2 * np.pi) * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    share = np.clip((turns - low) / (high - low), 0, 1)  # of the unscaled frequency
    expected = 1 / ((1 - share) / factor + share)
    if rope_freqs.shape != expected.shape or not np.allclose(rope_freqs, expected, rtol=1e-3):
        raise ValueError(
            f"has a {ROPE_FREQS} that is not the rotary scaling of Llama 3 (factors {low:g} and"
            f" {high:g}, context {context}), and no other is read"
        )
    return {
        "rope_type": "llama3",
        "factor": shortest(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _own_keys(
    architecture: str, sizes: _Sizes, shapes: Mapping[str, Any], hf: dict[str, Any]
) -> dict[str, Any]:
    """Returns the keys that only this architecture's config.json has."""
    if architecture == "gemma3":
        return _gemma3_keys(sizes, hf)
    own: dict[str, Any] = {"hidden_act": "silu"}
    window = sizes.get("attention.sliding_window") or None
    if architecture != "qwen2":
        own["attention_bias"] = "blk.0.attn_q.bias" in shapes
    if architecture == "llama":
        own["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
        if window is not None:
            own |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
            own["sliding_window"] = window
    else:
        # llama.cpp attends to everything in both, whatever the file says of a window.
        own |= {"use_sliding_window": False, "sliding_window": None}
    return own


def _gemma3_keys(sizes: _Sizes, hf: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys of transformers' Gemma3TextConfig.

    What is the same in every Gemma 3 is not in the file; llama.cpp has it in its code.
    """
    window = sizes.get("attention.sliding_window") or None
    pattern = sizes.get("attention.sliding_window_pattern") or _GEMMA3_PATTERN
    layers = range(hf["num_hidden_layers"])
    if window is None:
        slides = [False for _ in layers]
    elif isinstance(pattern, list):
        slides = [bool(pattern[i % len(pattern)]) for i in layers]
    else:
        slides = [(i + 1) % pattern != 0 for i in layers]
    scalar = hf["head_dim"]
    if len(layers) == _GEMMA3_27B_LAYERS:
        scalar = hf["hidden_size"] // hf["num_attention_heads"]
    cap = sizes.get("final_logit_softcapping")
    own = {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "rope_local_base_freq": shortest(sizes.get("rope.freq_base_swa") or 10_000.0),
        "sliding_window": window,
        "layer_types": ["sliding_attention" if s else "full_attention" for s in slides],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None if cap is None else shortest(cap),
    }
    if not isinstance(pattern, list) and window is not None:
        own["sliding_window_pattern"] = pattern
    if sizes.get("rope.freq_base") is None:
        own["rope_theta"] = 1_000_000.0
    return own
