"""ModelConfig: what a Hugging Face config.json says, in one frozen dataclass.

Reads the key names of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and of
transformers 5 (`rope_parameters`, `dtype`). Anything that would change the mathematics and is not
supported is refused here, by name; nothing is ignored in silence.
"""

import dataclasses
import math

from powerjax.models.json_file import damaged, is_positive, number, switch, whole_number

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
_SIZES = (*_NEEDED_KEYS[:-1], "num_key_value_heads", "head_dim")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_FILE = "config.json"


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
        sizes = {key: whole_number(hf, key, file=_FILE) for key in _SIZES}
        if hf.get("hidden_act", "silu") != "silu":
            raise ValueError(f"hidden_act {hf['hidden_act']!r} is not supported, only 'silu'")
        if hf.get("quantization_config"):
            settings = hf["quantization_config"]
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            method = "of an unnamed kind" if method is None else repr(method)
            raise ValueError(
                f"quantised weights ({method}) are not supported: take the model itself"
            )
        if hf.get("dual_chunk_attention_config"):
            raise ValueError(
                "dual chunk attention is not supported: take the model without a context of 1M"
            )
        num_heads, hidden_size = sizes["num_attention_heads"], sizes["hidden_size"]
        num_kv_heads = sizes["num_key_value_heads"] or num_heads
        head_dim = sizes["head_dim"] or hidden_size // num_heads
        if num_heads % num_kv_heads:
            raise ValueError(
                f"num_attention_heads {num_heads} is no multiple of "
                f"num_key_value_heads {num_kv_heads}: config.json is damaged"
            )
        return cls(
            architecture=architecture,
            vocab_size=sizes["vocab_size"],
            hidden_size=hidden_size,
            intermediate_size=sizes["intermediate_size"],
            num_layers=sizes["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            rms_norm_eps=number(hf, "rms_norm_eps", file=_FILE),
            rope=_rope(hf, architecture, head_dim),
            max_position_embeddings=sizes["max_position_embeddings"],
            tie_word_embeddings=switch(hf, "tie_word_embeddings", file=_FILE),
            qkv_bias=architecture == "Qwen2ForCausalLM",
            sliding_window=_sliding_window(hf, architecture),
            initializer_range=_first(number(hf, "initializer_range", file=_FILE, zero=True), 0.02),
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
    if not isinstance(names, list):
        raise damaged(_FILE, "architectures", names, "a list")
    if not names:
        by_type = {"qwen2": "Qwen2ForCausalLM", "phi3": "Phi3ForCausalLM"}
        model_type = str(hf.get("model_type"))
        names = [by_type.get(model_type, model_type)]
    if names[0] not in ARCHITECTURES:
        raise ValueError(
            f"architecture {names[0]!r} is not supported: only {' and '.join(ARCHITECTURES)} are"
        )
    return names[0]


def _first(*values):
    """The first that is given."""
    return next(value for value in values if value is not None)


def _rope_parameters(hf: dict) -> dict:
    """The settings of the rotary embedding, those of `rope_scaling` first, as in transformers.

    transformers 5 may give them for each type of layer; those have to be alike.
    """
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(hf.get(key), dict | None):
            raise damaged(_FILE, key, hf[key], "an object")
    parameters = dict(hf.get("rope_scaling") or hf.get("rope_parameters") or {})
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    nested = [value for value in nested if value.keys() & {"rope_theta", "rope_type", "type"}]
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
    both, max_length = (parameters, hf), hf["max_position_embeddings"]
    theta = _first(*(number(of, "rope_theta", file=_FILE) for of in both), 10_000.0)
    key = "partial_rotary_factor"
    fraction = _first(*(number(of, key, file=_FILE, most=1.0) for of in both), 1.0)
    if fraction != 1.0 and architecture == "Qwen2ForCausalLM":
        raise ValueError(
            f"partial_rotary_factor {fraction:g} is not supported for {architecture}, whose heads"
            " transformers rotates as a whole"
        )
    rotated = int(head_dim * fraction)
    if rotated < 2 or rotated % 2:
        raise ValueError(
            f"{rotated} of the {head_dim} numbers of a head would be rotated, and they are rotated"
            f" in pairs: head_dim or partial_rotary_factor is wrong, and {_FILE} damaged"
        )
    factor = number(parameters, "factor", file=_FILE)
    attention_factor = number(parameters, "attention_factor", file=_FILE)
    key = "original_max_position_embeddings"
    original = (whole_number(of, key, file=_FILE, least=2) for of in reversed(both))
    original = _first(*original, 4096 if architecture == "Phi3ForCausalLM" else max_length)
    if kind == "default":
        return RopeConfig(theta=theta, rotary_fraction=fraction)
    unread = {"short_mscale", "long_mscale"} & parameters.keys()
    if kind != "longrope" or unread:
        what = f"rope_type {kind!r}" if kind != "longrope" else f"longrope with {sorted(unread)}"
        raise ValueError(f"{what} is not supported, only 'default' and plain 'longrope'")
    scale = _first(factor, max_length / original)
    if attention_factor is None:
        attention_factor = (
            math.sqrt(1.0 + math.log(scale) / math.log(original)) if scale > 1.0 else 1.0
        )
    return RopeConfig(
        theta=theta,
        kind="longrope",
        short_factor=_factors(parameters, "short_factor", rotated // 2),
        long_factor=_factors(parameters, "long_factor", rotated // 2),
        original_max_position_embeddings=original,
        attention_factor=attention_factor,
        rotary_fraction=fraction,
    )


def _factors(parameters: dict, key: str, count: int) -> tuple[float, ...]:
    """A list of longrope: one number above 0 for each pair of rotated numbers."""
    values = _first(parameters.get(key), [])
    if not isinstance(values, list) or not all(map(is_positive, values)):
        raise damaged(_FILE, f"longrope {key}", values, "a list of numbers above 0")
    if len(values) != count:
        raise ValueError(
            f"longrope {key} has {len(values)} entries, {count} are needed: {_FILE} is damaged"
        )
    return tuple(float(x) for x in values)


def _sliding_window(hf: dict, architecture: str) -> int | None:
    """The window, if it is in force on any layer (Qwen2 carries one that usually is not)."""
    in_use = architecture == "Phi3ForCausalLM" or switch(hf, "use_sliding_window", file=_FILE)
    window = whole_number(hf, "sliding_window", file=_FILE, least=1 if in_use else 0)
    full_layers = _first(whole_number(hf, "max_window_layers", file=_FILE, least=0), 28)
    layer_types = hf.get("layer_types")
    if not isinstance(layer_types, list | None):
        raise damaged(_FILE, "layer_types", layer_types, "a list")
    others = [kind for kind in layer_types or () if kind not in _LAYER_TYPES]
    if others:
        raise ValueError(
            f"layer_types has {others[0]!r}, only {' and '.join(_LAYER_TYPES)} are read"
        )
    if architecture == "Phi3ForCausalLM" or window is None:
        return window
    if not in_use:
        return None
    if layer_types is not None:
        return window if "sliding_attention" in layer_types else None
    return window if full_layers < hf["num_hidden_layers"] else None
