"""Tokenizers: the published vectors, chat or raw prompts, stop ids; and all of it without torch."""

import json
import subprocess
import sys

import pytest

from powerjax import models, text

VECTORS = (("Qwen2.5-0.5B", "qwen2"), ("phi-3-mini", "phi-3"))


@pytest.fixture(params=VECTORS, ids=[name for name, _ in VECTORS])
def tokenizer_and_vectors(request, data_dir):
    """A real tokenizer, and llama.cpp's (text, ids) pairs for it."""
    name, vectors = request.param
    base = data_dir / "tokenizers" / "llama.cpp-vectors" / f"ggml-vocab-{vectors}.gguf"
    with open(f"{base}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    with open(f"{base}.out") as file:
        ids = [[int(x) for x in line.split()] for line in file.read().split("\n")]
    assert len(texts) == len(ids) == 47
    return text.load_tokenizer(data_dir / "tokenizers" / name), list(zip(texts, ids, strict=True))


def test_published_vectors(tokenizer_and_vectors, record_property):
    tokenizer, vectors = tokenizer_and_vectors
    wrong = [string for string, ids in vectors if tokenizer(string)["input_ids"] != ids]
    record_property("vectors", f"{47 - len(wrong)} of 47")
    assert not wrong


def test_vectors_after_saving_the_tokenizer(tokenizer_and_vectors, tmp_path):
    """The folder that save_pretrained writes is read by another class; the ids are the same."""
    tokenizer, vectors = tokenizer_and_vectors
    tokenizer.save_pretrained(tmp_path)
    again = text.load_tokenizer(tmp_path)
    for string, ids in vectors:
        assert again(string)["input_ids"] == ids


def test_round_trip(tokenizer_and_vectors):
    tokenizer, _ = tokenizer_and_vectors
    for string in ("Two  spaces, 12+30=42.\n\tTab", "naïve 🦙 \\boxed{{}}"):
        ids = tokenizer(string)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == string


def test_lm_with_a_tokenizer(data_dir, tmp_path):
    folder = data_dir / "tokenizers" / "Qwen2.5-0.5B"
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    hf = json.loads((folder / "config.json").read_text())
    hf |= {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    hf |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    lm = models.load(tmp_path, dtype="float32", random_weights=True)
    assert lm.stop_ids == (151_643,)
    ids = lm.encode("Hello world")
    assert ids == [9707, 1879] and lm.decode([*ids, 151_643]) == "Hello world"
    by_text, by_ids = lm.score(["Hello", ids[:1]], [" world", ids[1:]])
    assert len(by_text) == 1 and by_text == pytest.approx(by_ids, abs=1e-5)


def test_prompts(data_dir):
    phi = text.load_tokenizer(data_dir / "tokenizers" / "phi-3-mini")
    assert text.format_prompt(phi, "1+1?") == "1+1?"
    templated = text.format_prompt(phi, "1+1?", chat=True)
    assert templated == "<|user|>\n1+1?<|end|>\n<|assistant|>\n"
    assert phi(templated)["input_ids"][0] == 32_010  # no BOS before <|user|>
    with pytest.raises(ValueError, match="no chat template"):
        text.format_prompt(None, "1+1?", chat=True)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 1}, (7, 8)),
        ({"eos_token_id": 7}, {"eos_token_id": 1}, (7,)),
        ({}, {"eos_token_id": [1, 2]}, (1, 2)),
        (None, {"eos_token_id": 0}, (0,)),
        (None, {"eos_token_id": None}, ()),
    ],
)
def test_stop_ids(generation, config, expected, tmp_path):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert text.stop_ids(tmp_path, config) == expected


def test_no_tokenizer_files(tmp_path):
    assert text.load_tokenizer(tmp_path) is None


def test_damaged_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer files") as caught:
        text.load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_torch(data_dir):
    """Loads and encodes in a process where torch is not to be found, and prints no advice."""
    folder = data_dir / "tokenizers" / "phi-3-mini"
    program = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torch" else found(name, *a)
from powerjax import text
print(text.load_tokenizer({str(folder)!r})("Hello")["input_ids"])
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[15043]\n", "")
