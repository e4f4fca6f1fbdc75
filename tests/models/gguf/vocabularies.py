"""Small vocabularies, trained here: as a tokenizer.json, and as the metadata of a GGUF file."""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CONTROL, USER_DEFINED = ("<|end|>", "<|bos|>"), ("<tool>",)
CORPUS = (
    "def area(radius):\n    return 3.14159 * radius ** 2\n\n\n",
    "The quick brown fox doesn't jump; it's 12 or 1234 times over the lazy dogs.\r\n",
    "naïve café, déjà vu: 你好, 世界! 🦙🦙 Привет, мир.\t",
) * 20
TEXTS = (
    "def f(x):\n    if x:\n        return x**2\n",
    "  two  spaces,   three\tand a tab ",
    "naïve café e\u0301 你好 Привет",
    "🦙 👩‍👩‍👧 \u200b",
    "\n\n\r\n \n  the\n",
    "<|bos|>The fox<|end|>\n<tool> <|end|> tool",
    "1 12 123 1234567.89e-10 ½ ٣",
    "It's they'LL DOESN'T \u3000x",
)
# The patterns as tokenizer.json files of these models have them.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), last])


def byte_level(name: str) -> Tokenizer:
    """Returns a byte-level BPE tokenizer with the rules that `tokenizer.ggml.pre` calls `name`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = {
        "qwen2": _split(_QWEN2),
        "llama-bpe": _split(_LLAMA3),
        "smollm": pre_tokenizers.Sequence([digits, words]),
        "gpt-2": words,
    }[name]
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=[*CONTROL]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(x, normalized=False) for x in CONTROL])
    tokenizer.add_tokens([AddedToken(x, normalized=False) for x in USER_DEFINED])
    return tokenizer


def sentence_piece(prefix: bool) -> Tokenizer:
    """Returns a tokenizer as that of Llama 2 (with a prefix) or Gemma (without one)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] * prefix)])
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", *CONTROL, *pieces],
        show_progress=False,
        limit_alphabet=60,
    )
    words = [word + " " for text in CORPUS for word in text.split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    model = json.loads(tokenizer.to_str())
    model["added_tokens"] = [a for a in model["added_tokens"] if a["content"] not in pieces]
    tokenizer = Tokenizer.from_str(json.dumps(model))
    tokenizer.add_tokens([AddedToken(x, normalized=False) for x in USER_DEFINED])
    return tokenizer


def save(folder: Path, tokenizer: Tokenizer, *, adds_bos: bool = False) -> Path:
    """Writes tokenizer.json into `folder`, and returns it."""
    if adds_bos:
        ids = [("<|bos|>", tokenizer.token_to_id("<|bos|>"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=ids
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def metadata(tokenizer: Tokenizer, kind: str, **more) -> dict:
    """Returns the GGUF metadata of a tokenizer, as llama.cpp's conversion has it.

    kind: "gpt2" or "llama", the value of `tokenizer.ggml.model`. more: further values.
    """
    model = json.loads(tokenizer.to_str())["model"]
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    types = [3 if t in CONTROL else 4 if t in USER_DEFINED else 1 for t in tokens]
    found = {"model": kind, "tokens": tokens, "eos_token_id": ids["<|end|>"]}
    found |= {"bos_token_id": ids["<|bos|>"]}
    if kind == "gpt2":
        found["merges"] = [" ".join(merge) for merge in model["merges"]]
    else:
        ranks = {}
        for i, merge in enumerate(model["merges"]):
            ranks.setdefault("".join(merge), i)
        found["scores"] = [-float(ranks.get(token, 1e6)) for token in tokens]
        types = [
            6 if t.startswith("<0x") else 2 if t == "<unk>" else k
            for t, k in zip(tokens, types, strict=True)
        ]
        found["unknown_token_id"] = ids["<unk>"]
    found |= {"token_type": types} | more
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}
