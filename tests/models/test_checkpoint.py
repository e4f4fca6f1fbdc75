"""Loading and saving Hugging Face checkpoints: tensors land in their place, faults are named."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from powerjax import models
from powerjax.models import checkpoint
from powerjax.models.layout import tensors
from tests.golden import cases
from tests.models.model_folders import check_refusal, rewrite


def _flat(params):
    return traverse_util.flatten_dict(params, sep="/")


@pytest.mark.parametrize("case", cases.CASES)
def test_table_is_the_module_s(case):
    config = models.ModelConfig.from_hf(cases.CASES[case])
    tokens = jnp.zeros((1, 2), jnp.int32)
    module = models.LM(config, {}).model()
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), tokens, tokens))["params"]
    assert {k: v.shape for k, v in _flat(expected).items()} == {
        path: tensor.shape for path, tensor in tensors(config).items()
    }


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
@pytest.mark.parametrize("case", cases.CASES)
def test_save_gives_the_file_back(case, shard_bytes, tmp_path):
    cases.write_checkpoint(case, tmp_path / "in")
    lm = models.load(tmp_path / "in", dtype="float32")
    out = tmp_path / "out"
    checkpoint.save(out, lm.config, lm.params, stop_ids=(3, 5), shard_bytes=shard_bytes)
    shards = sorted(out.glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes < 1 << 30)
    result = {name: x for shard in shards for name, x in load_file(shard).items()}
    expected = load_file(tmp_path / "in" / "model.safetensors")
    assert result.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(result[name], expected[name])
    reloaded = models.load(out, dtype="float32")
    assert reloaded.config == lm.config and reloaded.stop_ids == (3, 5)
    jax.tree.map(np.testing.assert_array_equal, reloaded.params, lm.params)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("loaded_dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(stored, loaded_dtype, folder):
    full = models.load(folder, dtype="float32")
    checkpoint.save(folder, full.config, full.params, dtype=stored)
    lm = models.load(folder, dtype=loaded_dtype)
    assert lm.dtype == loaded_dtype
    for path, x in _flat(lm.params).items():
        assert x.dtype == loaded_dtype
        expected = np.asarray(_flat(full.params)[path]).astype(stored).astype(loaded_dtype)
        np.testing.assert_array_equal(np.asarray(x), expected)


def test_reading_in_chunks(folder, monkeypatch):
    whole = models.load(folder, dtype="float32")
    monkeypatch.setattr("powerjax.models.tensor_file._CHUNK_BYTES", 300)
    pieces = models.load(folder, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, pieces.params, whole.params)


def test_shards_without_an_index(folder, tmp_path):
    lm = models.load(folder, dtype="float32")
    checkpoint.save(tmp_path / "out", lm.config, lm.params, shard_bytes=20_000)
    (tmp_path / "out" / "model.safetensors.index.json").unlink()
    reloaded = models.load(tmp_path / "out", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, reloaded.params, lm.params)


@pytest.mark.parametrize("names", ["saved", "in memory"])
def test_the_text_model_of_a_checkpoint_that_reads_images(names, tmp_path, caplog):
    """Its tensors go by the names of transformers' files, or by those that its class has inside."""
    expected = models.load(cases.write_checkpoint("gemma3", tmp_path / "text"), dtype="float32")
    folder = cases.write_checkpoint("gemma3", tmp_path / "images")
    text = json.loads((folder / "config.json").read_text())
    hf = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (folder / "config.json").write_text(json.dumps(hf))
    prefix = "language_model.model." if names == "saved" else "model.language_model."

    def change(arrays):
        for name in list(arrays):
            arrays[prefix + name.removeprefix("model.")] = arrays.pop(name)
        arrays["vision_tower.embeddings.weight"] = np.zeros((2, 2), np.float32)

    rewrite(folder, change)
    lm = models.load(folder, dtype="float32")
    assert lm.config == expected.config and lm.config.architecture == "Gemma3ForCausalLM"
    jax.tree.map(np.testing.assert_array_equal, lm.params, expected.params)
    assert "the 1 tensors of its image part are left out" in caplog.text


def test_the_text_of_a_model_that_reads_images_is_transformers_own(tmp_path, parity):
    import torch
    import transformers

    text = {
        k: v for k, v in cases.CASES["gemma3"].items() if k not in ("architectures", "model_type")
    }
    sizes = {"hidden_size": 16, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    image = sizes | {"num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=image, mm_tokens_per_image=4, image_token_index=60
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.normal_(0, 0.25)
    model.save_pretrained(tmp_path)
    tokens = np.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    lm = models.load(tmp_path, dtype="float32")
    np.testing.assert_allclose(lm.logits(tokens), expected, atol=1e-4)


def test_random_norms_multiply_by_one_where_they_add_to_their_weight(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(cases.CASES["gemma3"]))
    norms = [
        x
        for path, x in _flat(models.load(tmp_path, random_weights=True).params).items()
        if path.endswith("scale")
    ]
    assert len(norms) == 6 * 6 + 1 and not any(x.any() for x in norms)


def test_random_weights_need_only_a_config(tmp_path):
    hf = cases.CASES["qwen2_untied"] | {"initializer_range": 0.1, "eos_token_id": 7}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    first = models.load(tmp_path, random_weights=True, seed=3)
    second = models.load(tmp_path, random_weights=True, seed=np.int64(3))
    for alias in (3 + 2**32, 3 - 2**32):
        with pytest.raises(ValueError, match=f"seed is {alias}: it must be .* to 4294967295"):
            models.load(tmp_path, random_weights=True, seed=alias)
    other = models.load(tmp_path, random_weights=True, seed=4)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert first.stop_ids == (7,) and first.tokenizer is None
    seen = set()
    for path, x in _flat(first.params).items():
        x = np.asarray(x, np.float32)
        if path.endswith("scale"):
            assert (x == 1).all()
        elif path.endswith("bias"):
            assert (x == 0).all()
        else:
            assert x.std() == pytest.approx(0.1, rel=0.1)
            assert abs(x.mean()) < 5 * 0.1 / x.size**0.5
            assert (x != np.asarray(_flat(other.params)[path], np.float32)).mean() > 0.9
            seen.add(x.tobytes()[:64])
    assert len(seen) == 1 + 3 * 7 + 1  # no two tensors share their draws


def test_missing_shard_of_an_index(folder, tmp_path):
    lm = models.load(folder, dtype="float32")
    checkpoint.save(tmp_path / "out", lm.config, lm.params, shard_bytes=20_000)
    names = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    (tmp_path / "out" / names[1]).unlink()
    check_refusal(FileNotFoundError, names[1], "1 of", name_or_folder=tmp_path / "out")
    (tmp_path / "out" / "model.safetensors.index.json").unlink()
    check_refusal(FileNotFoundError, names[1], name_or_folder=tmp_path / "out")


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    check_refusal(ValueError, "model.safetensors", "truncated", name_or_folder=folder)


def test_not_a_safetensors_file(folder):
    header = b"not json"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    check_refusal(ValueError, "not a safetensors file", name_or_folder=folder)


def test_missing_tensor(folder):
    rewrite(folder, lambda arrays: arrays.pop("model.layers.1.mlp.up_proj.weight"))
    check_refusal(ValueError, "model.layers.1.mlp.up_proj.weight", name_or_folder=folder)


def test_wrong_shape(folder):
    name = "model.layers.0.self_attn.k_proj.weight"
    rewrite(folder, lambda arrays: arrays.update({name: arrays[name][:-1]}))
    check_refusal(ValueError, name, "(15, 32)", "(16, 32)", name_or_folder=folder)


def test_quantised_tensor(folder):
    name = "model.norm.weight"
    rewrite(folder, lambda arrays: arrays.update({name: arrays[name].astype(np.int8)}))
    check_refusal(ValueError, name, "I8", name_or_folder=folder)


def test_unknown_architecture(folder):
    hf = cases.CASES["qwen2_tied"] | {"architectures": ["MambaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(hf))
    check_refusal(ValueError, "MambaForCausalLM", "Qwen2ForCausalLM", name_or_folder=folder)


def test_config_without_a_needed_key(folder):
    hf = {k: v for k, v in cases.CASES["qwen2_tied"].items() if k != "num_hidden_layers"}
    (folder / "config.json").write_text(json.dumps(hf))
    check_refusal(ValueError, "num_hidden_layers", name_or_folder=folder)


def test_damaged_or_absent_config(folder):
    (folder / "config.json").write_text("{")
    check_refusal(ValueError, "config.json", "JSON", name_or_folder=folder)
    (folder / "config.json").unlink()
    check_refusal(FileNotFoundError, "config.json", name_or_folder=folder)


@pytest.mark.parametrize("name", ["generation_config.json", "model.safetensors.index.json"])
def test_damaged_json(name, folder):
    (folder / name).write_text('{"weight_map": {')
    if "index" in name:  # an index beside one whole file is not read
        (folder / "model.safetensors").unlink()
    check_refusal(ValueError, name, "JSON", name_or_folder=folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    check_refusal(FileNotFoundError, "random_weights=True", name_or_folder=folder)


def test_unknown_dtype(folder):
    check_refusal(ValueError, "int8", "float32", name_or_folder=folder, dtype="int8")
    check_refusal(ValueError, "float33", name_or_folder=folder, dtype="float33")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "owner/name/more"])
def test_no_such_folder(name):
    check_refusal(FileNotFoundError, name, "no such folder", name_or_folder=name)


@pytest.mark.parametrize(
    ("name", "part"),
    [("config.json", "give the folder it is in"), ("model.safetensors", "or a GGUF file")],
)
def test_a_file_for_a_folder(name, part, tmp_path):
    (tmp_path / name).write_bytes(b"{}")
    check_refusal(FileNotFoundError, name, part, name_or_folder=tmp_path / name)


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"adapter_config.json": '{"base_model_name_or_path": "org/base"}'}, ("(org/base)",)),
        ({"adapter/adapter_config.json": "{}"}, ("its student is", "/adapter")),
        ({"merged/config.json": "{}", "metrics.jsonl": ""}, ("its student is", "/merged")),
        ({"a.gguf": ""}, ("/a.gguf", "give its path")),
        ({"config.json": "[]"}, ("config.json", "no JSON object")),
        ({"config.json": "[" * 100_000}, ("config.json", "not valid JSON")),
    ],
)
def test_a_folder_that_is_no_model_s_says_what_it_is(files, parts, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    error = ValueError if "config.json" in files else FileNotFoundError
    check_refusal(error, str(tmp_path), *parts, name_or_folder=tmp_path)


def test_a_damaged_number_is_named_with_its_folder(folder):
    hf = cases.CASES["qwen2_tied"] | {"rms_norm_eps": "1e-06"}
    (folder / "config.json").write_text(json.dumps(hf))
    check_refusal(ValueError, str(folder), "rms_norm_eps is '1e-06'", name_or_folder=folder)


def test_hub_out_of_reach(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    check_refusal(FileNotFoundError, "owner/name", "HF_HUB_OFFLINE", name_or_folder="owner/name")


def test_hub_id(monkeypatch, folder):
    request = {}

    def snapshot_download(name, **kwargs):
        request.update(kwargs, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert models.load("owner/name", revision="v2").name == "owner/name"
    assert request["name"] == "owner/name" and request["revision"] == "v2"
    assert "*.safetensors" in request["allow_patterns"]
    models.load("owner/name", random_weights=True)
    assert "*.safetensors" not in request["allow_patterns"]


def test_peak_memory(tmp_path, record_property):
    """Loading holds no second copy of the weights.

    The model has 45 M parameters, 90 MB as bfloat16, and is loaded as float32, 180 MB.
    """
    config = models.ModelConfig(20_000, 768, 2048, 4, 12, 4, 64, tie_word_embeddings=True)
    checkpoint.save(tmp_path, config, checkpoint.random_params(config, "bfloat16"))
    command = [sys.executable, "-m", "benchmarks.loading", f"--folder={tmp_path}"]
    out = subprocess.run(
        [*command, "--measure=float32"], check=True, capture_output=True, text=True
    )
    result = json.loads(out.stdout.splitlines()[-1])
    record_property("peak above / loaded bytes", round(result["above"] / result["loaded"], 2))
    assert result["above"] <= 1.2 * result["loaded"] + 20e6


@pytest.mark.parametrize("case", cases.CASES)
def test_transformers_reads_what_save_writes(case, tmp_path, parity):
    import torch
    from transformers import AutoModelForCausalLM

    lm = models.load(cases.write_checkpoint(case, tmp_path / "in"), dtype="float32")
    checkpoint.save(tmp_path / "out", lm.config, lm.params, stop_ids=(3,))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert model.generation_config.eos_token_id in (3, [3])
    tokens = np.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(lm.logits(tokens), expected, atol=1e-4)
