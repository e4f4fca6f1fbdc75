"""Damaged and foreign GGUF files are refused in one line that names the file and the remedy."""

import struct
import sys

import gguf as package
import pytest

from powerjax import models
from powerjax.models import gguf
from powerjax.models.gguf import tensors
from tests.models.gguf import files
from tests.models.model_folders import check_refusal


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a Qwen2 file."""
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    files.write(path, "qwen2", types=[package.GGMLQuantizationType.Q8_0])
    return path.read_bytes()


def _refused(path, data, *parts, error=ValueError):
    path.write_bytes(data)
    message = check_refusal(error, str(path), *parts, name_or_folder=path, dtype="float32")
    assert len(message) < 400


def test_the_header_is_that_which_the_package_reads(whole, tmp_path):
    (tmp_path / "m.gguf").write_bytes(whole)
    header, reader = gguf.read(tmp_path / "m.gguf"), package.GGUFReader(tmp_path / "m.gguf")
    assert header.metadata == {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    for tensor in reader.tensors:
        info = header.tensors[tensor.name]
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert (info.offset, info.type_number) == (tensor.data_offset, tensor.tensor_type)


def test_a_truncated_file(whole, tmp_path):
    path = tmp_path / "m.gguf"
    _refused(path, whole[:-1], "is truncated", f"{len(whole) - 1} bytes of", "download it again")
    for size in (6, 20, 100, 500, 1000):
        _refused(path, whole[:size], "is truncated", "within the header", "download it again")


def test_a_file_that_is_none(tmp_path, whole):
    _refused(tmp_path / "m.gguf", b"", "is not a GGUF file")
    _refused(tmp_path / "m.gguf", b"PK" + whole[2:], "is not a GGUF file", "download it again")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9999\n"
    _refused(tmp_path / "m.gguf", pointer, "Git LFS pointer", "git lfs pull")
    check_refusal(FileNotFoundError, "nowhere.gguf: no such file", name_or_folder="nowhere.gguf")
    check_refusal(FileNotFoundError, "hf download a/B-GGUF FILE.gguf", name_or_folder="a/B-GGUF")


def test_versions_and_byte_orders(whole, tmp_path):
    path = tmp_path / "m.gguf"
    _refused(path, whole[:4] + struct.pack(">I", 3) + whole[8:], "is big-endian", "little-endian")
    _refused(path, whole[:4] + struct.pack("<I", 1) + whole[8:], "GGUF of version 1")


def test_a_part_of_a_file(whole, tmp_path):
    name = tmp_path / "m-00002-of-00003.gguf"
    _refused(name, whole, "is part 2 of 3", "llama-gguf-split --merge m-00001-of-00003.gguf")
    files.write(tmp_path / "renamed.gguf", "qwen2", extra={"split.count": 2})
    data = (tmp_path / "renamed.gguf").read_bytes()
    _refused(tmp_path / "renamed.gguf", data, "is one of 2 parts", "llama-gguf-split --merge")
    (tmp_path / "m-00001-of-00001.gguf").write_bytes(whole)
    assert models.load(tmp_path / "m-00001-of-00001.gguf", dtype="float32").stop_ids == ()


def test_another_architecture(tmp_path):
    writer = package.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    data = (tmp_path / "m.gguf").read_bytes()
    _refused(tmp_path / "m.gguf", data, "architecture 'mamba'", "qwen2, qwen3, llama, gemma3")


def test_a_missing_tensor_is_named(tmp_path):
    files.write(
        tmp_path / "m.gguf", "qwen2", leave_out=["blk.0.ffn_up.weight", "output_norm.weight"]
    )
    data = (tmp_path / "m.gguf").read_bytes()
    _refused(tmp_path / "m.gguf", data, "no tensor output_norm.weight and 1 more")


@pytest.mark.parametrize(("number", "name"), [(9, "Q8_1"), (999, "number 999"), (26, "I32")])
def test_a_type_that_is_not_read_is_named(number, name, whole, tmp_path):
    """The tensor's type stands between its shape and its offset in the header."""
    start = whole.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
    changed = whole[:start] + struct.pack("<I", number) + whole[start + 4 :]
    _refused(tmp_path / "m.gguf", changed, "blk.0.ffn_up.weight", f"tensor type {name},")


def test_without_the_package_the_remedy_is_named(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    tensors._package.cache_clear()
    tensors._readable.cache_clear()
    _refused_without_path(tmp_path / "m.gguf", whole)
    tensors._package.cache_clear()


def _refused_without_path(path, data):
    path.write_bytes(data)
    check_refusal(ValueError, "pip install gguf", name_or_folder=path)


def test_a_file_of_another_name_is_known_by_its_beginning(whole, tmp_path):
    """As the files that ollama keeps."""
    (tmp_path / "sha256-12ab").write_bytes(whole)
    assert models.load(tmp_path / "sha256-12ab", random_weights=True).config.num_layers == 4
    assert not gguf.is_gguf(tmp_path) and not gguf.is_gguf(tmp_path / "nowhere.gguf")
