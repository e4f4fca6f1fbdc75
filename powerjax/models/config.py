"""ModelConfig: what a Hugging Face config.json says, in one frozen dataclass.

Reads the key names of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and of
transformers 5 (`rope_parameters`, `dtype`). A setting that would change the mathematics of a
supported family, and is not supported, is refused here by name. Settings that a family does not
have, such as Llama's `attention_bias` in a Qwen2, are ignored. What differs between families is in
the table of families.py.
"""

import dataclasses
from typing import Any

from powerjax.models import families, rope_config, window_config
from powerjax.models.families import Family
from powerjax.models.json_file import damaged, number, switch, whole_number
from powerjax.models.rope_config import RopeConfig, first_given

__all__ = ["ModelConfig", "RopeConfig"]

_NEEDED_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_SIZES = (*_NEEDED_KEYS[:-1], "num_key_value_heads", "head_dim")
# What a checkpoint that reads images too says about its text model outside `text_config`.
_OF_THE_WHOLE = ("quantization_config", "tie_word_embeddings")
_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a decoder. It is hashable, so jit may take it as a static argument.

    architecture: names the model's family, a row of the table in families.py.
    max_position_embeddings: the longest sequence, prompt and completion, in tokens.
    qkv_bias, o_bias, mlp_bias: whether q_proj, k_proj and v_proj have a bias, whether o_proj has,
        and whether the feed-forward's layers have; `from_hf` takes them from family and file.
    sliding_window: the window in tokens, if it is in force on any layer; None otherwise.
    full_layers: the numbers of the layers that see everything although there is a window.
    local_rope: the rotary embedding of layers with a window, where it is one of their own.
    query_pre_attn_scalar: scores are divided by its root; None stands for H.
    initializer_range: the standard deviation of random matrices.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    architecture: str = "Qwen2ForCausalLM"
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = dataclasses.field(default_factory=RopeConfig)
    max_position_embeddings: int = 32_768
    tie_word_embeddings: bool = False
    qkv_bias: bool = True
    sliding_window: int | None = None
    initializer_range: float = 0.02
    o_bias: bool = False
    mlp_bias: bool = False
    full_layers: tuple[int, ...] = ()
    local_rope: RopeConfig | None = None
    query_pre_attn_scalar: float | None = None

    @property
    def family(self) -> Family:
        """The row of the table in families.py that `architecture` names."""
        return families.named(self.architecture)

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by, beside the H^(-1/2) of every attention's scores."""
        if self.query_pre_attn_scalar is None:
            return 1.0
        return (self.head_dim / self.query_pre_attn_scalar) ** 0.5

    def window(self, layer: int) -> int | None:
        """How many tokens a token of the layer sees, itself included; None for all."""
        return None if layer in self.full_layers else self.sliding_window

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> "ModelConfig":
        """Reads the dict of a config.json. Raises ValueError that names what is wrong in it."""
        family = _family(hf)
        hf = dict(family.defaults) | (_text_part(hf) if families.reads_images(hf) else hf)
        missing = [key for key in _NEEDED_KEYS if hf.get(key) is None]
        if missing:
            raise ValueError(
                f"config.json lacks {', '.join(missing)}: take it again from the model's page"
            )
        read_sizes = {key: whole_number(hf, key, file=_FILE) for key in _SIZES}
        sizes = {key: size for key, size in read_sizes.items() if size is not None}
        _refuse_unsupported(hf, family)
        num_heads, hidden_size = sizes["num_attention_heads"], sizes["hidden_size"]
        num_kv_heads = sizes.get("num_key_value_heads", num_heads)
        head_dim = sizes.get("head_dim", hidden_size // num_heads)
        max_length = sizes["max_position_embeddings"]
        if num_heads % num_kv_heads:
            raise ValueError(
                f"num_attention_heads {num_heads} is no multiple of "
                f"num_key_value_heads {num_kv_heads}: config.json is damaged"
            )
        window, full_layers = window_config.read(hf, family)
        scalar = number(hf, "query_pre_attn_scalar", file=_FILE) if family.query_scalar else None
        scalar = None if scalar == head_dim else scalar
        return cls(
            architecture=family.architecture,
            vocab_size=sizes["vocab_size"],
            hidden_size=hidden_size,
            intermediate_size=sizes["intermediate_size"],
            num_layers=sizes["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            rms_norm_eps=first_given(number(hf, "rms_norm_eps", file=_FILE)),
            rope=rope_config.read(hf, family, head_dim, max_length),
            max_position_embeddings=max_length,
            tie_word_embeddings=switch(hf, "tie_word_embeddings", file=_FILE),
            **_biases(hf, family),
            sliding_window=window,
            full_layers=full_layers,
            local_rope=(
                rope_config.read_local(hf) if family.local_rope and window is not None else None
            ),
            query_pre_attn_scalar=scalar,
            initializer_range=first_given(
                number(hf, "initializer_range", file=_FILE, zero=True), 0.02
            ),
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns this model's config.json, with key names that transformers 4 and 5 both read."""
        hf = {
            "architectures": [self.architecture],
            "model_type": self.family.model_type,
            self.family.activation_key: self.family.activation,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            **window_config.as_hf(
                self.sliding_window, self.full_layers, self.num_layers, self.family
            ),
            **rope_config.as_hf(self.rope, self.local_rope),
            **{key: getattr(self, names[0]) for key, names in self.family.bias_keys.items()},
            **dict.fromkeys(self.family.null_tokens),
        }
        if self.family.query_scalar:
            scalar = first_given(self.query_pre_attn_scalar, float(self.head_dim))
            hf["query_pre_attn_scalar"] = int(scalar) if scalar.is_integer() else scalar
        return hf

    def check_length(self, total_length: int) -> None:
        """Raises ValueError if the model cannot hold a sequence of `total_length` tokens.

        total_length: tokens of a run's longest sequence, prompt and completion together.
        """
        if total_length > self.max_position_embeddings:
            raise ValueError(
                f"{total_length} tokens (prompt and completion) are more than the model's context "
                f"of {self.max_position_embeddings}: shorten the prompt or max_new_tokens"
            )

    def long_context(self, total_length: int) -> bool:
        """Whether a run takes longrope's long factors. The choice is made once per run.

        total_length: tokens of the run's longest sequence, prompt and completion together.
        """
        original = self.rope.original_max_position_embeddings
        return self.rope.kind == "longrope" and original is not None and total_length > original


def _family(hf: dict[str, Any]) -> Family:
    """Returns the family that a config.json names. Raises ValueError where it names none."""
    if not isinstance(hf.get("architectures") or [], list):
        raise damaged(_FILE, "architectures", hf["architectures"], "a list")
    return families.of_config(hf)


def _text_part(hf: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of the text model in that of a model that reads images."""
    text = hf.get("text_config")
    if not isinstance(text, dict):
        raise damaged(_FILE, "text_config", text, "an object")
    return {key: hf[key] for key in _OF_THE_WHOLE if key in hf} | text


def _biases(hf: dict[str, Any], family: Family) -> dict[str, bool]:
    """Returns the fields of ModelConfig that say which layers have a bias."""
    fields = {"qkv_bias": family.qkv_bias}
    for key, names in family.bias_keys.items():
        fields |= dict.fromkeys(names, switch(hf, key, file=_FILE))
    return fields


def _refuse_unsupported(hf: dict[str, Any], family: Family) -> None:
    """Raises ValueError for settings that would change what the decoder computes."""
    key = family.activation_key
    if hf.get(key, family.activation) != family.activation:
        raise ValueError(f"{key} {hf[key]!r} is not supported, only {family.activation!r}")
    for key in family.refused:
        if hf.get(key) not in (None, False):
            raise ValueError(f"{key} {hf[key]!r} is not supported for {family.architecture}")
    if hf.get("quantization_config"):
        settings = hf["quantization_config"]
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        method = "of an unnamed kind" if method is None else repr(method)
        raise ValueError(f"quantised weights ({method}) are not supported: take the model itself")
    if hf.get("dual_chunk_attention_config"):
        raise ValueError(
            "dual chunk attention is not supported: take the model without a context of 1M"
        )
