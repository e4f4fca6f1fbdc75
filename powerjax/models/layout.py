"""The parameter table: every parameter's path and shape, and its place in a checkpoint.

The one list of what a model consists of; loading, saving, random weights and adapters go by it.
"""

from typing import NamedTuple

from powerjax.models.config import ModelConfig

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # in the file, both [V,D]


class Tensor(NamedTuple):
    """One parameter: its shape here, and the rows [start, stop) of the file's tensor it is.

    Matrices are [in, out] here and [out, in] in the file, embeddings [V,D] in both.
    """

    shape: tuple[int, ...]
    name: str
    start: int
    stop: int
    file_rows: int
    transpose: bool


def tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Every parameter by path, with the place its values have in a Hugging Face checkpoint."""
    c = config
    fused = c.architecture == "Phi3ForCausalLM"
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    table = {"embed_tokens/embedding": _embedding(c, EMBEDDINGS)}
    for i in range(c.num_layers):
        ours, theirs = f"layers_{i}", f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            table[f"{ours}/{norm}/scale"] = _vector(c.hidden_size, f"{theirs}.{norm}.weight")
        for block, names, sizes, in_size, fused_name in (
            ("self_attn", "qkv", (q_size, kv_size, kv_size), c.hidden_size, "qkv_proj"),
            ("self_attn", "o", (c.hidden_size,), q_size, None),
            ("mlp", ("gate", "up"), (c.intermediate_size,) * 2, c.hidden_size, "gate_up_proj"),
            ("mlp", ("down",), (c.hidden_size,), c.intermediate_size, None),
        ):
            start = 0
            for name, size in zip(names, sizes, strict=True):
                path = f"{ours}/{block}/{name}_proj"
                if fused and fused_name:
                    place = (f"{theirs}.{block}.{fused_name}.weight", start, start + size)
                    rows = sum(sizes)
                else:
                    place, rows = (f"{theirs}.{block}.{name}_proj.weight", 0, size), size
                table[f"{path}/kernel"] = Tensor((in_size, size), *place, rows, True)
                if c.qkv_bias and fused_name == "qkv_proj":
                    table[f"{path}/bias"] = _vector(size, f"{theirs}.{block}.{name}_proj.bias")
                start += size
    table["norm/scale"] = _vector(c.hidden_size, "model.norm.weight")
    if not c.tie_word_embeddings:
        table["lm_head/kernel"] = Tensor(
            (c.hidden_size, c.vocab_size), HEAD, 0, c.vocab_size, c.vocab_size, True
        )
    return table


def _embedding(c: ModelConfig, name: str) -> Tensor:
    return Tensor((c.vocab_size, c.hidden_size), name, 0, c.vocab_size, c.vocab_size, False)


def _vector(size: int, name: str) -> Tensor:
    return Tensor((size,), name, 0, size, size, False)
