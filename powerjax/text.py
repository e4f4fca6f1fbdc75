"""Text in and out: the tokenizer, chat template or raw prompt, stop ids. Needs no torch."""

import json
import os
from pathlib import Path

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_tokenizer(folder: str | Path):
    """The folder's tokenizer, or None where it holds none.

    A tokenizer.json is taken at its word. AutoTokenizer of transformers 5 instead rebuilds
    LlamaTokenizer's (Phi-3's) normaliser from defaults and so swallows one leading space, in 15 of
    the 47 published Phi-3 vectors; it is used where there are only the older files.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    # Read at import only: it silences the advice to install PyTorch, which is not needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception on damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"the tokenizer files in {folder} cannot be read: {reason}") from error


def stop_ids(folder: str | Path, hf_config: dict) -> tuple[int, ...]:
    """All eos ids of generation_config.json, or where it names none, of config.json."""
    path = Path(folder) / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    for source in (generation, hf_config):
        ids = source.get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def encode(tokenizer, text: str, *, special: bool = True) -> list[int]:
    """The token ids of a text; special: with the special tokens that the tokenizer adds."""
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def format_prompt(tokenizer, message: str, chat: bool = False) -> str:
    """`message` as it is, or as the user's turn of the tokenizer's chat template."""
    if not chat:
        return message
    return render_chat(tokenizer, [{"role": "user", "content": message}])


def render_chat(tokenizer, messages: list[dict]) -> str:
    """A conversation as the tokenizer's chat template writes it, up to the assistant's answer."""
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise ValueError("this model's tokenizer has no chat template: use a raw prompt")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def read_json(path: Path) -> dict:
    """A model folder's JSON file; ValueError names the file where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): download it again") from error
