"""Model families: what one architecture does differently from another, one row per family.

`config.py` reads a row to understand a config.json, `layout.py` to find the parameters in a
checkpoint. Sizes are not in the table: they come from each model's own config.json.

To add a family:

1. Add a row to `_ROWS`. A difference that no field describes yet (norms of q and k, a scaled
   embedding) needs a new field, and one place in `layout.py` or `decoder.py` that reads it.
2. A new rope kind is read, built and written in `rope_config.py` (`read`, `as_hf`) and computed in
   `rope.py` (`inverse_frequencies`). Only then list it in `rope_kinds`.
3. Settings of the family's config.json that would change the mathematics and are not supported
   (such as `attention_bias` of Llama) have to be refused by `config._refuse_unsupported`.
4. Add a case to `tests/golden/cases.py`. Its `weights` names the tensors of a checkpoint, and gives
   every family but phi3 biases of q, k and v. `python -m tests.golden.make` writes the golden file.
5. `tests/models/test_families.py` tests each row of the table by itself.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """The facts of one family that its models' config.json files leave unsaid."""

    # Names in config.json: `architectures[0]` and `model_type`.
    architecture: str
    model_type: str
    # Whether the projections q, k and v add a bias.
    qkv_bias: bool
    # The norms of one layer, by their names in `decoder.Block`, which the checkpoint uses too.
    layer_norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    # The activation of the feed-forward block; any other `hidden_act` is refused.
    activation: str = "silu"
    # Projections that the checkpoint stores as one tensor, stacked along its rows, with its name.
    fused: Mapping[tuple[str, ...], str] = dataclasses.field(default_factory=dict)
    # Kinds of rotary embedding that its models may have; rope_config.py has to build each.
    rope_kinds: tuple[str, ...] = ("default",)
    # Other names under which config.json files have these kinds -> the name in `rope_kinds`.
    rope_aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Whether `partial_rotary_factor` may leave a part of each head without rotation.
    partial_rotary: bool = False
    # The context of pretraining where config.json names none; None: `max_position_embeddings`.
    original_context: int | None = None
    # Whether `use_sliding_window` and the layer types decide if the window is in force; otherwise
    # a window that config.json names always is.
    window_switch: bool = False
    # Special tokens to write as null, because the defaults of transformers' config class (32000
    # and above for Phi3) may lie outside a small vocabulary.
    null_tokens: tuple[str, ...] = ()


_ROWS = (
    Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        qkv_bias=True,
        rope_kinds=("default", "longrope"),
        window_switch=True,
    ),
    Family(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        qkv_bias=False,
        fused={("q", "k", "v"): "qkv_proj", ("gate", "up"): "gate_up_proj"},
        rope_kinds=("default", "longrope"),
        rope_aliases={"su": "longrope", "yarn": "longrope"},  # in the first Phi-3 checkpoints
        partial_rotary=True,
        original_context=4096,
        null_tokens=("bos_token_id", "eos_token_id", "pad_token_id"),
    ),
)
FAMILIES: dict[str, Family] = {family.architecture: family for family in _ROWS}


def named(architecture: str) -> Family:
    """Returns the family of an `architectures` entry. Raises ValueError if there is none."""
    if architecture not in FAMILIES:
        raise ValueError(
            f"architecture {architecture!r} is not supported: only {' and '.join(FAMILIES)} are"
        )
    return FAMILIES[architecture]


def of_config(hf: dict) -> Family:
    """Returns the family that a config.json names, by `architectures` or else by `model_type`.

    Raises ValueError if the family is not in the table. The caller checks that `architectures` is
    a list or absent.
    """
    names = hf.get("architectures") or []
    if names:
        return named(str(names[0]))
    model_type = str(hf.get("model_type"))
    by_type = {family.model_type: family for family in _ROWS}
    return by_type[model_type] if model_type in by_type else named(model_type)
