"""Which layers have a sliding window, as a config.json says it and transformers reads it."""

import pytest

from powerjax.models import ModelConfig
from tests.golden import cases


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


@pytest.mark.parametrize(
    ("case", "change", "windows"),
    [
        ("qwen2_window", {}, [None, 8, 8]),
        ("qwen2_tied", {}, [None, None, None]),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8}, [None, None]),
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            [8, None],
        ),
        ("phi3_default", {"sliding_window": 8}, [8, 8]),
        ("mistral", {}, [None, None]),
        ("mistral_window", {}, [8, 8]),
        ("gemma3", {}, [8, 8, 8, 8, 8, None]),
        ("gemma3", {"sliding_window_pattern": 2}, [8, None, 8, None, 8, None]),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, [None] * 6),
        ("llama3", {"sliding_window": 8}, [None, None]),  # transformers does not read it there
    ],
)
def test_each_layer_has_its_window_and_keeps_it_in_the_file(case, change, windows):
    config = ModelConfig.from_hf(cases.CASES[case] | change)
    assert [config.window(i) for i in range(config.num_layers)] == windows
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_a_mistral_without_a_word_on_windows_has_that_of_transformers():
    hf = {k: v for k, v in cases.CASES["mistral"].items() if k != "sliding_window"}
    assert ModelConfig.from_hf(hf).sliding_window == 4096


def test_a_window_of_zero_that_is_not_in_use_is_none():
    hf = cases.CASES["qwen2_tied"] | {"sliding_window": 0}
    assert ModelConfig.from_hf(hf | {"use_sliding_window": False}).sliding_window is None
    with pytest.raises(ValueError, match="sliding_window is 0"):
        ModelConfig.from_hf(hf | {"use_sliding_window": True, "max_window_layers": 0})
    with pytest.raises(ValueError, match="sliding_window is 0"):
        ModelConfig.from_hf(cases.CASES["phi3_default"] | {"sliding_window": 0})
