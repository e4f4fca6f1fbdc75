"""Model families: what one architecture does differently from another, one row per family.

`config.py` reads a row to understand a config.json, `layout.py` to find the parameters in a
checkpoint, and `decoder.py` to compute. Sizes are not in the table: they come from each model's own
config.json.

To add a family:

1. Add a row to `_ROWS`. A difference that no field describes yet needs a new field, and one place
   in `layout.py`, `layers.py` or `decoder.py` that reads it.
2. A new rope kind is read, built and written in `rope_config.py` (`read`, `as_hf`) and computed in
   `rope.py` (`inverse_frequencies`). Only then list it in `rope_kinds`.
3. Settings of the family's config.json that would change the mathematics and are not supported
   (such as Gemma's softcaps) are named in `refused`.
4. Add a case to `tests/golden/cases.py`. Its `weights` names the tensors of a checkpoint.
   `python -m tests.golden.make` writes the golden file.
5. `tests/models/test_families.py` tests each row of the table by itself.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple


class LayerNorms(NamedTuple):
    """Where the norms of a layer stand, each by its name in the checkpoint; None for no norm.

    A layer computes x + after_attention(attention(before_attention(x))), and then
    x + after_mlp(mlp(before_mlp(x))).
    """

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None


_BEFORE_EACH = LayerNorms()


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """The facts of one family that its models' config.json files leave unsaid."""

    # Names in config.json: `architectures[0]` and `model_type`.
    architecture: str
    model_type: str
    # Whether the projections q, k and v add a bias, where no key of `bias_keys` decides it.
    qkv_bias: bool
    # Switches of config.json that add biases -> the fields of ModelConfig that they set.
    bias_keys: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # The norms of one layer.
    layer_norms: LayerNorms = _BEFORE_EACH
    # What a norm adds to the weight that it stores.
    norm_offset: int = 0
    # Whether a norm multiplies by its weight in float32, before it rounds to the model's dtype.
    wide_norms: bool = False
    # What q and k are normed over before the rotation: "head", each head by itself; "all", the
    # whole projection; None, not at all.
    qk_norm: str | None = None
    # The activation of the feed-forward block, under its key in config.json; others are refused.
    activation: str = "silu"
    activation_key: str = "hidden_act"
    # Whether embeddings are multiplied by sqrt(D), rounded to the dtype of the weights.
    scaled_embeddings: bool = False
    # Whether scores are divided by sqrt(`query_pre_attn_scalar`) and not by sqrt(H).
    query_scalar: bool = False
    # Projections that the checkpoint stores as one tensor, stacked along its rows, with its name.
    fused: Mapping[tuple[str, ...], str] = dataclasses.field(default_factory=dict)
    # Kinds of rotary embedding that its models may have; rope_config.py has to build each.
    rope_kinds: tuple[str, ...] = ("default",)
    # Other names under which config.json files have these kinds -> the name in `rope_kinds`.
    rope_aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Whether `partial_rotary_factor` may leave a part of each head without rotation.
    partial_rotary: bool = False
    # Whether layers with a sliding window have a rotary embedding of their own.
    local_rope: bool = False
    # The context of pretraining where config.json names none; None: `max_position_embeddings`.
    original_context: int | None = None
    # Which layers have the window of `sliding_window`: "never" any; "always" all, where config.json
    # names a window; "switch", if `use_sliding_window` is true, those of `layer_types` or from
    # `max_window_layers` on; "pattern", those of `layer_types`, or all but every
    # `sliding_window_pattern`-th.
    windows: str = "never"
    # What transformers' config class has for keys that config.json leaves out.
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Keys of config.json that are refused unless they are absent, null or false.
    refused: tuple[str, ...] = ()
    # `architectures[0]` and `model_type` of checkpoints that read images too and hold this model as
    # their `text_config`.
    with_images: tuple[str, ...] = ()
    # Special tokens to write as null, because the defaults of transformers' config class are not
    # the model's, and may lie outside a small vocabulary.
    null_tokens: tuple[str, ...] = ("bos_token_id", "eos_token_id", "pad_token_id")


_ATTENTION_BIAS = {"attention_bias": ("qkv_bias", "o_bias")}
_ROWS = (
    Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        qkv_bias=True,
        rope_kinds=("default", "longrope"),
        windows="switch",
        null_tokens=(),
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
        windows="always",
    ),
    Family(
        architecture="LlamaForCausalLM",
        model_type="llama",
        qkv_bias=False,
        bias_keys=_ATTENTION_BIAS | {"mlp_bias": ("mlp_bias",)},
        rope_kinds=("default", "linear", "llama3"),
    ),
    Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        qkv_bias=False,
        bias_keys=_ATTENTION_BIAS,
        qk_norm="head",
        windows="switch",
        defaults={"head_dim": 128},
    ),
    Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        qkv_bias=False,
        windows="always",
        defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    ),
    Family(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        qkv_bias=False,
        bias_keys=_ATTENTION_BIAS,
        layer_norms=LayerNorms(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        norm_offset=1,
        wide_norms=True,
        qk_norm="head",
        activation="gelu_pytorch_tanh",
        activation_key="hidden_activation",
        scaled_embeddings=True,
        query_scalar=True,
        rope_kinds=("default", "linear"),
        local_rope=True,
        windows="pattern",
        defaults={
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        refused=(
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "use_bidirectional_attention",
        ),
        with_images=("Gemma3ForConditionalGeneration", "gemma3"),
    ),
    Family(
        architecture="Olmo2ForCausalLM",
        model_type="olmo2",
        qkv_bias=False,
        bias_keys=_ATTENTION_BIAS,
        layer_norms=LayerNorms(
            None, "post_attention_layernorm", None, "post_feedforward_layernorm"
        ),
        wide_norms=True,
        qk_norm="all",
    ),
)
FAMILIES: dict[str, Family] = {family.architecture: family for family in _ROWS}
_BY_NAME = {
    name: family
    for family in _ROWS
    for name in (family.architecture, family.model_type, *family.with_images)
}


def named(name: str) -> Family:
    """Returns the family of an `architectures` entry or a `model_type`.

    Raises ValueError, with the names of the families and the nearest, if there is none.
    """
    if name not in _BY_NAME:
        *first, last = FAMILIES
        raise ValueError(
            f"architecture {name!r} is not supported: only {', '.join(first)} and {last}"
            f" are{_nearest(name)}"
        )
    return _BY_NAME[name]


def _nearest(name: str) -> str:
    """Returns which supported name is most like `name`, as the end of a message; "" for none."""
    stems = {known.removesuffix("ForCausalLM").lower(): known for known in _BY_NAME}
    stem = name.removesuffix("ForCausalLM").lower()
    found = difflib.get_close_matches(stem, stems, 1, 0.5)
    return f"; the nearest by name is {_BY_NAME[stems[found[0]]].architecture}" if found else ""


def _name(hf: dict) -> str:
    """Returns `architectures[0]` of a config.json, or else its `model_type`."""
    names = hf.get("architectures") or []
    return str(names[0]) if names else str(hf.get("model_type"))


def of_config(hf: dict) -> Family:
    """Returns the family that a config.json names, by `architectures` or else by `model_type`.

    Raises ValueError if the family is not in the table. The caller checks that `architectures` is
    a list or absent.
    """
    return named(_name(hf))


def reads_images(hf: dict) -> bool:
    """Whether a config.json is of a model that reads images, with a text model in it."""
    name = _name(hf)
    return name in _BY_NAME and name in _BY_NAME[name].with_images
