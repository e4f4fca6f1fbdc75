"""The embedded model as a GGUF file, as llama.cpp's conversion would write it."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from powerjax.models import checkpoint
from tests.models.gguf import files


def write(path: Path) -> Path:
    """Writes the embedded model in F16, with its tokenizer, and returns `path`."""
    folder = checkpoint.find_folder("tiny")
    hf = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"] | {a["content"]: a["id"] for a in tokenizer["added_tokens"]}
    kinds = {a["content"]: 3 if a["special"] else 4 for a in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    metadata = {
        "qwen2.block_count": hf["num_hidden_layers"],
        "qwen2.context_length": hf["max_position_embeddings"],
        "qwen2.embedding_length": hf["hidden_size"],
        "qwen2.feed_forward_length": hf["intermediate_size"],
        "qwen2.attention.head_count": hf["num_attention_heads"],
        "qwen2.attention.head_count_kv": hf["num_key_value_heads"],
        "qwen2.attention.layer_norm_rms_epsilon": hf["rms_norm_eps"],
        "qwen2.rope.freq_base": hf["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": ids["<|endoftext|>"],
        "tokenizer.ggml.padding_token_id": ids["<|endoftext|>"],
    }
    writer = gguf.GGUFWriter(path, "qwen2")
    for key, value in metadata.items():
        files.add(writer, key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, hf["num_hidden_layers"])
    for name, x in load_file(folder / "model.safetensors").items():
        x = x.astype(np.float32 if x.ndim == 1 else np.float16)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), x)
    files.finish(writer)
    return path
