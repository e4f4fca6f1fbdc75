"""ModelConfig: what a Hugging Face config.json says, in one frozen dataclass.

Reads the key names of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and of
transformers 5 (`rope_parameters`, `dtype`). Anything that would change the mathematics and is not
supported is refused here, by name; nothing is ignored in silence.
"""

import dataclasses
import math

ARCHITECTURES = ("Qwen2ForCausalLM", "Phi3ForCausalLM")

_NEEDED_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding. `attention_factor` multiplies cos and sin (1 for the default kind)."""

    theta: float = 10_000.0
    kind: str = "default"
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0
    rotary_fraction: float = 1.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and constants of a Qwen2 or Phi3 decoder. Hashable, so jit may take it as static."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    architecture: str = "Qwen2ForCausalLM"
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = RopeConfig()
    max_position_embeddings: int = 32_768
    tie_word_embeddings: bool = False
    qkv_bias: bool = True
    sliding_window: int | None = None
    initializer_range: float = 0.02

    @classmethod
    def from_hf(cls, hf: dict) -> "ModelConfig":
        """From the dict of a config.json; ValueError names what is missing or unsupported."""
        architecture = _architecture(hf)
        missing = [key for key in _NEEDED_KEYS if hf.get(key) is None]
        if missing:
            raise ValueError(
                f"config.json lacks {', '.join(missing)}: take it again from the model's page"
            )
        _check_sizes(hf)
        if hf.get("hidden_act", "silu") != "silu":
            raise ValueError(f"hidden_act {hf['hidden_act']!r} is not supported, only 'silu'")
        if hf.get("quantization_config"):
            method = dict(hf["quantization_config"]).get("quant_method", "of an unnamed kind")
            raise ValueError(
                f"quantised weights ({method}) are not supported: take the model itself"
            )
        if hf.get("dual_chunk_attention_config"):
            raise ValueError(
                "dual chunk attention is not supported: take the model without a context of 1M"
            )
        num_heads, hidden_size = hf["num_attention_heads"], hf["hidden_size"]
        num_kv_heads = hf.get("num_key_value_heads") or num_heads
        head_dim = hf.get("head_dim") or hidden_size // num_heads
        if num_heads % num_kv_heads:
            raise ValueError(
                f"num_attention_heads {num_heads} is no multiple of "
                f"num_key_value_heads {num_kv_heads}: config.json is damaged"
            )
        return cls(
            architecture=architecture,
            vocab_size=hf["vocab_size"],
            hidden_size=hidden_size,
            intermediate_size=hf["intermediate_size"],
            num_layers=hf["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            rms_norm_eps=hf["rms_norm_eps"],
            rope=_rope(hf, architecture, head_dim),
            max_position_embeddings=hf["max_position_embeddings"],
            tie_word_embeddings=bool(hf.get("tie_word_embeddings", False)),
            qkv_bias=architecture == "Qwen2ForCausalLM",
            sliding_window=_sliding_window(hf, architecture),
            initializer_range=hf.get("initializer_range", 0.02),
        )

    def to_hf(self) -> dict:
        """The config.json of this model, with the key names transformers 4 and 5 both read."""
        hf = {
            "architectures": [self.architecture],
            "model_type": {"Qwen2ForCausalLM": "qwen2", "Phi3ForCausalLM": "phi3"}[
                self.architecture
            ],
            "hidden_act": "silu",
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
            "rope_theta": self.rope.theta,
        }
        if self.architecture == "Qwen2ForCausalLM":
            hf["use_sliding_window"] = self.sliding_window is not None
            hf["max_window_layers"] = self.num_layers if self.sliding_window is None else 0
        else:
            # Phi3Config's own defaults (32000) may lie outside a small vocabulary.
            hf |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        if self.rope.rotary_fraction != 1.0:
            hf["partial_rotary_factor"] = self.rope.rotary_fraction
        if self.rope.kind == "longrope":
            hf["original_max_position_embeddings"] = self.rope.original_max_position_embeddings
            hf["rope_scaling"] = {
                "type": "longrope",
                "short_factor": list(self.rope.short_factor),
                "long_factor": list(self.rope.long_factor),
                "attention_factor": self.rope.attention_factor,
            }
        return hf

    def check_length(self, total_length: int) -> None:
        """Refuses a run whose longest sequence (prompt and completion) the model cannot hold."""
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
        """Whether a run of this total length takes longrope's long factors: one choice a run."""
        return (
            self.rope.kind == "longrope"
            and total_length > self.rope.original_max_position_embeddings
        )


def _architecture(hf: dict) -> str:
    names = hf.get("architectures") or []
    if not names:
        by_type = {"qwen2": "Qwen2ForCausalLM", "phi3": "Phi3ForCausalLM"}
        names = [by_type.get(hf.get("model_type"), str(hf.get("model_type")))]
    if names[0] not in ARCHITECTURES:
        raise ValueError(
            f"architecture {names[0]!r} is not supported: only {' and '.join(ARCHITECTURES)} are"
        )
    return names[0]


def _check_sizes(hf: dict) -> None:
    sizes = [key for key in _NEEDED_KEYS if key != "rms_norm_eps"]
    for key in (*sizes, "num_key_value_heads", "head_dim"):
        value = hf.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(
                f"{key} is {value!r}, not a positive whole number: config.json is damaged"
            )


def _rope_parameters(hf: dict) -> dict:
    """transformers 5 may give them for each type of layer; those have to be alike."""
    parameters = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    if not nested:
        return parameters
    if len(nested) < len(parameters) or any(value != nested[0] for value in nested):
        kinds = ", ".join(parameters)
        raise ValueError(f"rope_parameters that differ between layers ({kinds}) are not supported")
    return dict(nested[0])


def _rope(hf: dict, architecture: str, head_dim: int) -> RopeConfig:
    parameters = _rope_parameters(hf)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if architecture == "Phi3ForCausalLM" and kind in ("su", "yarn"):
        kind = "longrope"  # as the first Phi-3 checkpoints called it
    theta = float(parameters.get("rope_theta") or hf.get("rope_theta") or 10_000.0)
    fraction = float(
        parameters.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1.0
    )
    if kind == "default":
        return RopeConfig(theta=theta, rotary_fraction=fraction)
    unread = {"short_mscale", "long_mscale"} & parameters.keys()
    if kind != "longrope" or unread:
        what = f"rope_type {kind!r}" if kind != "longrope" else f"longrope with {sorted(unread)}"
        raise ValueError(f"{what} is not supported, only 'default' and plain 'longrope'")
    max_length = hf["max_position_embeddings"]
    original = (
        hf.get("original_max_position_embeddings")
        or parameters.get("original_max_position_embeddings")
        or (4096 if architecture == "Phi3ForCausalLM" else max_length)
    )
    num_frequencies = int(head_dim * fraction) // 2
    for key in ("short_factor", "long_factor"):
        if len(parameters.get(key) or ()) != num_frequencies:
            raise ValueError(
                f"longrope {key} has {len(parameters.get(key) or ())} entries, "
                f"{num_frequencies} are needed: config.json is damaged"
            )
    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:
        scale = parameters.get("factor") or max_length / original
        attention_factor = (
            math.sqrt(1.0 + math.log(scale) / math.log(original)) if scale > 1.0 else 1.0
        )
    return RopeConfig(
        theta=theta,
        kind="longrope",
        short_factor=tuple(float(x) for x in parameters["short_factor"]),
        long_factor=tuple(float(x) for x in parameters["long_factor"]),
        original_max_position_embeddings=int(original),
        attention_factor=float(attention_factor),
        rotary_fraction=fraction,
    )


def _sliding_window(hf: dict, architecture: str) -> int | None:
    """The window, if it is in force on any layer (Qwen2 carries one that usually is not)."""
    window = hf.get("sliding_window")
    if architecture == "Phi3ForCausalLM" or window is None:
        return window
    if not hf.get("use_sliding_window", False):
        return None
    layer_types = hf.get("layer_types")
    if layer_types is not None:
        return window if "sliding_attention" in layer_types else None
    return window if hf.get("max_window_layers", 28) < hf["num_hidden_layers"] else None
