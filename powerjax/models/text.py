"""Text in and out: the tokenizer, chat template or raw prompt, stop ids. Needs no torch."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from powerjax.models import json_file
from powerjax.records.prompt_style import CHAT
from powerjax.records.prompt_style import RAW as RAW  # `prompts` has both names from here

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
    generation = json_file.read(path) if path.is_file() else {}
    for name, source in ((path.name, generation), ("config.json", hf_config)):
        ids = source.get("eos_token_id")
        if ids is None:
            continue
        listed = ids if isinstance(ids, list) else [ids]
        if not all(type(token) is int and token >= 0 for token in listed):
            file = f"{name} in {folder}"
            raise json_file.damaged(file, "eos_token_id", ids, "a token id or a list of them")
        return tuple(listed)
    return ()


class Rendered(str):
    """A prompt that a chat template has made: whatever special tokens it needs stand in its text.

    `encode` therefore adds none, as transformers' own `apply_chat_template(tokenize=True)` adds
    none. Text appended to it is a part of it. JSON makes a plain string of it; see
    `recorded_prompt`.
    """

    def __add__(self, more: str) -> "Rendered":
        return Rendered(str(self) + more)


def encode(tokenizer, text: str, *, special: bool = True) -> list[int]:
    """The token ids of a text, with the special tokens that the tokenizer adds to a prompt.

    special: False adds none, as for a completion. None are added to a `Rendered` prompt either,
        nor to a text that begins with the token that would be put before it (a template that the
        user has rendered, `<s>[INST] ...`): no prompt begins with two BOS.
    """
    if isinstance(text, Rendered) or not special:
        return _ids(tokenizer, text, False)
    ids = _ids(tokenizer, text, True)
    if ids[:1] != ids[1:2]:
        return ids
    bare = _ids(tokenizer, text, False)
    return bare if bare and ids[1 : 1 + len(bare)] == bare else ids


def _ids(tokenizer, text: str, special: bool) -> list[int]:
    return list(tokenizer(str(text), add_special_tokens=special)["input_ids"])


def recorded_prompt(record: Mapping[str, Any]) -> Any:
    """A record's prompt, `Rendered` where its `prompt_style` says that a chat template made it."""
    prompt = record["prompt"]
    style = str(record.get("prompt_style")).split(", ")[-1]  # "chat", or "WORDING, chat"
    is_rendered = isinstance(prompt, str) and style == CHAT
    return Rendered(prompt) if is_rendered else prompt


def has_chat_template(tokenizer) -> bool:
    """Whether the tokenizer came with a chat template, whatever it is worth."""
    return bool(getattr(tokenizer, "chat_template", None))


def format_prompt(tokenizer, message: str, chat: bool = False) -> str:
    """`message` as it is, or as the user's turn of the tokenizer's chat template."""
    return render_chat(tokenizer, [{"role": "user", "content": message}]) if chat else message


def render_chat(
    tokenizer,
    messages: Sequence[Mapping[str, Any]],
    remedy: str = "use raw prompts (--chat_template=off)",
) -> Rendered:
    """Messages ({"role": ..., "content": ...}) in the tokenizer's chat template, ready to continue.

    remedy: what the error tells the reader to do instead.
    Raises a ValueError of one line, naming the tokenizer's folder, where there is no template, or
    it cannot be rendered, or leaves out what the last message says.
    """
    where = getattr(tokenizer, "name_or_path", "") or "this model"
    if not has_chat_template(tokenizer):
        raise ValueError(f"the tokenizer of {where} has no chat template: {remedy}")
    templates = tokenizer.chat_template
    if isinstance(templates, Mapping) and "default" not in templates:
        raise ValueError(
            f"the tokenizer of {where} has the chat templates {', '.join(sorted(templates))}, and"
            f" none of them is called default: {remedy}"
        )

    def render(last: Any) -> str:
        turns = [*map(dict, messages[:-1]), {**messages[-1], "content": last}]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    last = messages[-1]["content"]
    try:
        prompt = render(last)
        ignored = isinstance(last, str) and last not in prompt and prompt == render(f"{last} more")
    except Exception as error:  # whatever jinja and the template's own code raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the chat template of {where} cannot be rendered ({reason}): {remedy}"
        ) from error
    if not prompt.strip() or ignored:
        what = "leaves out the message" if prompt.strip() else "renders to an empty text"
        raise ValueError(f"the chat template of {where} {what}: {remedy}")
    return Rendered(prompt)
