"""ModelConfig and rope against published config.json files and against their formulas."""

import dataclasses
import json
import math

import numpy as np
import pytest

from powerjax.models import ModelConfig
from powerjax.models.layout import tensors
from powerjax.models.rope import cos_sin, inverse_frequencies
from tests.golden import cases
from tests.models import published


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
    parameters["rope_type"] = parameters.pop("type", parameters["rope_type"])
    parameters["rope_theta"] = hf.pop("rope_theta")
    if "partial_rotary_factor" in hf:
        parameters["partial_rotary_factor"] = hf.pop("partial_rotary_factor")
    if parameters["rope_type"] == "longrope":
        parameters["original_max_position_embeddings"] = hf.pop("original_max_position_embeddings")
    if "rope_local_base_freq" in hf:
        local = {"rope_type": "default", "rope_theta": hf.pop("rope_local_base_freq")}
        parameters = {"full_attention": parameters, "sliding_attention": local}
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
        ({"layer_types": ["full_attention"] * 4}, "layer_types has 4 entries for 3 layers"),
    ],
)
def test_refusals(change, message, case="qwen2_tied"):
    with pytest.raises(ValueError, match=message) as caught:
        ModelConfig.from_hf(cases.CASES[case] | change)
    assert "\n" not in str(caught.value)


_SCALED = cases.CASES["llama3"]["rope_scaling"]


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("llama3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' is not .*Llama"),
        ("llama3", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ("llama3", {"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling has no factor"),
        ("llama3", {"rope_scaling": _SCALED | {"high_freq_factor": 0.1}}, "high_freq_factor is"),
        ("llama3", {"rope_scaling": _SCALED | {"factor": "8"}}, "factor is '8'"),
        ("llama3", {"attention_bias": 1}, "attention_bias is 1"),
        ("llama3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' is not .*Qwen3"),
        ("qwen3", {"quantization_config": {"quant_method": "fp8"}}, "'fp8'"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
        ("gemma3", {"sliding_window": None}, "no sliding_window"),
        ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("gemma3", {"rope_parameters": {"rope_theta": 1e6}}, "rope_parameters is"),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "'linear' of sliding_attention layers",
        ),
        (
            "gemma3",
            {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": "no"},
            "text_config is 'no'",
        ),
    ],
)
def test_refusals_of_a_family(case, change, message):
    test_refusals(change, message, case)


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


def test_the_text_part_of_a_gemma_that_reads_images():
    text = cases.CASES["gemma3"] | {"architectures": None, "model_type": "gemma3_text"}
    hf = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}
    config = ModelConfig.from_hf(hf | {"text_config": text})
    assert config == ModelConfig.from_hf(cases.CASES["gemma3"])
    assert config == ModelConfig.from_hf({"model_type": "gemma3", "text_config": text})
    with pytest.raises(ValueError, match="quantised"):
        whole = hf | {"quantization_config": {"quant_method": "gptq"}}
        ModelConfig.from_hf(whole | {"text_config": text})


@pytest.mark.parametrize(
    ("name", "parameters", "facts"),
    [  # numbers of parameters as the cards have them; of Gemma 3, its report, without images
        ("Qwen3-8B", 8_190_735_360, {"head_dim": 128, "qkv_bias": False, "sliding_window": None}),
        ("Llama-3.1-8B", 8_030_261_248, {"head_dim": 128, "max_position_embeddings": 131_072}),
        ("gemma-3-12b", 11_766_034_176, {"head_dim": 256, "query_factor": 1.0, "full_layers": ()}),
    ],
)
def test_published_configs_of_other_families(name, parameters, facts):
    config = ModelConfig.from_hf(published.CONFIGS[name])
    assert sum(math.prod(tensor.shape) for tensor in tensors(config).values()) == parameters
    if name.startswith("gemma"):
        facts = facts | {"full_layers": tuple(range(5, 48, 6)), "sliding_window": 1024}
        assert config.local_rope.theta == 1e4 and config.tie_word_embeddings
    assert {field: getattr(config, field) for field in facts} == facts
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_check_length():
    config = ModelConfig.from_hf(cases.CASES["phi3_default"] | {"sliding_window": 20})
    config.check_length(256)  # a window limits no length
    with pytest.raises(ValueError, match=r"257 tokens.*context of 256"):
        config.check_length(257)


def test_llama3_frequencies_are_those_of_the_formula():
    """The wavelengths of Llama-3.1-8B lie below, between and above its two bounds."""
    config = ModelConfig.from_hf(published.CONFIGS["Llama-3.1-8B"])
    expected = []
    for i in range(64):
        frequency = 500_000.0 ** (-i / 64)
        wavelength = 2 * math.pi / frequency
        s = (8192 / wavelength - 1) / (4 - 1)
        low = frequency / 8
        between = (1 - s) * low + s * frequency
        expected.append(low if wavelength > 8192 else frequency if wavelength < 2048 else between)
    np.testing.assert_allclose(inverse_frequencies(config), expected, rtol=2e-6)


def test_linear_frequencies_and_those_of_sliding_layers():
    config = ModelConfig.from_hf(cases.CASES["gemma3"])
    exponents = -(np.arange(0, 12, 2) / 12)
    np.testing.assert_allclose(inverse_frequencies(config), 1e6**exponents / 8, rtol=1e-6)
    np.testing.assert_allclose(inverse_frequencies(config, local=True), 1e4**exponents, rtol=1e-6)


def test_longrope_frequencies_and_scaling():
    config = ModelConfig.from_hf(cases.CASES["phi3_longrope_long"])
    plain = 10_000.0 ** -(np.arange(0, 12, 2) / 12)
    for long, factors in ((False, config.rope.short_factor), (True, config.rope.long_factor)):
        np.testing.assert_allclose(inverse_frequencies(config, long), plain / factors, rtol=1e-6)
        cos, sin = cos_sin(np.array([[3, 40]]), config, long)
        scale = math.sqrt(1 + math.log(16) / math.log(16))
        np.testing.assert_allclose(cos**2 + sin**2, scale**2, rtol=1e-5)
