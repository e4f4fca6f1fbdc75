"""The table of model families: each row is found by its names and fits its own parameters."""

import dataclasses

import pytest

from powerjax.models import ModelConfig, families, rope_config
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
        {"architectures": ["NoSuchForCausalLM"]},
        {"architectures": [["Qwen2ForCausalLM"]]},
        {"model_type": "no_such"},
        {"model_type": ["qwen2"]},
        {},
    ],
)
def test_an_unknown_family_is_refused_by_the_names_of_the_known_ones(hf):
    with pytest.raises(ValueError, match=r"only Qwen2ForCausalLM, .* and \w+ are(;|$)") as caught:
        families.of_config(hf)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in families.FAMILIES)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Qwen3MoeForCausalLM", "Qwen3ForCausalLM"),
        ("MinistralForCausalLM", "MistralForCausalLM"),
        ("gemma2", "Gemma3ForCausalLM"),
        ("Olmo3ForCausalLM", "Olmo2ForCausalLM"),
    ],
)
def test_an_unknown_family_is_told_the_nearest_by_name(name, nearest):
    with pytest.raises(ValueError, match=f"{name}.*are; the nearest by name is {nearest}$"):
        families.of_config({"model_type": name})


@pytest.mark.parametrize("kind", ["longrope", "llama3", "dynamic"])
def test_a_family_has_only_the_default_rope_unless_its_row_lists_another(kind):
    family = families.Family("NewForCausalLM", "new", qkv_bias=False)
    with pytest.raises(ValueError, match=f"rope_type '{kind}' is not supported"):
        rope_config.read({"rope_scaling": {"rope_type": kind}}, family, 8, 64)


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.model_type)
def test_a_rope_kind_that_is_listed_and_not_built_is_no_longrope(family):
    listed = dataclasses.replace(family, rope_kinds=(*family.rope_kinds, "dynamic"))
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
    for parameters in ({}, factors):
        hf = {"rope_scaling": {"rope_type": "dynamic", **parameters}}
        with pytest.raises(ValueError, match=r"'dynamic' .* rope_config\.read does not build it"):
            rope_config.read(hf, listed, 8, 64)
