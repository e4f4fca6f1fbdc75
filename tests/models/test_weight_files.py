"""Which files of a folder are its model's weights, and messages about the other files."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from powerjax import models
from powerjax.models import checkpoint, tensor_file
from powerjax.models.weight_files import grouped
from tests.golden import cases


@pytest.fixture
def expected(folder):
    """The checkpoint's parameters."""
    return models.load(folder, dtype="float32").params


def _other(path, scale=2.0):
    """Writes other weights, under the same tensors' names, to `path`."""
    arrays = load_file(path.parent / "model.safetensors")
    save_file({name: scale * x for name, x in arrays.items()}, path)


def _same(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def _shards(folder, size=20_000):
    """Replaces the one file by shards with an index, which hold the same weights."""
    lm = models.load(folder, dtype="float32")
    (folder / "model.safetensors").unlink()
    checkpoint.save(folder, lm.config, lm.params, shard_bytes=size)


@pytest.mark.parametrize(
    "name",
    [
        "model_ema.safetensors",
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "adapter_model.safetensors",
        "model_ema-00001-of-00001.safetensors",
        "model-00001-of-00001.safetensors",
        "zzz.safetensors",
    ],
)
@pytest.mark.parametrize("shards", ["one file", "an index"])
def test_other_safetensors_files_are_not_read_and_named(name, shards, folder, expected, caplog):
    _other(folder / name)
    if shards == "an index":
        _shards(folder)
        caplog.clear()
    _same(models.load(folder, dtype="float32").params, expected)
    (message,) = [record.getMessage() for record in caplog.records]
    assert name in message and str(folder) in message and "\n" not in message


def test_one_file_comes_before_an_index(folder, expected, tmp_path):
    shutil.copytree(folder, tmp_path / "shards")
    _other(tmp_path / "shards" / "model.safetensors")
    _shards(tmp_path / "shards")
    for path in (tmp_path / "shards").glob("model*"):
        shutil.copy(path, folder)
    _same(models.load(folder, dtype="float32").params, expected)


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": {}}', "null"])
def test_a_damaged_index_beside_one_file_is_not_read(index, folder, expected):
    (folder / "model.safetensors.index.json").write_text(index)
    _same(models.load(folder, dtype="float32").params, expected)


def test_transformers_reads_the_same_files(folder, expected, parity):
    import torch
    from transformers import AutoModelForCausalLM

    _other(folder / "model_ema.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model_ema.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    scale = reference.model.norm.weight.detach().numpy()
    np.testing.assert_array_equal(scale, expected["norm"]["scale"])
    _same(models.load(folder, dtype="float32").params, expected)


def test_the_file_that_config_json_names_is_read(folder, expected):
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    hf = cases.CASES["qwen2_tied"] | {"transformers_weights": "kept.safetensors"}
    (folder / "config.json").write_text(json.dumps(hf))
    _same(models.load(folder, dtype="float32").params, expected)


def _fails(folder, *parts, error=ValueError):
    with pytest.raises(error) as caught:
        models.load(folder, dtype="float32")
    for part in ("", *parts):
        assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_tensor_in_two_shards_is_refused_by_both_names(with_index, folder):
    _shards(folder)
    first, *_, last = sorted(folder.glob("*.safetensors"))
    name, array = next(iter(load_file(first).items()))
    save_file(load_file(last) | {name: array}, last)
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
    _fails(folder, name, first.name, last.name)


def test_two_sets_of_shards_are_refused(folder):
    _shards(folder)
    (folder / "model.safetensors.index.json").unlink()
    first = min(folder.glob("*.safetensors"))
    shutil.copy(first, folder / "model-00001-of-00001.safetensors")
    _fails(folder, "model-00001-of-00001.safetensors", first.name)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": [1]}, {"weight_map": {"a": 1}}, []]
)
def test_an_index_without_files_is_refused(index, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _fails(folder, "model.safetensors.index.json", "download it again")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pytorch_model.bin", ("pickle", "save_pretrained")),
        ("consolidated.00.pth", ("pickle", "save_pretrained")),
        ("weights.safetensors", ("weights.safetensors", "rename it to model.safetensors")),
        ("model-q4.gguf", ("/model-q4.gguf", "give its path")),
        ("adapter_model.safetensors", ("holds an adapter", "as the adapter")),
    ],
)
def test_a_folder_of_other_weights_says_which_and_what_to_do(name, parts, folder):
    (folder / "model.safetensors").rename(folder / name)
    _fails(folder, *parts, error=FileNotFoundError)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("model.fp16-1-of-2", "model.fp16-2-of-2"), ("model-00001-of-00002.safetensors",)),
        (("consolidated.00", "consolidated.01"), ("none of the names", "if they are")),
        (("model-00001-of-00000",), ("model-00001-of-00000.safetensors is not a name",)),
    ],
)
def test_shards_of_other_names_say_how_they_are_called(names, parts, folder):
    whole = (folder / "model.safetensors").rename(folder / "whole")
    for name in names:
        shutil.copy(whole, folder / f"{name}.safetensors")
    _fails(folder, *parts, error=FileNotFoundError)


def test_a_link_to_a_file_that_is_gone_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "1234")
    _fails(folder, "model.safetensors is no file", "download it again", error=FileNotFoundError)


@pytest.mark.parametrize("shards", [False, True])
def test_a_git_lfs_pointer_is_called_one(shards, folder):
    if shards:
        _shards(folder)
    file = min(folder.glob("*.safetensors"))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9999\n")
    _fails(folder, file.name, "Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"[" * 100_000],
    ids=["list", "number", "part", "deep"],
)
def test_a_header_that_is_none_is_refused(header, folder):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    _fails(folder, "not a safetensors file")


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_refused(folder):
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    (folder / "model.safetensors").write_bytes(data)
    _fails(folder, "8 bytes", "(3,)")


def test_names_are_grouped_by_their_layers():
    layers = [f"model.layers.{i}.{x}" for i in (0, 1, 2, 7) for x in ("q_norm.w", "k_norm.w")]
    names = [*layers, "lm_head.bias", "model.layers.9.mlp.experts.1.w", "9.w"]
    assert grouped(names) == (
        "lm_head.bias, 9.w, model.layers.0-2,7.{k_norm.w, q_norm.w}, model.layers.9.mlp.experts.1.w"
    )


def test_tensors_are_compared_as_they_are_read_and_in_parts(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3)).astype(np.float32)
    x[7, 1] = np.nan
    y, z = x + 1e-6, x.copy()
    z[-1, -1] += 1
    save_file({"x": x, "y": y, "z": z, "cut": x[:-1].copy(), "row": x[0]}, tmp_path / "f")
    stored = tensor_file.read_header(tmp_path / "f")
    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 60)

    def equal(a, b, dtype="float32"):
        return tensor_file.equal(stored[a], stored[b], dtype)

    assert equal("x", "x") and equal("row", "row")
    assert not equal("x", "y") and not equal("x", "z") and not equal("x", "cut")
    assert equal("x", "y", "float16") == (x.astype("f2") == y.astype("f2"))[~np.isnan(x)].all()
