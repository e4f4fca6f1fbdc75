"""Weights of GGUF files: the numbers are those of the same tensors in safetensors."""

import logging

import gguf as package
import jax
import numpy as np
import pytest

from powerjax import models
from powerjax.models import families, gguf, layout, tensor_file
from powerjax.models.gguf import tensors
from powerjax.parallel import mesh as meshes
from tests.models.gguf import files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A Qwen2 file that has every type, and the folder of its numbers in float32."""
    folder = tmp_path_factory.mktemp("gguf")
    checkpoint = files.write(folder / "model.gguf", "qwen2")
    return folder / "model.gguf", files.write_folder(folder / "hf", "qwen2", checkpoint)


def _same(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("architecture", files.CONFIGS)
def test_a_file_loads_to_the_numbers_of_its_tensors_as_safetensors(architecture, tmp_path):
    name = files.CONFIGS[architecture]["architectures"][0]
    if name not in families.FAMILIES:
        pytest.skip(f"families.FAMILIES has no {name} yet")
    checkpoint = files.write(tmp_path / "m.gguf", architecture, extra={"split.count": 1})
    folder = files.write_folder(tmp_path / "hf", architecture, checkpoint)
    read, expected = (models.load(x, dtype="float32") for x in (tmp_path / "m.gguf", folder))
    _same(read.params, expected.params)
    assert read.config == expected.config
    assert read.fingerprint == expected.fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrower_dtypes_are_those_of_the_folder(dtype, written):
    read, expected = (models.load(x, dtype=dtype) for x in written)
    _same(read.params, expected.params)


def test_a_mesh_gets_the_same_numbers(written):
    mesh = meshes.make_mesh(1, 1)
    read = models.load(written[0], dtype="float32", mesh=mesh, fsdp=True)
    _same(read.params, models.load(written[1], dtype="float32").params)


def test_the_model_says_what_its_weights_were_quantised_to(written, tmp_path):
    read = models.load(written[0], dtype="float32")
    assert f"(quantised: {read.quantised})" in repr(read)
    types = set(read.quantised.replace(" and ", ", ").split(", "))
    assert types == {kind.name for kind in files.MIXED} - {"F32", "F16", "BF16"}
    assert models.load(written[1], dtype="float32").quantised is None
    files.write(tmp_path / "m.gguf", "qwen2", types=[package.GGMLQuantizationType.BF16])
    assert models.load(tmp_path / "m.gguf", dtype="float32").quantised is None


def test_random_weights_of_a_file_s_shapes(written):
    lm = models.load(written[0], dtype="float32", random_weights=True)
    assert lm.weights == "random-0" and lm.quantised is None


@pytest.mark.parametrize("architecture", files.CONFIGS)
def test_every_tensor_has_its_name_and_its_numbers_in_any_slice(architecture, tmp_path):
    """Also for architectures that no family decodes yet."""
    path = tmp_path / "m.gguf"
    checkpoint = files.write(path, architecture)
    stored = gguf.read_headers(path)
    assert stored.keys() == checkpoint.keys()
    for name, expected in checkpoint.items():
        assert stored[name].shape == expected.shape
        np.testing.assert_array_equal(tensor_file.read_tensor(stored[name], np.float32), expected)
        part = (slice(3, 41), slice(5, 9))[: expected.ndim]
        read = tensor_file.read_tensor(stored[name], np.float32, part, transpose=True)
        np.testing.assert_array_equal(read, expected[part].T)


def test_chunks_that_end_within_a_head_are_read_alike(tmp_path, monkeypatch):
    checkpoint = files.write(tmp_path / "m.gguf", "llama")
    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 10 * 256 * 4)  # ten rows; a head has 64
    stored = gguf.read_headers(tmp_path / "m.gguf")
    for name in ("q", "k", "v"):
        name = f"model.layers.0.self_attn.{name}_proj.weight"
        read = tensor_file.read_tensor(stored[name], np.float32)
        np.testing.assert_array_equal(read, checkpoint[name])


def test_llama_rows_are_put_back_as_a_function_of_plain_data():
    rows = np.arange(2 * 6)[:, None] * np.ones((1, 3))  # two heads of six
    order = tensors.separated(rows, 6)[:, 0].tolist()
    assert order == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert tensors.separated(rows, 1) is rows
    np.testing.assert_array_equal(tensors.separated(rows[:, 0], 6), order)


def test_a_layout_finds_all_its_tensors(written):
    lm = models.load(written[0], dtype="float32", random_weights=True)
    names = {tensor.name for tensor in layout.tensors(lm.config).values()}
    assert names == gguf.read_headers(written[0]).keys()


def test_the_host_holds_few_numbers_beside_the_result(tmp_path, monkeypatch):
    """The chunks that are dequantised at once have a bounded size."""
    largest = []
    decode = tensors.PackedTensor._dequantised

    def watched(self, raw):
        largest.append(decode(self, raw).nbytes)
        return decode(self, raw)

    files.write(tmp_path / "m.gguf", "llama")
    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 128 * 256 * 4)
    monkeypatch.setattr(tensors.PackedTensor, "_dequantised", watched)
    for tensor in gguf.read_headers(tmp_path / "m.gguf").values():
        tensor_file.read_tensor(tensor, np.float16)
    assert max(largest) <= (128 + 64) * 256 * 4  # a chunk, and what is left of a head


def test_tensors_of_no_name_are_left_out_and_named(tmp_path, caplog):
    monkey = files.packed(np.random.default_rng(0), (4, 32), package.GGMLQuantizationType.F32)
    path = tmp_path / "m.gguf"
    files.write(path, "qwen2", extra={}, further={"v.patch.weight": monkey.view(np.float32)})
    with caplog.at_level(logging.WARNING):
        stored = gguf.read_headers(path)
    assert "v.patch.weight" in caplog.text and len(stored) == len(files.shapes("qwen2"))
