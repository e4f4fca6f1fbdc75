"""ModelConfig: what a Hugging Face config.json says, in one frozen dataclass.

Reads the key names of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and of
transformers 5 (`rope_parameters`, `dtype`). A setting that would change the mathematics of a
supported family, and is not supported, is refused here by name. Settings of other families, such as
Llama's `attention_bias`, are ignored. What differs between families is in the table of families.py.
"""

import dataclasses
from typing import Any

from powerjax.models import families, rope_config
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
_LAYER_TYPES = ("full_attention", "sliding_attention")
_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a decoder. It is hashable, so jit may take it as a static argument.

    architecture: names the model's family, a row of the table in families.py.
    max_position_embeddings: the longest sequence, prompt and completion, in tokens.
    qkv_bias: whether q_proj, k_proj and v_proj have a bias; `from_hf` takes it from the family.
    sliding_window: the window in tokens, if it is in force on any layer; None otherwise.
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

    @property
    def family(self) -> Family:
        """The row of the table in families.py that `architecture` names."""
        return families.named(self.architecture)

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> "ModelConfig":
        """Reads the dict of a config.json. Raises ValueError that names what is wrong in it."""
        family = _family(hf)
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
            qkv_bias=family.qkv_bias,
            sliding_window=_sliding_window(hf, family),
            initializer_range=first_given(
                number(hf, "initializer_range", file=_FILE, zero=True), 0.02
            ),
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns this model's config.json, with key names that transformers 4 and 5 both read."""
        hf = {
            "architectures": [self.architecture],
            "model_type": self.family.model_type,
            "hidden_act": self.family.activation,
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
            "sliding_window": self.sliding_window,
            **rope_config.as_hf(self.rope),
            **dict.fromkeys(self.family.null_tokens),
        }
        if self.family.window_switch:
            hf["use_sliding_window"] = self.sliding_window is not None
            hf["max_window_layers"] = self.num_layers if self.sliding_window is None else 0
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
        if self.sliding_window is not None and total_length > self.sliding_window:
            raise ValueError(
                f"{total_length} tokens (prompt and completion) are more than the model's sliding "
                f"window of {self.sliding_window}, and windowed attention is not supported: "
                "shorten the prompt or max_new_tokens"
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


def _refuse_unsupported(hf: dict[str, Any], family: Family) -> None:
    """Raises ValueError for settings that would change what the decoder computes."""
    if hf.get("hidden_act", family.activation) != family.activation:
        raise ValueError(
            f"hidden_act {hf['hidden_act']!r} is not supported, only {family.activation!r}"
        )
    if hf.get("quantization_config"):
        settings = hf["quantization_config"]
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        method = "of an unnamed kind" if method is None else repr(method)
        raise ValueError(f"quantised weights ({method}) are not supported: take the model itself")
    if hf.get("dual_chunk_attention_config"):
        raise ValueError(
            "dual chunk attention is not supported: take the model without a context of 1M"
        )


def _sliding_window(hf: dict[str, Any], family: Family) -> int | None:
    """Returns the window in tokens, or None where it is in force on no layer.

    A Qwen2 config.json names a window that usually is not in force.
    """
    in_use = not family.window_switch or switch(hf, "use_sliding_window", file=_FILE)
    window = whole_number(hf, "sliding_window", file=_FILE, least=1 if in_use else 0)
    # Layers from `max_window_layers` on have the window; transformers' default is 28.
    first_window_layer = first_given(whole_number(hf, "max_window_layers", file=_FILE, least=0), 28)
    layer_types = hf.get("layer_types")
    if not isinstance(layer_types, list | None):
        raise damaged(_FILE, "layer_types", layer_types, "a list")
    unread = [kind for kind in layer_types or () if kind not in _LAYER_TYPES]
    if unread:
        raise ValueError(
            f"layer_types has {unread[0]!r}, only {' and '.join(_LAYER_TYPES)} are read"
        )
    if not family.window_switch or window is None:
        return window
    if not in_use:
        return None
    if layer_types is not None:
        return window if "sliding_attention" in layer_types else None
    return window if first_window_layer < hf["num_hidden_layers"] else None
