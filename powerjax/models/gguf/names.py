"""The tensors' names in a GGUF file and in a Hugging Face checkpoint, and what differs in them.

Source: gguf-py/gguf/tensor_mapping.py and the conversion scripts of llama.cpp.
"""

import re

# GGUF -> Hugging Face.
_WHOLE_MODEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_LAYERS = {
    "qwen2": _LAYER,
    "llama": _LAYER,
    "qwen3": _LAYER | _QK_NORMS,
    "gemma3": _LAYER
    | _QK_NORMS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_LAYER_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def hf_name(architecture: str, name: str) -> str | None:
    """Returns the Hugging Face name of a GGUF tensor, None where the model has no such tensor.

    architecture: a key of `config.ARCHITECTURES`.
    """
    if (match := _LAYER_NAME.fullmatch(name)) is None:
        return _WHOLE_MODEL.get(name)
    part = _LAYERS[architecture].get(match[2])
    return None if part is None else f"model.layers.{match[1]}.{part}.{match[3]}"


def needed(architecture: str, num_layers: int) -> list[str]:
    """Returns the GGUF names of the tensors that no model of the architecture goes without."""
    names = ["token_embd.weight", "output_norm.weight"]
    for i in range(num_layers):
        names += [f"blk.{i}.{part}.weight" for part in _LAYERS[architecture]]
        if architecture == "qwen2":
            names += [f"blk.{i}.{part}.bias" for part in ("attn_q", "attn_k", "attn_v")]
    return names


def pairs_interleaved(architecture: str, name: str) -> str | None:
    """Returns "q" or "k" if the rows of each head stand in another order than in Hugging Face's.

    llama.cpp's conversion of Llama puts the two numbers that are rotated together side by side;
    transformers has all first numbers of a head and then all second ones. None for any other.
    """
    match = _LAYER_NAME.fullmatch(name)
    if architecture != "llama" or match is None or match[2] not in ("attn_q", "attn_k"):
        return None
    return match[2][-1]


def added(architecture: str, name: str) -> float:
    """Returns what the file's numbers exceed Hugging Face's by.

    transformers' Gemma multiplies by 1 + weight; llama.cpp's conversion adds the 1 to the file.
    """
    return 1.0 if architecture == "gemma3" and name.endswith("norm.weight") else 0.0
