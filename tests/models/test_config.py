"""ModelConfig and rope against published config.json files and against their formulas."""

import dataclasses
import json
import math

import numpy as np
import pytest

from powerjax.models import ModelConfig
from powerjax.models.rope import cos_sin, inverse_frequencies
from tests.golden import cases


def _read(data_dir, name):
    return json.loads((data_dir / "configs" / f"{name}.config.json").read_text())


def test_published_qwen(data_dir):
    config = ModelConfig.from_hf(_read(data_dir, "Qwen2.5-7B"))
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (28, 28, 4)
    assert (config.head_dim, config.vocab_size, config.rope.theta) == (128, 152_064, 1e6)
    assert config.qkv_bias and not config.tie_word_embeddings
    assert config.sliding_window is None  # it has one, with use_sliding_window false
    assert ModelConfig.from_hf(_read(data_dir, "Qwen2.5-0.5B")).tie_word_embeddings


def test_published_phi(data_dir):
    config = ModelConfig.from_hf(_read(data_dir, "Phi-3.5-mini-instruct"))
    assert (config.head_dim, config.num_kv_heads, config.qkv_bias) == (96, 32, False)
    assert config.rope.kind == "longrope" and len(config.rope.long_factor) == 48
    expected = math.sqrt(1 + math.log(131_072 / 4096) / math.log(4096))
    assert config.rope.attention_factor == pytest.approx(expected, rel=1e-12)
    assert not config.long_context(4096) and config.long_context(4097)
    config.check_length(131_072)


@pytest.mark.parametrize("case", cases.CASES)
def test_transformers_5_key_names(case):
    hf = dict(cases.CASES[case])
    expected = ModelConfig.from_hf(hf)
    parameters = {"rope_type": "default", **hf.pop("rope_scaling", {})}
    parameters["rope_type"] = parameters.pop("type", "default")
    parameters["rope_theta"] = hf.pop("rope_theta")
    if "partial_rotary_factor" in hf:
        parameters["partial_rotary_factor"] = hf.pop("partial_rotary_factor")
    if parameters["rope_type"] == "longrope":
        parameters["original_max_position_embeddings"] = hf.pop("original_max_position_embeddings")
    assert ModelConfig.from_hf(hf | {"rope_parameters": parameters}) == expected


def test_rope_parameters_by_type_of_layer_count_if_they_are_alike():
    rope = {"rope_type": "default", "rope_theta": 5e5}
    hf = cases.CASES["qwen2_tied"] | {"rope_parameters": {"full": rope, "sliding": dict(rope)}}
    assert ModelConfig.from_hf(hf).rope.theta == 5e5


@pytest.mark.parametrize("case", cases.CASES)
def test_round_trip(case):
    config = ModelConfig.from_hf(cases.CASES[case])
    assert ModelConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config
    assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vocab_size": "97"}, "vocab_size is '97'"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "a\nb"}}, "quantised"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, "dual chunk"),
        (
            {"rope_parameters": {"full": {"rope_theta": 1e4}, "sliding": {"rope_theta": 1e6}}},
            "full, sliding",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "short_factor"),
        (
            {"rope_scaling": {"rope_type": "longrope", "long_mscale": 1.2}},
            "long_mscale",
        ),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        ModelConfig.from_hf(cases.CASES["qwen2_tied"] | change)
    assert "\n" not in str(caught.value)


NAN, INFINITE = float("nan"), float("inf")
_LONGROPE = cases.CASES["phi3_longrope_long"]["rope_scaling"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rms_norm_eps", value) for value in ("1e-06", NAN, INFINITE, True, -1e-6, 0, 10**400)),
        *(("vocab_size", value) for value in (61.0, True, "61", NAN, -1)),
        *(("hidden_size", value) for value in (32.0, -32)),
        *(("num_hidden_layers", value) for value in (True, 3.0)),
        *(("max_position_embeddings", value) for value in ("256", 256.5)),
        *(("num_key_value_heads", value) for value in ("2", 0, False)),
        *(("head_dim", value) for value in ("8", 8.0)),
        *(("rope_theta", value) for value in ("1e6", NAN, 0, -1.0, True)),
        *(("initializer_range", value) for value in ("0.02", NAN, INFINITE, -0.1, True)),
        *(("partial_rotary_factor", value) for value in ("0.5", NAN, 2.0, -0.5)),
        *(("sliding_window", value) for value in ("8", 8.5, -8, True)),
        *(("max_window_layers", value) for value in ("2", 1.5, -1)),
        *(("use_sliding_window", value) for value in ("false", 1)),
        *(("tie_word_embeddings", value) for value in ("false", 0, "no")),
        ("layer_types", "full_attention"),
        ("architectures", "Qwen2ForCausalLM"),
        ("rope_scaling", "linear"),
        ("rope_parameters", [1]),
        ("original_max_position_embeddings", "4096"),
    ],
)
def test_a_damaged_value_is_named_with_what_it_is(key, value):
    with pytest.raises(ValueError, match=key) as caught:
        ModelConfig.from_hf(cases.CASES["qwen2_tied"] | {key: value})
    message = str(caught.value)
    assert "config.json is damaged" in message and "\n" not in message and len(message) < 200
    assert len(repr(value)) > 30 or repr(value) in message


@pytest.mark.parametrize("value", [1e-40, 4e38, 10**400, math.inf])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_number_out_of_float32s_range_is_called_that(key, value):
    with pytest.raises(ValueError, match=rf"{key} is .*float32 holds, 1e-37 to 3e\+38"):
        ModelConfig.from_hf(cases.CASES["qwen2_tied"] | {key: value})


@pytest.mark.parametrize("holder", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rope_theta", value) for value in ("10000", NAN, -1, True)),
        *(("partial_rotary_factor", value) for value in (NAN, "1", 0)),
        *(("factor", value) for value in ("32", NAN, 0)),
        *(("attention_factor", value) for value in ("1.2", INFINITE, -1.0)),
        *(("short_factor", value) for value in (3.0, "1.0", [1.0, "1"] * 3, [NAN] * 6, [0] * 6)),
        *(("long_factor", value) for value in (1, [True] * 6, [-1.0] * 6)),
        *(("original_max_position_embeddings", value) for value in (16.0, "16", 1, NAN)),
    ],
)
def test_a_damaged_value_of_the_rope_is_named(holder, key, value):
    hf = {k: v for k, v in cases.CASES["phi3_longrope_long"].items() if k != "rope_scaling"}
    del hf["original_max_position_embeddings"], hf["rope_theta"]
    with pytest.raises(ValueError, match=rf"{key}.*config\.json is damaged"):
        ModelConfig.from_hf(hf | {holder: _LONGROPE | {key: value}})


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_unknown_settings_of_the_rope_are_no_layers(key):
    hf = {k: v for k, v in cases.CASES["qwen2_tied"].items() if k != "rope_theta"}
    known = {"rope_theta": 5000, "rope_type": "default"}
    config = ModelConfig.from_hf(hf | {key: known | {"note": {"by": "me"}, "mrope_section": [1]}})
    assert config == ModelConfig.from_hf(hf | {key: known})


def test_rope_scaling_comes_before_rope_parameters_as_in_transformers():
    hf = cases.CASES["qwen2_tied"] | {"rope_theta": 77.0}
    both = {
        "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"},
        "rope_scaling": {"type": "default"},
    }
    assert ModelConfig.from_hf(hf | both).rope.theta == 77.0
    assert ModelConfig.from_hf(hf | both | {"rope_scaling": None}).rope.theta == 5e6


def test_a_null_stands_for_the_default():
    hf = cases.CASES["qwen2_tied"]
    nulls = {"head_dim": None, "initializer_range": None, "rope_scaling": None}
    assert ModelConfig.from_hf(hf | nulls) == ModelConfig.from_hf(hf)


@pytest.mark.parametrize(
    ("change", "window"),
    [
        ({"use_sliding_window": True, "max_window_layers": 1}, 8),
        ({"use_sliding_window": True, "max_window_layers": 3}, None),
        ({"use_sliding_window": True, "layer_types": ["full_attention"] * 3}, None),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention"] * 3}, 8),
    ],
)
def test_qwen_sliding_window_in_force(change, window):
    assert ModelConfig.from_hf(cases.CASES["qwen2_tied"] | change).sliding_window == window


def test_a_window_of_zero_that_is_not_in_use_is_none():
    hf = cases.CASES["qwen2_tied"] | {"sliding_window": 0}
    assert ModelConfig.from_hf(hf | {"use_sliding_window": False}).sliding_window is None
    with pytest.raises(ValueError, match="sliding_window is 0"):
        ModelConfig.from_hf(hf | {"use_sliding_window": True, "max_window_layers": 0})
    with pytest.raises(ValueError, match="sliding_window is 0"):
        ModelConfig.from_hf(cases.CASES["phi3_default"] | {"sliding_window": 0})


def test_check_length():
    config = ModelConfig.from_hf(cases.CASES["phi3_default"] | {"sliding_window": 20})
    config.check_length(256)  # a window limits no length
    with pytest.raises(ValueError, match=r"257 tokens.*context of 256"):
        config.check_length(257)


def test_longrope_frequencies_and_scaling():
    config = ModelConfig.from_hf(cases.CASES["phi3_longrope_long"])
    plain = 10_000.0 ** -(np.arange(0, 12, 2) / 12)
    for long, factors in ((False, config.rope.short_factor), (True, config.rope.long_factor)):
        np.testing.assert_allclose(inverse_frequencies(config, long), plain / factors, rtol=1e-6)
        cos, sin = cos_sin(np.array([[3, 40]]), config, long)
        scale = math.sqrt(1 + math.log(16) / math.log(16))
        np.testing.assert_allclose(cos**2 + sin**2, scale**2, rtol=1e-5)
