"""Prompt-completion records -> examples in the model's tokens, checked and cut to length."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from powerjax.distill import sources
from powerjax.models import LM, prompts, text
from powerjax.records import fields, scalars
from powerjax.records.prompt_style import CHAT

log = logging.getLogger(__name__)

_CHECKED = {name: fields.FIELDS[name] for name in ("finish_reason", "prompt_sha256")}
_TEXT_OR_IDS = fields.Kind(
    lambda value: isinstance(value, str) or fields.IDS.fits(value), "text or token ids"
)


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt and its completion as token ids; EOS is among them where the completion ended.

    id: the record's own, or the file and line it came from.
    """

    id: str
    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The examples that `load` made of the records.

    Attributes:
      examples: none is longer than max_length. They are sorted by their tokens, so that the order
        of the records makes no difference.
      max_length: the most tokens of prompt and completion together.
      num_truncated: how many examples were cut at max_length.
      num_dropped: how many records were left out, because the prompt alone has max_length tokens.
      num_without_eos: how many examples have a completion that does not end in a stop token.
      fingerprint: the SHA-256 hash of all token ids, in the examples' order.
    """

    examples: list[Example]
    max_length: int
    num_truncated: int = 0
    num_dropped: int = 0
    num_without_eos: int = 0
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.examples)


def load(
    lm: LM,
    source: Any,
    *,
    max_length: int = 1024,
    template_arguments: Mapping[str, Any] | None = None,
) -> Corpus:
    """Reads the records that the model is to learn from.

    A row has a `prompt`, and either `tokens` (EOS included, as the project's records have them) or
    a `completion`. A row with neither of the two may have `messages` that end in the assistant's:
    that message is the completion, and the chat template makes a prompt of those before it. A
    prompt is a text, token ids or a list of chat messages, a completion a text or
    token ids. A text is encoded as it follows its prompt, and a completion gets EOS unless the
    row's finish_reason is "length". A prompt that a chat template made (it has BOS in its text, or
    the row's prompt_style is "chat") gets no special tokens beside its own.

    Args:
      lm: the model whose tokens the examples are in.
      source: a JSONL file, a folder of `datasets.save_to_disk`, a Hugging Face dataset id (its
        split "train"), a `datasets.Dataset`, or any iterable of dicts. A last line of a file that a
        kill cut short is left out.
      max_length: the most tokens of prompt and completion together; longer examples are cut there.
      template_arguments: variables of the chat template, such as {"enable_thinking": False}, for
        rows that are conversations.

    Raises:
      ValueError, FileNotFoundError: the records cannot be learnt from. The message has one line and
        names the file and the line.
    """
    max_length = _checked_length(max_length)
    name, rows = sources.rows(source)
    eos = _eos(lm)
    examples, longest, num_truncated, num_dropped, num_rows = [], 0, 0, 0, 0
    for where, row in rows:
        example = _example(lm, _as_pair(lm, row, where, template_arguments), where, eos)
        num_rows += 1
        longest = max(longest, len(example))
        if len(example.prompt) >= max_length:
            num_dropped += 1
            continue
        if len(example) > max_length:
            num_truncated += 1
            room = max_length - len(example.prompt)
            example = dataclasses.replace(example, completion=example.completion[:room])
        examples.append(example)
    if not num_rows:
        raise ValueError(f"{name} holds no examples")
    if num_truncated + num_dropped == num_rows:
        raise _all_longer(name, max_length, longest)
    # A record file is in the order in which chains finished, which differs from run to run.
    examples.sort(key=lambda example: (example.prompt, example.completion))
    _check_context(lm, name, max(map(len, examples)))
    num_without_eos = _count_without_eos(lm, name, examples)
    return Corpus(
        examples, max_length, num_truncated, num_dropped, num_without_eos, _fingerprint(examples)
    )


def _count_without_eos(lm: LM, name: str, examples: list[Example]) -> int:
    """Returns how many completions do not end in a stop token, and warns of them."""
    count = sum(example.completion[-1] not in lm.stop_ids for example in examples)
    if count:
        log.warning(
            "%s: %d of %d completions do not end in a stop token; from those the student does not"
            " learn to stop",
            *(name, count, len(examples)),
        )
    return count


def _all_longer(name: str, max_length: int, longest: int) -> ValueError:
    return ValueError(
        f"{name}: every example is longer than --max_length={max_length}; the longest has {longest}"
        " tokens (prompt and completion)"
    )


def _checked_length(max_length: Any) -> int:
    """Returns max_length as an int. Raises ValueError unless it is a whole number, 2 or more."""
    number = scalars.whole(max_length)
    if number is None or number < 2:
        raise ValueError(
            f"--max_length={scalars.shown(max_length)}: it must be a whole number, 2 or more, for a"
            " prompt and a completion"
        )
    return number


def _as_pair(lm: LM, row: Any, where: str, arguments: Mapping[str, Any] | None) -> Any:
    """Returns a row of messages as one of a rendered prompt and a completion; others as they are.

    Raises ValueError where the messages are no conversation that the assistant ends.
    """
    is_pair = not hasattr(row, "keys") or row.get("messages") is None
    if is_pair or any(row.get(name) is not None for name in ("prompt", "completion", "tokens")):
        return row
    fields.check(row, where, kinds={"messages": fields.FIELDS["messages"]})
    *before, last = row["messages"]
    if last["role"] != "assistant" or not before:
        raise ValueError(
            f"{where}: the messages do not end in an answer of the assistant, which is what is"
            " learnt: add it, or give a prompt and a completion"
        )
    remedy = "give the texts as prompt and completion"
    try:
        prompt = text.render_chat(lm.tokenizer, before, remedy, arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return {**row, "prompt": prompt, "completion": last["content"], "prompt_style": CHAT}


def _example(lm: LM, row: Any, where: str, eos: int | None) -> Example:
    """Returns a row as an example, not yet cut to length.

    where: what messages call the row. eos: the token that ends a text; None leaves texts open.
    """
    if not hasattr(row, "keys"):
        raise ValueError(f"{where}: expected a dict, found {type(row).__name__}")
    row = {key: value for key, value in row.items() if value is not None}
    source = "tokens" if "tokens" in row else "completion"  # the field of the completion
    for field in ("prompt", source):
        if field not in row:
            if field == "prompt" and "prompt_sha256" in row:
                raise ValueError(
                    f"{where}: no prompt, only its prompt_sha256, for its text is secret: name the"
                    " task it was sampled from, --task=gpqa_rest, say"
                )
            raise ValueError(f"{where}: no {field}, only {scalars.listed(row) or 'nothing'}")
    fields.check(row, where, kinds=_CHECKED)
    prompt = prompts.encode(lm, text.recorded_prompt(row), f"{where}: prompt")
    if source == "tokens":
        fields.check(row, where, kinds={"completion": _TEXT_OR_IDS})
        completion = prompts.ids(lm, row["tokens"], f"{where}: tokens")
    else:
        here = f"{where}: completion"
        completion = prompts.encode(lm, row["completion"], here, special=False, chat=False)
    for field, ids in (("prompt", prompt), (source, completion)):
        if not ids:
            raise ValueError(f"{where}: {field} is empty")
    if source == "tokens":
        _check_text(lm, completion, row.get("completion"), where)
    else:
        completion = _in_place(lm, row, prompt, completion, where)
        if eos is not None and row.get("finish_reason") != "length":
            completion = completion + ([] if completion[-1] in lm.stop_ids else [eos])
    return Example(str(row.get("id", where)), prompt, completion)


def _in_place(lm: LM, row: Any, prompt: list[int], alone: list[int], where: str) -> list[int]:
    """Returns the ids of a text completion as it follows its prompt.

    Tokenizers such as Phi's put a space before whatever they encode, so a completion encoded by
    itself would begin with a space that its text does not have. Where encoding both together would
    change the prompt's ids, the completion's ids are `alone`: those of the completion by itself.
    """
    if not isinstance(row["prompt"], str) or not isinstance(row["completion"], str):
        return alone
    whole = text.recorded_prompt(row) + row["completion"]
    both, size = lm.encode(whole, what=f"{where}: completion"), len(prompt)
    return both[size:] if both[:size] == prompt and both[size:] else alone


def _check_text(lm: LM, tokens: list[int], text: Any, where: str) -> None:
    """Raises ValueError where the tokens are another model's: they would be learnt as nonsense."""
    if lm.tokenizer is None or not isinstance(text, str):
        return
    if lm.decode(tokens) != text:  # special tokens, EOS among them, are left out
        raise ValueError(
            f"{where}: the tokens are not the completion's in the tokenizer of {lm.name}; were"
            " they sampled from another model? Without the field tokens the text is encoded"
        )


def _eos(lm: LM) -> int | None:
    """Returns the stop token that ends a text; None where the model has none.

    It is the tokenizer's own EOS where the model stops at that one.
    """
    own = getattr(lm.tokenizer, "eos_token_id", None)
    return own if own in lm.stop_ids else next(iter(lm.stop_ids), None)


def _check_context(lm: LM, name: str, longest: int) -> None:
    """Raises ValueError where the longest example does not fit the model's context."""
    context = lm.config.max_position_embeddings
    if longest > context:
        raise ValueError(
            f"{name} has an example of {longest} tokens, and {lm.name} a context of {context}:"
            f" give a --max_length of at most {context}"
        )


def _fingerprint(examples: list[Example]) -> str:
    """Returns the SHA-256 hash of the examples' token ids, in hexadecimal."""
    digest = hashlib.sha256()
    for example in examples:
        sizes = [len(example.prompt), len(example.completion)]
        ids = np.asarray([*sizes, *example.prompt, *example.completion], "<i8")
        digest.update(ids.tobytes())
    return digest.hexdigest()
