"""The parameter table: every parameter's path and shape, and its place in a checkpoint.

Loading, saving, random weights and adapters all read this table. Which families there are, and
what differs between them, is defined in families.py; this file turns a family's row and a model's
sizes into the list of its parameters.
"""

from typing import NamedTuple

from powerjax.models.config import ModelConfig

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # in the file, both [V,D]


class Tensor(NamedTuple):
    """One parameter: its shape here, and the rows [start, stop) of the file's tensor that hold it.

    Matrices are [in, out] here and [out, in] in the file; embeddings are [V,D] in both.
    """

    shape: tuple[int, ...]
    name: str  # of the file's tensor
    start: int
    stop: int
    file_rows: int  # rows of the file's whole tensor
    transpose: bool  # whether the file holds the matrix as [out, in]


def tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Returns every parameter by path, with the place of its values in a Hugging Face checkpoint.

    A path is that of the decoder's pytree, such as "layers_0/mlp/up_proj/kernel".
    """
    c = config
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    biases = {"q": c.qkv_bias, "k": c.qkv_bias, "v": c.qkv_bias, "o": c.o_bias}
    biases |= dict.fromkeys(("gate", "up", "down"), c.mlp_bias)
    # Norms of q and k: their sizes.
    qk_norms = {"q": q_size, "k": kv_size} if c.family.qk_norm == "all" else {}
    if c.family.qk_norm == "head":
        qk_norms = {"q": c.head_dim, "k": c.head_dim}
    linears: tuple[tuple[str, tuple[str, ...], tuple[int, ...], int], ...] = (
        # block, layers that read the same input, their output sizes, their input size
        ("self_attn", ("q", "k", "v"), (q_size, kv_size, kv_size), c.hidden_size),
        ("self_attn", ("o",), (c.hidden_size,), q_size),
        ("mlp", ("gate", "up"), (c.intermediate_size,) * 2, c.hidden_size),
        ("mlp", ("down",), (c.hidden_size,), c.intermediate_size),
    )
    table = {"embed_tokens/embedding": _embedding(c, EMBEDDINGS)}
    for i in range(c.num_layers):
        layer, stored = f"layers_{i}", f"model.layers.{i}"
        for norm in filter(None, c.family.layer_norms):
            table[f"{layer}/{norm}/scale"] = _vector(c.hidden_size, f"{stored}.{norm}.weight")
        for name, size in qk_norms.items():
            norm = f"self_attn.{name}_norm.weight"
            table[f"{layer}/self_attn/{name}_norm/scale"] = _vector(size, f"{stored}.{norm}")
        for block, names, sizes, in_size in linears:
            fused_name = c.family.fused.get(names)
            start = 0
            for name, size in zip(names, sizes, strict=True):
                path, own_name = f"{layer}/{block}/{name}_proj", f"{stored}.{block}.{name}_proj"
                if fused_name is not None:
                    place = (f"{stored}.{block}.{fused_name}.weight", start, start + size)
                    rows = sum(sizes)
                else:
                    place, rows = (f"{own_name}.weight", 0, size), size
                table[f"{path}/kernel"] = Tensor((in_size, size), *place, rows, True)
                if biases[name]:
                    table[f"{path}/bias"] = _vector(size, f"{own_name}.bias")
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
