"""Adapter folders with more than adapters of layers in them, and folders that are no adapter's."""

import re

import chex
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from powerjax import models
from powerjax.models import checkpoint, lora, peft
from tests.golden import cases
from tests.models import peft_folders

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
NORM = "model.layers.1.input_layernorm.weight"


def _with(tmp_path, case, tensors, **settings):
    """Writes a base and an adapter whose file holds `tensors` too; returns the base's folder.

    tensors: by name, each a function of the base's arrays.
    """
    base = cases.write_checkpoint(case, tmp_path / "base")
    peft_folders.write_adapter(tmp_path / "adapter", case, **settings)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    arrays = load_file(base / "model.safetensors")
    extra = {f"base_model.model.{name}": make(arrays) for name, make in tensors.items()}
    save_file(load_file(path) | extra, path)
    return base


@pytest.mark.parametrize(
    ("case", "tensors", "settings"),
    [
        ("qwen2_tied", {EMBEDDINGS: lambda a: a[EMBEDDINGS]}, {}),
        (
            "qwen2_tied",
            {EMBEDDINGS: lambda a: a[EMBEDDINGS], HEAD: lambda a: a[EMBEDDINGS].copy()},
            {"modules_to_save": ["embed_tokens", "lm_head"]},
        ),
        ("phi3_default", {HEAD: lambda a: a[HEAD]}, {"modules_to_save": ["lm_head"]}),
        ("qwen2_tied", {"model.embed_tokens.base_layer.weight": lambda a: a[EMBEDDINGS]}, {}),
        (
            "qwen2_tied",
            {NORM: lambda a: a[NORM]},
            {"modules_to_save": ["input_layernorm"]},
        ),
        ("qwen2_tied", {BIAS: lambda a: a[BIAS]}, {}),
    ],
)
def test_whole_tensors_that_are_the_models_own_change_nothing(case, tensors, settings, tmp_path):
    base = _with(tmp_path, case, tensors, **settings)
    peft_folders.write_adapter(tmp_path / "plain", case)
    plain = models.load(base, dtype="float32", adapter=tmp_path / "plain")
    adapted = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    chex.assert_trees_all_equal(adapted.adapter.params, plain.adapter.params)
    models.load(base, dtype="bfloat16", adapter=tmp_path / "adapter")


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_the_models_own_embeddings_rounded_are_named_and_change_nothing(dtype, tmp_path, caplog):
    rounded = {EMBEDDINGS: lambda a: a[EMBEDDINGS].astype(dtype)}
    base = _with(tmp_path, "qwen2_tied", rounded)
    models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    (line,) = [r.getMessage() for r in caplog.records if "rounded to" in r.getMessage()]
    assert EMBEDDINGS in line and str(tmp_path / "adapter") in line


@pytest.mark.parametrize(
    "settings",
    [
        {"exclude_modules": ["q_proj"]},
        {"layers_to_transform": [0]},
        {
            "target_modules": [
                f"model.layers.0.{target}" for target in peft_folders.TARGETS["qwen2_tied"]
            ]
        },
    ],
)
def test_a_layer_that_the_settings_leave_out_is_named(settings, tmp_path):
    _with(tmp_path, "qwen2_tied", {}, **settings)
    peft_folders.check_refusal(
        ValueError, tmp_path, str(tmp_path / "adapter"), "adapts model.layers.", "leave out"
    )


@pytest.mark.parametrize("value", [5, True, {"q_proj": 1}, ["q_proj", 5]])
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_names_of_layers_that_are_none_are_refused(key, value, tmp_path):
    _with(tmp_path, "qwen2_tied", {}, **{key: value})
    peft_folders.check_refusal(ValueError, tmp_path, str(tmp_path / "adapter"), key, "is damaged")


def test_names_of_a_model_in_memory_are_called_that(tmp_path):
    _with(tmp_path, "qwen2_tied", {})
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    named = {re.sub(r"(lora_[AB])", r"\1.default", k): v for k, v in load_file(path).items()}
    save_file(named, path)
    peft_folders.check_refusal(
        ValueError, tmp_path, "lora_A.default.weight", "in memory", "save_pretrained"
    )


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"score.weight": lambda a: np.ones((2, 32), "f4")}, ("holds base_model.model.score",)),
        ({"score.lora_A.weight": lambda a: np.ones((4, 32), "f4")}, ("adapts base_model",)),
    ],
)
def test_a_tensor_of_another_task_is_named(tensors, parts, tmp_path):
    _with(tmp_path, "qwen2_tied", tensors)
    peft_folders.check_refusal(ValueError, tmp_path, "which Qwen2ForCausalLM does not have", *parts)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({EMBEDDINGS: lambda a: a[EMBEDDINGS] + 1}, (EMBEDDINGS, "differs", "trained")),
        ({HEAD: lambda a: a[EMBEDDINGS] * 2}, (HEAD, "differs", "trained")),
        ({EMBEDDINGS: lambda a: a[EMBEDDINGS][:-1].copy()}, ("(60, 32)", "(61, 32)", "resized")),
        ({BIAS: lambda a: a[BIAS] + 1}, (BIAS, "differs")),
        ({"lm_head.lora_A.weight": lambda a: np.ones((4, 32), "f4")}, ("adapts lm_head",)),
        ({"model.embed_tokens.lora_embedding_A": lambda a: np.ones(1)}, ("adapts model.embed",)),
        (
            {"model.layers.0.mlp.up_proj.lora_magnitude_vector": lambda a: np.ones(2)},
            ("DoRA",),
        ),
        (
            {"model.embed_tokens.token_adapter.trainable_tokens_delta": lambda a: np.ones(2)},
            ("trained rows of the embeddings",),
        ),
        (
            {"model.layers.0.mlp.up_proj.lora_B.bias": lambda a: np.ones(2)},
            ("lora_B.bias", "no part of a plain LoRA"),
        ),
    ],
)
def test_what_an_adapter_cannot_do_here_is_said_with_the_way_out(tensors, parts, tmp_path):
    _with(tmp_path, "qwen2_tied", tensors)
    peft_folders.check_refusal(
        ValueError, tmp_path, str(tmp_path / "adapter"), "merge_and_unload", *parts
    )


def test_embeddings_of_random_weights_have_nothing_to_be_compared_with(tmp_path):
    base = _with(tmp_path, "qwen2_tied", {EMBEDDINGS: lambda a: a[EMBEDDINGS]})
    with pytest.raises(ValueError, match=f"{EMBEDDINGS} of its own.*random weights"):
        models.load(base, adapter=tmp_path / "adapter", random_weights=True)


def test_an_adapter_of_a_model_whose_head_differs(tmp_path):
    base = _with(tmp_path, "qwen2_tied", {HEAD: lambda a: a[EMBEDDINGS][::-1].copy()})
    arrays = load_file(base / "model.safetensors")
    arrays[HEAD] = arrays[EMBEDDINGS][::-1].copy()
    save_file(arrays, base / "model.safetensors", metadata={"format": "pt"})
    lm = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    merged = lm.merged()
    checkpoint.save(tmp_path / "merged", merged.config, merged.params)
    reloaded = models.load(tmp_path / "merged", dtype="float32")
    np.testing.assert_array_equal(reloaded.params["lm_head"]["kernel"], arrays[HEAD].T)
    np.testing.assert_allclose(
        reloaded.logits(peft_folders.TOKENS), lm.logits(peft_folders.TOKENS), atol=1e-4
    )


def test_peft_agrees_about_a_model_whose_head_differs(tmp_path, parity, record_property):
    base = cases.write_checkpoint("qwen2_tied", tmp_path / "base")
    arrays = load_file(base / "model.safetensors")
    arrays[HEAD] = arrays[EMBEDDINGS][::-1].copy()
    save_file(arrays, base / "model.safetensors", metadata={"format": "pt"})
    lm = models.load(base, dtype="float32")
    peft.save(tmp_path / "adapter", peft_folders.random_adapter(lm.config, lora.TARGETS), lm.config)
    adapted = models.load(base, dtype="float32", adapter=tmp_path / "adapter")
    peft_folders.check_against_peft(adapted, base, tmp_path / "adapter", record_property)


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (("adapter_config.json", "adapter_model.bin"), ("adapter_model.bin, a pickle", "PEFT")),
        (("config.json", "model.safetensors"), ("is a model's folder", "give it as the model")),
        (("adapter/adapter_config.json", "manifest.json"), ("is", "adapter/adapter meant?")),
        (("checkpoint-500/adapter_config.json",), ("adapter/checkpoint-500 meant?",)),
        (("adapter_model.bin",), ("adapter_model.bin without the adapter_config.json",)),
        (("adapter_model.safetensors",), ("adapter_model.safetensors without the adapter_config",)),
        (("adapter_config.json",), ("has no adapter_model.safetensors",)),
        (("lora.gguf",), ("GGUF is not read",)),
    ],
)
def test_a_folder_that_is_no_adapters_says_what_it_is(files, parts, tmp_path):
    for name in files:
        (tmp_path / "adapter" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "adapter" / name).write_text("{}")
    peft_folders.check_refusal(FileNotFoundError, tmp_path, str(tmp_path / "adapter"), *parts)


def test_an_adapters_id_is_not_downloaded(tmp_path):
    base = cases.write_checkpoint("qwen2_tied", tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="org/name: there is no such folder"):
        models.load(base, adapter="org/name")
