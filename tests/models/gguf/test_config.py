"""GGUF metadata as the dict of a config.json, for plain data of the four architectures."""

import numpy as np
import pytest

from powerjax.models import gguf
from powerjax.models.gguf import config
from tests.models.gguf import files


def _read(architecture, *, shapes=None, factors=None, **changes):
    """Returns the config of the test file's metadata, with keys of the architecture changed."""
    metadata = files.metadata(architecture)
    for key, value in changes.items():
        metadata[f"{architecture}.{key.replace('__', '.')}"] = value
    shapes = {"token_embd.weight": (61, 256), "output.weight": (61, 256)} | (shapes or {})
    return config.hf_config(metadata, shapes, factors)


@pytest.mark.parametrize("architecture", files.CONFIGS)
def test_a_file_s_config_is_that_of_the_folder_it_was_made_from(architecture, tmp_path):
    files.write(tmp_path / "m.gguf", architecture)
    read, expected = gguf.read_config(tmp_path / "m.gguf"), files.CONFIGS[architecture]
    unset = {key for key, value in read.items() if value is None} - expected.keys()
    assert {key: value for key, value in read.items() if key not in unset} == expected
    assert unset <= {"rope_scaling", "bos_token_id", "eos_token_id"}


def test_defaults_of_what_old_files_leave_out():
    metadata = files.metadata("llama")
    for key in ("head_count_kv", "key_length", "value_length"):
        del metadata[f"llama.attention.{key}"]
    del metadata["llama.rope.freq_base"]
    read = config.hf_config(metadata, {"token_embd.weight": (61, 256)})
    assert (read["num_key_value_heads"], read["head_dim"], read["rope_theta"]) == (4, 64, 10_000)
    assert read["tie_word_embeddings"] and read["rope_scaling"] is None


def test_biases_windows_and_rotated_parts_are_taken_from_the_file():
    read = _read("llama", shapes={"blk.0.attn_q.bias": (256,)}, attention__sliding_window=4096)
    assert read["attention_bias"] and not read["mlp_bias"]
    assert read["architectures"] == ["MistralForCausalLM"] and read["sliding_window"] == 4096
    assert _read("llama", rope__dimension_count=32)["partial_rotary_factor"] == 0.5
    assert "partial_rotary_factor" not in _read("llama", rope__dimension_count=64)
    assert _read("qwen2", attention__sliding_window=4096)["sliding_window"] is None


def test_rotary_scaling_by_keys():
    linear = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    assert _read("llama", **linear)["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert _read("llama", rope__scaling__type="none")["rope_scaling"] is None
    yarn = linear | {"rope__scaling__type": "yarn", "rope__scaling__original_context_length": 99}
    assert _read("qwen2", **yarn)["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 99,
    }


@pytest.mark.parametrize(("factor", "head_dim"), [(8.0, 128), (32.0, 64)])
def test_llama_3_scaling_is_recognised_by_its_factors(factor, head_dim):
    scaling = files.CONFIGS["llama"]["rope_scaling"] | {"factor": factor}
    hf = {"rope_scaling": scaling, "head_dim": head_dim, "rope_theta": 500_000.0}
    factors = files.rope_freqs(hf)
    assert config.llama3_scaling(factors, 500_000.0, head_dim) == scaling
    assert _read("llama", factors=np.ones(32, np.float32))["rope_scaling"] is None
    factors[5] *= 1.1
    with pytest.raises(ValueError, match=r"rope_freqs.weight that is not the rotary scaling"):
        config.llama3_scaling(factors, 500_000.0, head_dim)


def test_gemma_3_layers_and_scales():
    assert _read("gemma3", block_count=18)["layer_types"].count("full_attention") == 3
    large = _read("gemma3", block_count=62, embedding_length=5376, attention__head_count=32)
    assert large["query_pre_attn_scalar"] == 168  # D / N, and not H, in the 27B
    pattern = _read("gemma3", attention__sliding_window_pattern=[True, False] * 3)
    assert pattern["layer_types"] == ["sliding_attention", "full_attention"] * 3
    none = _read("gemma3", attention__sliding_window=0)
    assert none["sliding_window"] is None and set(none["layer_types"]) == {"full_attention"}
    assert _read("gemma3", final_logit_softcapping=30.0)["final_logit_softcapping"] == 30.0


def test_numbers_are_as_config_json_has_them():
    """GGUF has float32, and 1e-6 there is 9.999999974752427e-07."""
    assert config.shortest(float(np.float32(1e-6))) == 1e-6
    assert _read("qwen2")["rms_norm_eps"] == 1e-6


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"eos_token_id": 2}, (2, 0)),
        ({"eos_token_id": 0}, (0,)),
        ({"eos_token_id": 0, "eot_token_id": 2, "eom_token_id": 3}, (0, 2, 3)),
        ({}, (0,)),
    ],
)
def test_all_ends_are_stop_ids(ids, expected):
    metadata = {f"tokenizer.ggml.{key}": value for key, value in ids.items()}
    metadata["tokenizer.ggml.tokens"] = ["<|endoftext|>", "</s>", "<|im_end|>", "x"]
    metadata["tokenizer.ggml.token_type"] = [3, 1, 3, 1]  # this </s> is an ordinary token
    assert gguf.stop_ids(metadata) == expected


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"block_count": None}, "lacks llama.block_count"),
        ({"embedding_length": "x"}, "llama.embedding_length 'x'"),
        ({"expert_count": 8}, "mixture of 8 experts"),
        ({"logit_scale": 0.5}, "has llama.logit_scale, which is not supported"),
        ({"attention__causal": False}, "attention in both directions"),
        ({"attention__value_length": 128}, "keys of 64 numbers per head and values of 128"),
        ({"attention__head_count": [4, 2]}, "llama.attention.head_count that differs"),
    ],
)
def test_what_is_not_read_is_named(changes, part):
    with pytest.raises(ValueError, match=part):
        _read("llama", **changes)


def test_a_list_of_one_value_per_layer_counts_as_that_value():
    assert _read("llama", feed_forward_length=[256, 256])["intermediate_size"] == 256
