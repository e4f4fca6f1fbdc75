"""Text in and out: the tokenizer, chat templates and raw prompts, stop ids. Needs no torch."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from powerjax.models import gguf, json_file
from powerjax.records.prompt_style import CHAT
from powerjax.records.prompt_style import RAW as RAW  # `prompts` has both names from here

log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_tokenizer(folder: str | Path):
    """Returns the tokenizer of a folder or GGUF file, or None where it has none.

    A tokenizer.json is read as it stands. AutoTokenizer of transformers 5 would instead rebuild
    the normaliser of LlamaTokenizer (Phi-3's) from defaults, which loses one leading space in 15 of
    the 47 published Phi-3 vectors. AutoTokenizer is used where there are only the older files.

    Raises ValueError where the files cannot be read.
    """
    folder = Path(folder)
    if folder.is_file():
        return _of_gguf(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    # Silences the advice to install PyTorch, which is not needed here. transformers reads the
    # variable when it is imported.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception on damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"the tokenizer files in {folder} cannot be read: {reason}") from error


def _of_gguf(path: Path):
    """Returns the tokenizer of a GGUF file.

    That is the tokenizer.json beside it, where it has the file's tokens, and else one built of the
    file's metadata. The log says which.
    """
    metadata = gguf.read(path).metadata
    if (path.parent / "tokenizer.json").is_file():
        beside = load_tokenizer(path.parent)
        if gguf.has_tokens_of(beside, metadata):
            log.info("%s: the tokenizer is the tokenizer.json beside it", path)
            if not has_chat_template(beside):
                beside.chat_template = metadata.get("tokenizer.chat_template")
            return beside
        log.warning("%s: the tokenizer.json beside it has other tokens and is not read", path)
    log.info("%s: the tokenizer is that of the file", path)
    try:
        return gguf.build_tokenizer(metadata, path)
    except ValueError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception on damaged values
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(
            f"the vocabulary of {path} cannot be read ({reason}): download it again"
        ) from error


def stop_ids(folder: str | Path, hf_config: dict) -> tuple[int, ...]:
    """Returns all eos ids of generation_config.json, or where it names none, of config.json.

    Where neither names any, they are those of the `text_config` in config.json, and () where that
    has none. Raises ValueError for ids that are not whole numbers.
    """
    path = Path(folder) / "generation_config.json"
    generation = json_file.read(path) if path.is_file() else {}
    text_part = hf_config.get("text_config")
    text_part = text_part if isinstance(text_part, dict) else {}
    files = ((path.name, generation), ("config.json", hf_config), ("config.json", text_part))
    for name, source in files:
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
    """A prompt that a chat template has made.

    Its text contains all special tokens that it needs. `encode` therefore adds none, as
    transformers' own `apply_chat_template(tokenize=True)` adds none. A sum with a string is
    Rendered too. JSON turns it into a plain string, from which `recorded_prompt` makes it again.
    """

    def __add__(self, text: str) -> "Rendered":
        return Rendered(str(self) + text)


def encode(tokenizer, text: str, *, special: bool = True) -> list[int]:
    """Returns the token ids of a text, with the special tokens that the tokenizer adds to a prompt.

    None are added to a `Rendered` prompt. None are added either to a text that already begins with
    the token that would be put before it, such as a template that the user has rendered
    (`<s>[INST] ...`). So no prompt begins with two BOS.

    special: whether to add special tokens at all; a completion has none.
    """
    if isinstance(text, Rendered) or not special:
        return _ids(tokenizer, text, False)
    ids = _ids(tokenizer, text, True)
    if ids[:1] != ids[1:2]:
        return ids
    bare = _ids(tokenizer, text, False)
    return bare if bare and ids[1 : 1 + len(bare)] == bare else ids


def _ids(tokenizer, text: str, special: bool) -> list[int]:
    """Returns the tokenizer's own encoding."""
    return list(tokenizer(str(text), add_special_tokens=special)["input_ids"])


def recorded_prompt(record: Mapping[str, Any]) -> Any:
    """Returns a record's prompt, as `Rendered` where its `prompt_style` names a chat template.

    record: a row of a records file; "prompt" is a text, token ids or a conversation.
    """
    prompt = record["prompt"]
    style = str(record.get("prompt_style")).split(", ")[-1]  # "chat", or "WORDING, chat"
    is_rendered = isinstance(prompt, str) and style == CHAT
    return Rendered(prompt) if is_rendered else prompt


def has_chat_template(tokenizer) -> bool:
    """Whether the tokenizer came with a chat template, which may or may not be usable."""
    return bool(getattr(tokenizer, "chat_template", None))


def format_prompt(tokenizer, message: str, chat: bool = False) -> str:
    """Returns `message` as it is, or if `chat`, as the user's turn in the chat template."""
    return render_chat(tokenizer, [{"role": "user", "content": message}]) if chat else message


def render_chat(
    tokenizer,
    messages: Sequence[Mapping[str, Any]],
    remedy: str = "use raw prompts (--chat_template=off)",
    arguments: Mapping[str, Any] | None = None,
) -> Rendered:
    """Returns messages in the tokenizer's chat template, up to where the assistant's answer begins.

    Args:
      messages: dicts with a "role" and a "content".
      remedy: what the error tells the reader to do instead.
      arguments: further variables of the template, such as {"enable_thinking": False}.

    Raises ValueError where there is no template, where it cannot be rendered, where it leaves out
    the last message or a system message, and where it has no variable of an argument's name. The
    message is one line and names the tokenizer's folder.
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
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **(arguments or {})
        )

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
    for message in messages[:-1]:
        content = message["content"]
        if message["role"] == "system" and content.strip() and content.strip() not in prompt:
            raise ValueError(
                f"the chat template of {where} leaves out the system message: {remedy}"
            )
    for name in arguments or ():
        if not re.search(rf"\b{re.escape(name)}\b", _template(templates)):
            raise ValueError(f"the chat template of {where} has no variable {name!r}: leave it out")
    return Rendered(prompt)


def _template(templates: str | Mapping[str, str]) -> str:
    """Returns the template that a conversation is rendered with, of one or of several by name."""
    return templates if isinstance(templates, str) else templates["default"]
