"""Tokenizers against published vectors, chat or raw prompts, stop ids, all without torch."""

import json
import re
import subprocess
import sys

import pytest

from powerjax import models
from powerjax.models import text
from tests import tokenizer_folder

VECTORS = (("Qwen2.5-0.5B", "qwen2"), ("phi-3-mini", "phi-3"))


@pytest.fixture(params=VECTORS, ids=[name for name, _ in VECTORS])
def tokenizer_and_vectors(request, data_dir):
    """A published tokenizer, and llama.cpp's (text, ids) pairs for it."""
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
    """Another class reads the folder that save_pretrained writes, and gives the same ids."""
    tokenizer, vectors = tokenizer_and_vectors
    tokenizer.save_pretrained(tmp_path)
    reloaded = text.load_tokenizer(tmp_path)
    for string, ids in vectors:
        assert reloaded(string)["input_ids"] == ids


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
        (None, {"text_config": {"eos_token_id": [1, 106]}}, (1, 106)),
    ],
)
def test_stop_ids(generation, config, expected, tmp_path):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert text.stop_ids(tmp_path, config) == expected


@pytest.mark.parametrize(
    "ids", ["7", True, 7.0, -1, float("nan"), [7, None], [7, "8"], [[7]], {"a": 1}]
)
@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
def test_damaged_stop_ids_are_named(where, ids, tmp_path):
    generation = {"eos_token_id": ids} if where == "generation_config.json" else {}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    with pytest.raises(ValueError, match=rf"eos_token_id is .*: {where} in .* is damaged"):
        text.stop_ids(tmp_path, {"eos_token_id": ids})


TEMPLATE = "{{ bos_token }}[{{ messages[0].content }}]"
BOS, OPEN, H, I, CLOSE = (tokenizer_folder.VOCABULARY.index(c) for c in ("<s>", *"[hi]"))


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_rendered_template_has_the_bos_that_stands_in_it(adds_bos, tmp_path):
    folder = tokenizer_folder.write(tmp_path, chat_template=TEMPLATE, adds_bos=adds_bos)
    tokenizer = text.load_tokenizer(folder)
    prompt = text.format_prompt(tokenizer, "hi", chat=True)
    ids = [BOS, OPEN, H, I, CLOSE]
    assert text.encode(tokenizer, prompt) == ids
    assert text.encode(tokenizer, str(prompt)) == ids  # rendered by the user, or read from a file
    assert text.encode(tokenizer, prompt + "hi") == [*ids, H, I]
    assert text.encode(tokenizer, json.loads(json.dumps(prompt))) == ids


def test_a_template_without_bos_is_encoded_without_one(tmp_path):
    """transformers' own apply_chat_template(tokenize=True) does the same."""
    folder = tokenizer_folder.write(
        tmp_path, chat_template=TEMPLATE.removeprefix("{{ bos_token }}")
    )
    tokenizer = text.load_tokenizer(folder)
    prompt = text.format_prompt(tokenizer, "hi", chat=True)
    reference = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])["input_ids"]
    assert text.encode(tokenizer, prompt) == reference == [OPEN, H, I, CLOSE]
    plain = {"prompt": "[hi]"}
    assert text.encode(tokenizer, text.recorded_prompt(plain)) == [BOS, OPEN, H, I, CLOSE]
    recorded = text.recorded_prompt(plain | {"prompt_style": "chat"})
    assert text.encode(tokenizer, recorded) == reference


def test_raw_prompts_keep_what_the_tokenizer_adds(tmp_path):
    tokenizer = text.load_tokenizer(tokenizer_folder.write(tmp_path))
    assert text.encode(tokenizer, "hi") == [BOS, H, I]
    assert text.encode(tokenizer, text.format_prompt(tokenizer, "hi")) == [BOS, H, I]
    assert text.encode(tokenizer, "hh") == [BOS, H, H]
    assert text.encode(tokenizer, "h</s>")[0] == BOS
    assert text.encode(tokenizer, "</s>h")[0] == BOS
    assert text.encode(tokenizer, "") == [BOS]
    assert text.encode(tokenizer, "hi", special=False) == [H, I]


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{{ raise_exception('roles\nmust alternate') }}", "(roles)"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].content }", "unexpected"),
        ("{{ messages[0].images.first.url }}", "has no attribute"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        (
            [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}],
            "rag, tool_use",
        ),
        ({"other": "x"}, "none of them is called default"),
        (7, "cannot be rendered"),
        ("  \n", "an empty text"),
        ("{% for m in messages if m.role == 'tool' %}{{ m }}{% endfor %}", "an empty text"),
        ("<s>assistant:", "leaves out the message"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(template, part, tmp_path):
    tokenizer = text.load_tokenizer(tokenizer_folder.write(tmp_path, chat_template=template))
    with pytest.raises(ValueError, match=re.escape(part)) as caught:
        text.format_prompt(tokenizer, "hi", chat=True)
    message = str(caught.value)
    assert str(tmp_path) in message and "--chat_template=off" in message and "\n" not in message
    assert text.format_prompt(tokenizer, "hi") == "hi"


def test_a_template_called_default_is_taken_and_may_change_the_message(tmp_path):
    both = [{"name": "rag", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    tokenizer = text.load_tokenizer(tokenizer_folder.write(tmp_path, chat_template=both))
    assert text.format_prompt(tokenizer, "hi", chat=True) == "<s>[hi]"
    upper = "{{ messages[0].content | trim | upper | tojson }}"
    tokenizer = text.load_tokenizer(tokenizer_folder.write(tmp_path, chat_template=upper))
    assert text.format_prompt(tokenizer, ' a "b"\n', chat=True) == '"A \\"B\\""'


def test_no_tokenizer_files(tmp_path):
    assert text.load_tokenizer(tmp_path) is None


def test_damaged_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer files") as caught:
        text.load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_torch(data_dir):
    """A process that cannot find torch loads a tokenizer, encodes, and prints no advice."""
    folder = data_dir / "tokenizers" / "phi-3-mini"
    program = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torch" else found(name, *a)
from powerjax.models import text
print(text.load_tokenizer({str(folder)!r})("Hello")["input_ids"])
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[15043]\n", "")
