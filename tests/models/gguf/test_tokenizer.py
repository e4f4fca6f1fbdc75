"""The tokenizer of a GGUF file encodes as the tokenizer.json of the same vocabulary."""

import json
import logging

import pytest

from powerjax import models
from powerjax.models import gguf, text
from tests import tokenizer_folder
from tests.models.gguf import files, vocabularies

TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
PRE_TOKENIZERS = ("qwen2", "llama-bpe", "smollm", "gpt-2")


def _file(folder, metadata):
    """Writes a Qwen2 file with the metadata of a tokenizer, in a folder of its own."""
    folder.mkdir()
    extra = metadata | {"tokenizer.chat_template": TEMPLATE}
    files.write(folder / "m.gguf", "qwen2", extra=extra)
    return folder / "m.gguf"


def _same(built, expected):
    for string in vocabularies.TEXTS:
        ids = expected(string)["input_ids"]
        assert built(string)["input_ids"] == ids, string
        for skip in (True, False):
            decoded = [x.decode(ids, skip_special_tokens=skip) for x in (built, expected)]
            assert decoded[0] == decoded[1]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_byte_level_vocabularies(pre, adds_bos, tmp_path):
    tokenizer = vocabularies.byte_level(pre)
    metadata = vocabularies.metadata(tokenizer, "gpt2", pre=pre, add_bos_token=adds_bos)
    path = _file(tmp_path / "gguf", metadata)
    folder = vocabularies.save(tmp_path / "hf", tokenizer, adds_bos=adds_bos)
    _same(text.load_tokenizer(path), text.load_tokenizer(folder))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_vocabularies(prefix, tmp_path):
    tokenizer = vocabularies.sentence_piece(prefix)
    metadata = vocabularies.metadata(tokenizer, "llama", add_space_prefix=prefix)
    path = _file(tmp_path / "gguf", metadata)
    folder = vocabularies.save(tmp_path / "hf", tokenizer, adds_bos=True)  # the kind's default
    built = text.load_tokenizer(path)
    _same(built, text.load_tokenizer(folder))
    assert built.decode(built("🦙 \u200b")["input_ids"], skip_special_tokens=True) == "🦙 \u200b"


def test_runs_of_spaces_that_a_vocabulary_defines_are_pieces(tmp_path):
    tokenizer = vocabularies.sentence_piece(False)
    metadata = vocabularies.metadata(tokenizer, "llama", add_space_prefix=False)
    tokens = metadata["tokenizer.ggml.tokens"]
    count = next(n for n in range(2, 9) if "▁" * n not in tokens)
    spaces = tokens.index("qu")
    for key, value in (("tokens", " " * count), ("token_type", 4), ("scores", 0.0)):
        metadata[f"tokenizer.ggml.{key}"][spaces] = value
    built = gguf.build_tokenizer(metadata, tmp_path / "m.gguf")
    assert built(" " * count)["input_ids"][-1] == spaces
    assert built.decode([spaces]) == " " * count


def test_a_loaded_model_has_template_stop_ids_and_special_tokens(tmp_path):
    tokenizer = vocabularies.byte_level("qwen2")
    metadata = vocabularies.metadata(tokenizer, "gpt2", pre="qwen2", eot_token_id=5)
    lm = models.load(_file(tmp_path / "gguf", metadata), random_weights=True)
    end, bos = (tokenizer.token_to_id(token) for token in vocabularies.CONTROL)
    assert lm.stop_ids == (end, 5)
    assert (lm.tokenizer.eos_token_id, lm.tokenizer.bos_token_id) == (end, bos)
    rendered = text.render_chat(lm.tokenizer, [{"role": "user", "content": "fox"}])
    ids = text.encode(lm.tokenizer, rendered)
    assert rendered == "<|bos|>fox<|end|>" and (ids[0], ids[-1]) == (bos, end)
    assert "m.gguf" in lm.tokenizer.name_or_path
    assert lm.tokenizer.decode(ids, skip_special_tokens=True) == "fox"


def test_a_tokenizer_beside_the_file_is_taken_where_it_has_the_same_tokens(tmp_path, caplog):
    tokenizer = vocabularies.byte_level("qwen2")
    path = _file(tmp_path / "gguf", vocabularies.metadata(tokenizer, "gpt2", pre="of a new kind"))
    vocabularies.save(path.parent, tokenizer)
    with caplog.at_level(logging.INFO):
        beside = text.load_tokenizer(path)
    assert "the tokenizer is the tokenizer.json beside it" in caplog.text
    assert beside.chat_template == TEMPLATE
    assert beside("The fox")["input_ids"] == tokenizer.encode("The fox").ids


def test_a_tokenizer_beside_the_file_of_another_model_is_not_taken(tmp_path, caplog):
    tokenizer = vocabularies.byte_level("qwen2")
    path = _file(tmp_path / "gguf", vocabularies.metadata(tokenizer, "gpt2", pre="qwen2"))
    tokenizer_folder.write(path.parent)
    with caplog.at_level(logging.INFO):
        own = text.load_tokenizer(path)
    assert "has other tokens and is not read" in caplog.text
    assert "the tokenizer is that of the file" in caplog.text
    assert own("The fox")["input_ids"] == tokenizer.encode("The fox").ids


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"pre": "of a new kind"}, "pre-tokenizer 'of a new kind'"),
        ({"model": "t5"}, "vocabulary of the kind 't5'"),
        ({"model": "llama"}, "no score for each token"),
        ({"merges": ["ab"]}, "merges that are no pairs"),
    ],
)
def test_a_vocabulary_that_is_not_built_is_named_with_the_remedy(changes, part, tmp_path):
    metadata = vocabularies.metadata(vocabularies.byte_level("gpt-2"), "gpt2", **changes)
    with pytest.raises(ValueError, match=part) as caught:
        gguf.build_tokenizer(metadata, tmp_path / "m.gguf")
    message = str(caught.value)
    assert "put the model's tokenizer.json beside the file" in message and "\n" not in message
    assert str(tmp_path / "m.gguf") in message


def test_a_damaged_vocabulary_is_named(tmp_path):
    tokenizer = vocabularies.byte_level("gpt-2")
    merges = vocabularies.metadata(tokenizer, "gpt2")["tokenizer.ggml.merges"]
    metadata = vocabularies.metadata(tokenizer, "gpt2", merges=["no such", *merges])
    with pytest.raises(ValueError, match=r"the vocabulary of .*m.gguf cannot be read \(.*no"):
        text.load_tokenizer(_file(tmp_path / "gguf", metadata))


def test_a_file_without_a_vocabulary_has_no_tokenizer(tmp_path):
    files.write(tmp_path / "m.gguf", "qwen2")
    assert text.load_tokenizer(tmp_path / "m.gguf") is None


@pytest.mark.parametrize("name", ["qwen2", "phi-3"])
def test_published_vectors(name, data_dir, tmp_path):
    """llama.cpp's own (text, ids) pairs, for the published vocabularies put into metadata."""
    folder = data_dir / "tokenizers"
    published = folder / ("Qwen2.5-0.5B" if name == "qwen2" else "phi-3-mini")
    base = folder / "llama.cpp-vectors" / f"ggml-vocab-{name}.gguf"
    with open(f"{base}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    with open(f"{base}.out") as file:
        expected = [[int(x) for x in line.split()] for line in file.read().split("\n")]
    built = gguf.build_tokenizer(_published(published), tmp_path / "m.gguf")
    wrong = [s for s, ids in zip(texts, expected, strict=True) if built(s)["input_ids"] != ids]
    assert len(texts) == 47 and not wrong


def _published(folder) -> dict:
    """Returns the metadata of a published vocabulary."""
    if (folder / "vocab.json").is_file():
        ids = json.loads((folder / "vocab.json").read_text())
        merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [line for line in merges if line and not line.startswith("#version")]
        found = {"model": "gpt2", "pre": "qwen2", "merges": merges}
        types = [1] * len(ids)
    else:
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        ids, ranks = model["vocab"], {}
        for i, merge in enumerate(model["merges"]):
            merge = merge.split(" ") if isinstance(merge, str) else merge
            ranks.setdefault("".join(merge), i)
        order = sorted(ids, key=ids.__getitem__)
        found = {"model": "llama", "scores": [-float(ranks.get(token, 1e6)) for token in order]}
        found |= {"unknown_token_id": 0, "add_bos_token": False}
        types = [2, 3, 3, *[6] * 256, *[1] * (len(ids) - 259)]
    found |= {"tokens": sorted(ids, key=ids.__getitem__), "token_type": types}
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}
