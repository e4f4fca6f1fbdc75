"""The table of model families: each row is found by its names and fits its own parameters."""

import pytest

from powerjax.models import ModelConfig, families
from powerjax.models.layout import tensors

ROWS = list(families.FAMILIES.values())


def _config(family):
    """Returns a small model of the family."""
    names = dict(architecture=family.architecture, qkv_bias=family.qkv_bias)
    return ModelConfig(97, 32, 64, 2, 4, 2, 8, **names)


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.model_type)
def test_a_row_is_found_by_either_of_its_names(family):
    by_architecture = families.of_config({"architectures": [family.architecture]})
    assert by_architecture is families.of_config({"model_type": family.model_type}) is family
    config = _config(family)
    assert config.family is family
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.model_type)
def test_fused_projections_share_a_tensor_and_divide_its_rows(family):
    config = _config(family)
    table = tensors(config)
    for block, names in (("self_attn", ("q", "k", "v")), ("mlp", ("gate", "up"))):
        parts = [table[f"layers_1/{block}/{name}_proj/kernel"] for name in names]
        fused = names in family.fused
        assert len({part.name for part in parts}) == (1 if fused else len(parts))
        stops = [part.stop for part in parts]
        assert [part.start for part in parts] == ([0, *stops[:-1]] if fused else [0] * len(parts))
        assert all(part.stop - part.start == part.shape[1] for part in parts)
    assert ("layers_0/self_attn/q_proj/bias" in table) == family.qkv_bias


@pytest.mark.parametrize(
    "hf",
    [
        {"architectures": ["LlamaForCausalLM"]},
        {"architectures": [["Qwen2ForCausalLM"]]},
        {"model_type": "llama"},
        {"model_type": ["qwen2"]},
        {},
    ],
)
def test_an_unknown_family_is_refused_by_the_names_of_the_known_ones(hf):
    with pytest.raises(ValueError, match="Qwen2ForCausalLM and Phi3ForCausalLM") as caught:
        families.of_config(hf)
    assert "\n" not in str(caught.value)
