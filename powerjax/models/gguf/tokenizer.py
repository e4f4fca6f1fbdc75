"""The tokenizer of a GGUF file, built from its metadata. No file but this one is needed.

The pieces are those of the tokenizer.json files of the same vocabularies: the file names the
pre-tokenizer, whose pattern is not in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from powerjax.models.gguf import sentencepiece

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types
_SPACE = sentencepiece.SPACE
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2, _LLAMA3, _SMOLLM, _GPT2 = "qwen2", "llama-bpe", "smollm", "gpt-2"
_PRE_TOKENIZERS = {  # `tokenizer.ggml.pre` -> the rules that it stands for
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smollm": _SMOLLM,
    "gpt-2": _GPT2,
    "gpt2": _GPT2,
    "default": _GPT2,
}
_ADDS_BOS = (_LLAMA3,)  # where the file does not say
_REMEDY = "put the model's tokenizer.json beside the file"


def build_tokenizer(metadata: Mapping[str, Any], path: Path) -> Any:
    """Returns a transformers tokenizer of a GGUF file, or None where it has no vocabulary.

    It has the special tokens by their types, the chat template, and BOS before a text where the
    file says so.

    Args:
      metadata: the file's metadata by key.
      path: the file, which messages and the tokenizer's `name_or_path` name.

    Raises ValueError, in one line, for a kind of vocabulary that is not built.
    """
    kind, tokens = _get(metadata, "model"), _get(metadata, "tokens")
    if not tokens:
        return None
    types = _get(metadata, "token_type") or [_NORMAL] * len(tokens)
    if kind == "gpt2":
        tokenizer, adds_bos = _byte_level(metadata, tokens, path)
    elif kind == "llama":
        tokenizer, adds_bos = _sentence_piece(metadata, tokens, types, path), True
    else:
        raise ValueError(f"{path} has a vocabulary of the kind {kind!r}: {_REMEDY}")
    for token, type_ in zip(tokens, types, strict=True):
        if type_ == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif type_ == _USER_DEFINED and token.strip(f" {_SPACE}"):  # else a piece
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    special = {
        name: _special(metadata, tokens, name) for name in ("bos", "eos", "unknown", "padding")
    }
    said = _get(metadata, "add_bos_token")
    if (adds_bos if said is None else said) and special["bos"] is not None:
        bos = special["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, _get(metadata, "bos_token_id"))],
        )
    return _wrapped(tokenizer, special, metadata.get("tokenizer.chat_template"), path)


def has_tokens_of(tokenizer: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether a tokenizer has the ordinary tokens of a GGUF file, each under its id."""
    tokens = _get(metadata, "tokens") or []
    types = _get(metadata, "token_type") or [_NORMAL] * len(tokens)
    ids = tokenizer.get_vocab()
    return bool(tokens) and all(
        ids.get(token) == i
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _NORMAL
    )


def _get(metadata: Mapping[str, Any], key: str) -> Any:
    return metadata.get(f"tokenizer.ggml.{key}")


def _special(metadata: Mapping[str, Any], tokens: list[str], name: str) -> str | None:
    """Returns the text of the token that the metadata names, such as "bos"."""
    token = _get(metadata, f"{name}_token_id")
    return tokens[token] if token is not None and 0 <= token < len(tokens) else None


def _byte_level(
    metadata: Mapping[str, Any], tokens: list[str], path: Path
) -> tuple[Tokenizer, bool]:
    """Returns a byte-level BPE tokenizer, and whether its family puts BOS before a text."""
    name = _get(metadata, "pre") or "default"
    rules = _PRE_TOKENIZERS.get(name)
    if rules is None:
        known = ", ".join(_PRE_TOKENIZERS)
        raise ValueError(
            f"{path} has the pre-tokenizer {name!r}, and only {known} are known: {_REMEDY}"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in _get(metadata, "merges") or []]
    if not all(len(merge) == 2 for merge in merges):
        raise ValueError(f"{path} has merges that are no pairs: download it again, or {_REMEDY}")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # Llama 3 takes a word that is a token as it is, whatever its merges are.
    model = models.BPE(vocabulary, merges, ignore_merges=rules == _LLAMA3)
    tokenizer = Tokenizer(model)
    if rules == _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(rules)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, rules in _ADDS_BOS


def _pre_tokenizer(rules: str) -> Any:
    """Returns what divides a text into words, before its bytes are merged."""
    if rules == _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rules == _SMOLLM:
        first = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence(
            [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    numbers = r"\p{N}" if rules == _QWEN2 else r"\p{N}{1,3}"
    words = Regex(_WORDS.replace("NUMBERS", numbers))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _sentence_piece(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], path: Path
) -> Tokenizer:
    """Returns a tokenizer of SentencePiece's BPE, with bytes for what is not in the vocabulary."""
    scores = _get(metadata, "scores")
    if scores is None or len(scores) != len(tokens):
        raise ValueError(f"{path} has no score for each token: download it again, or {_REMEDY}")
    pieces = sentencepiece.spelled(tokens, types)
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            sentencepiece.merges(pieces, scores, types),
            unk_token=_special(metadata, pieces, "unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = _get(metadata, "add_space_prefix") is not False
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _wrapped(
    tokenizer: Tokenizer, special: Mapping[str, str | None], template: str | None, path: Path
) -> Any:
    """Returns the tokenizer as one of transformers, with its special tokens and chat template."""
    from transformers import PreTrainedTokenizerFast

    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        **{f"{names[key]}_token": text for key, text in special.items() if text is not None},
    )
    wrapped.chat_template = template
    wrapped.name_or_path = str(path)
    return wrapped
