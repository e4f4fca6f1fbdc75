"""Prompts and completions of a user as token ids. Sampling, scoring and distilling read them here.

A prompt is a text, token ids (a list or an array of one axis), or a conversation: a list of
messages {"role": ..., "content": ...}, which the tokenizer's chat template renders. A completion is
a text or token ids. Anything else raises ValueError with a one-line message. So does a token id
that the model has no embedding for, whether the user gave it or a text encodes to it.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any, Protocol

import numpy as np

from powerjax.models import text
from powerjax.models.config import ModelConfig
from powerjax.records import scalars

_TEXT_OR_IDS = "text or a list of token ids"


class Encoder(Protocol):
    """What this file needs of a loaded model, see `language_model.LM`."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def name(self) -> str: ...


def encode(
    lm: Encoder, value: Any, what: str = "the prompt", *, special: bool = True, chat: bool = True
) -> list[int]:
    """Returns the token ids of one prompt or completion, each below lm.config.vocab_size.

    Args:
      lm: the model, whose tokenizer and vocabulary count.
      value: a text, token ids, or a conversation.
      what: names the value in messages, such as "prompt 3".
      special: whether a text gets the special tokens that the tokenizer adds. A conversation has
        only those of its template.
      chat: whether a conversation may be given.

    Raises ValueError for any other value, and for an id outside the vocabulary.
    """
    kinds = "text, a list of token ids or a list of chat messages" if chat else _TEXT_OR_IDS
    if isinstance(value, str):
        return _of_text(lm, value, what, special)
    items = listed(value, what, kinds)
    if any(isinstance(item, Mapping) for item in items):
        if not chat:
            raise ValueError(f"{what} is a list of chat messages: give {kinds}")
        return _of_text(lm, _rendered(lm, items, what), what, special=False)
    return _in_vocabulary(lm, _whole(items, what), what, "were they made by another tokenizer?")


def encode_all(
    lm: Encoder, values: Any, what: str = "prompt", *, special: bool = True, chat: bool = True
) -> list[list[int]]:
    """Returns the token ids of several prompts or completions, each by `encode`.

    what: messages call the values `what` 0, `what` 1, and so on. For the rest see `encode`. One
        list of chat messages counts as one prompt.
    """
    return [
        encode(lm, value, f"{what} {i}", special=special, chat=chat)
        for i, value in enumerate(separate(values, what, chat=chat))
    ]


def separate(values: Any, what: str = "prompt", *, chat: bool = True) -> list:
    """Returns a list of single prompts or completions, none of them encoded yet.

    Args:
      values: several prompts or completions in order, or, if `chat`, one conversation.
      what: the name in messages of a single one: "prompt" or "completion".

    Raises ValueError for one text, for one list of token ids, and as `listed` does.
    """
    values = listed(values, f"{what}s", f"a list of {what}s")
    if values and all(scalars.whole(value) is not None for value in values):
        raise ValueError(f"{what}s is one list of token ids: wrap it in a list, [[1, 2, ...]]")
    if chat and values and all(_is_message(value) for value in values):
        return [values]
    return values


def _is_message(value: Any) -> bool:
    # A tokenizer's result is a mapping with "input_ids". It is no message: `listed` refuses it with
    # advice of its own.
    return isinstance(value, Mapping) and "input_ids" not in value


def style(prompts: list) -> str:
    """Returns the style of single prompts: "chat" if a chat template makes or made all of them.

    It is "raw" if none was made by a template, and "mixed" if some were.
    """
    styles = {text.CHAT if _is_chat(prompt) else text.RAW for prompt in prompts}
    return styles.pop() if len(styles) == 1 else "mixed"


def _is_chat(prompt: Any) -> bool:
    if isinstance(prompt, list | tuple):
        return any(isinstance(item, Mapping) for item in prompt)
    return isinstance(prompt, text.Rendered)


def ids(lm: Encoder, value: Any, what: str = "the sequence") -> list[int]:
    """Returns token ids as a list of int, checked against the model's vocabulary.

    Raises ValueError for a text, for anything else that is not token ids, and for an id outside the
    vocabulary.
    """
    if isinstance(value, str):
        raise ValueError(f"{what} is text: give a list of token ids")
    whole = _whole(listed(value, what, "a list of token ids"), what)
    return _in_vocabulary(lm, whole, what, "were they made by another tokenizer?")


def listed(values: Any, what: str, wanted: str) -> list:
    """Returns the values of a sequence, an array or another ordered iterable as a list.

    Args:
      what: what `values` is called in messages.
      wanted: what the messages tell the reader to give.

    Raises ValueError for a text, bytes, a mapping (such as a tokenizer's result), a set, and for
    what is not iterable.
    """
    if isinstance(values, list | tuple):
        return list(values)
    if isinstance(values, str):
        raise ValueError(f"{what} is one string: give {wanted}")
    if isinstance(values, Mapping) and "input_ids" in values:
        raise ValueError(
            f"{what} is what a tokenizer returns: give its ['input_ids'] alone, made without"
            " padding"
        )
    unfit = isinstance(values, bytes | bytearray | memoryview | Mapping | Set)
    if unfit or not isinstance(values, Iterable):
        raise ValueError(f"{what} is {_kind(values)}: give {wanted}")
    if hasattr(values, "__array__"):
        try:
            # np.asarray would drop a masked array's mask; its `tolist` makes masked items None.
            values = values if isinstance(values, np.ndarray) else np.asarray(values)
        except (TypeError, RuntimeError) as error:  # a tensor on another library's device
            reason = str(error).split("\n")[0]
            raise ValueError(f"{what} is an array that NumPy cannot read ({reason})") from None
        if values.ndim == 0:
            raise ValueError(f"{what} is an array without axes: give {wanted}")
        return values.tolist()
    return list(values)


def check_text(value: str, what: str) -> str:
    """Returns `value` if it is valid Unicode text.

    Raises ValueError for a string with half a surrogate pair, which no tokenizer encodes.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has half a surrogate pair at character {error.start + 1}, which is no text:"
            " write the whole character"
        ) from None
    return value


def _of_text(lm: Encoder, value: str, what: str, special: bool) -> list[int]:
    """Returns the token ids of a text, checked against the model's vocabulary."""
    check_text(value, what)
    if lm.tokenizer is None:
        raise ValueError(
            f"{what} is text, and {lm.name or 'this model'} has no tokenizer files: give token ids"
        )
    tokens = text.encode(lm.tokenizer, value, special=special)
    return _in_vocabulary(lm, tokens, what, "the tokenizer has more tokens than the embeddings")


def _rendered(lm: Encoder, messages: list, what: str) -> str:
    """Returns a conversation in the chat template, up to where the assistant's answer begins.

    Raises ValueError for what is no message, and for a conversation that ends in an answer.
    """
    for i, message in enumerate(messages):
        label = f"{what}, message {i}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{label} is {_kind(message)}: give a dict with a role and a content")
        if isinstance(message.get("content"), list):
            raise ValueError(
                f"{label} has a content of parts, such as images: only text is read, give a string"
            )
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise ValueError(
                    f"{label} has no {field} that is text: a message is a dict with a role and a"
                    " content"
                )
            check_text(message[field], f"{label}, {field}")
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            f"{what} ends in the assistant's message, and there is nothing to answer: end it in"
            " another's, or give the text to continue"
        )
    remedy = "give its text, or token ids, instead of messages"
    try:
        return text.render_chat(lm.tokenizer, [dict(message) for message in messages], remedy)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _whole(items: list, what: str) -> list[int]:
    """Returns the items as a list of int. Raises ValueError for one that is not a whole number."""
    if all(type(item) is int for item in items):
        return items
    tokens = []
    for item in items:
        token = scalars.whole(item)
        if token is None:
            hint = ": it is nested too deep" if isinstance(item, list | tuple | np.ndarray) else ""
            raise ValueError(f"{what} has {scalars.shown(item)} where a token id is due{hint}")
        tokens.append(token)
    return tokens


def _in_vocabulary(lm: Encoder, tokens: list[int], what: str, hint: str) -> list[int]:
    """Returns `tokens`. Raises ValueError where one has no embedding, and ends it with `hint`."""
    # JAX would clamp a lookup past the end without a sign.
    size = lm.config.vocab_size
    if tokens and not (min(tokens) >= 0 and max(tokens) < size):
        bad = next(token for token in tokens if not 0 <= token < size)
        raise ValueError(
            f"{what} has token id {scalars.shown(bad)}, outside the vocabulary of {size}: {hint}"
        )
    return tokens


def _kind(value: Any) -> str:
    """Returns how a message names a value that is no prompt: `None`, `5.9`, `of type set`."""
    if value is None or isinstance(value, bool | int | float | np.generic):
        return scalars.shown(value)
    return f"of type {type(value).__name__}"
