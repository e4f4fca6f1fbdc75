"""What a user hands in as prompts and completions, as token ids: every entry reads them here.

A prompt is a text, token ids (a list or an array of one axis), or a conversation: a list of
messages {"role": ..., "content": ...}, which the tokenizer's chat template renders. A completion is
a text or token ids. Whatever else is given is refused by one ValueError of one line, and so is a
token id that the model has no embedding for, whether it was given or a text encodes to it.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from powerjax.models import text
from powerjax.records import scalars

_TEXT_OR_IDS = "text or a list of token ids"


def encode(
    lm, value: Any, what: str = "the prompt", *, special: bool = True, chat: bool = True
) -> list[int]:
    """The token ids of one prompt or completion, each below lm.config.vocab_size.

    Args:
      lm: the model; its `tokenizer`, `name` and `config.vocab_size` are used.
      value: a text, token ids, or a conversation.
      what: names the value in messages, as "prompt 3".
      special: encode a text with the special tokens that the tokenizer adds. A conversation has
        those of its template alone.
      chat: whether a conversation may be given.
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
    lm, values: Any, what: str = "prompt", *, special: bool = True, chat: bool = True
) -> list[list[int]]:
    """The token ids of each of several prompts or completions (`encode`), named `what` 0, 1, ...

    A list of chat messages is one conversation, and so one prompt.
    """
    return [
        encode(lm, value, f"{what} {i}", special=special, chat=chat)
        for i, value in enumerate(separate(values, what, chat=chat))
    ]


def separate(values: Any, what: str = "prompt", *, chat: bool = True) -> list:
    """The list of the single prompts or completions in what was given for several."""
    values = listed(values, f"{what}s", f"a list of {what}s")
    if values and all(scalars.whole(value) is not None for value in values):
        raise ValueError(f"{what}s is one list of token ids: wrap it in a list, [[1, 2, ...]]")
    if chat and values and all(_is_message(value) for value in values):
        return [values]
    return values


def _is_message(value: Any) -> bool:
    # What a tokenizer returns is a mapping too, and is refused by name as a prompt.
    return isinstance(value, Mapping) and "input_ids" not in value


def style(prompts: list) -> str:
    """How single prompts ask: "chat" through a chat template, else "raw"; "mixed" where both do."""
    styles = {text.CHAT if _is_chat(prompt) else text.RAW for prompt in prompts}
    return styles.pop() if len(styles) == 1 else "mixed"


def _is_chat(prompt: Any) -> bool:
    if isinstance(prompt, list | tuple):
        return any(isinstance(item, Mapping) for item in prompt)
    return isinstance(prompt, text.Rendered)


def ids(lm, value: Any, what: str = "the sequence") -> list[int]:
    """Token ids, each of which the model has; text is refused."""
    if isinstance(value, str):
        raise ValueError(f"{what} is text: give a list of token ids")
    whole = _whole(listed(value, what, "a list of token ids"), what)
    return _in_vocabulary(lm, whole, what, "were they made by another tokenizer?")


def listed(values: Any, what: str, wanted: str) -> list:
    """The values as a list: of a sequence, an array, or anything else that yields them in order.

    Raises ValueError for a text, bytes, a mapping (as a tokenizer returns), a set, and whatever
    cannot be gone through.
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
            # A masked array is an array of NumPy, and its masked items stay None.
            values = values if isinstance(values, np.ndarray) else np.asarray(values)
        except (TypeError, RuntimeError) as error:  # a tensor on another library's device
            reason = str(error).split("\n")[0]
            raise ValueError(f"{what} is an array that NumPy cannot read ({reason})") from None
        if values.ndim == 0:
            raise ValueError(f"{what} is an array without axes: give {wanted}")
        return values.tolist()
    return list(values)


def check_text(value: str, what: str) -> str:
    """The text, if it is one: half a surrogate pair is none, and no tokenizer encodes it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has half a surrogate pair at character {error.start + 1}, which is no text:"
            " write the whole character"
        ) from None
    return value


def _of_text(lm, value: str, what: str, special: bool) -> list[int]:
    check_text(value, what)
    if lm.tokenizer is None:
        raise ValueError(
            f"{what} is text, and {lm.name or 'this model'} has no tokenizer files: give token ids"
        )
    found = text.encode(lm.tokenizer, value, special=special)
    return _in_vocabulary(lm, found, what, "the tokenizer has more tokens than the embeddings")


def _rendered(lm, messages: list, what: str) -> str:
    """The conversation as the tokenizer's chat template writes it, up to the assistant's answer."""
    for i, message in enumerate(messages):
        here = f"{what}, message {i}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{here} is {_kind(message)}: give a dict with a role and a content")
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise ValueError(
                    f"{here} has no {field} that is text: a message is a dict with a role and a"
                    " content"
                )
            check_text(message[field], f"{here}, {field}")
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
    if all(type(item) is int for item in items):
        return items
    found = [scalars.whole(item) for item in items]
    if None in found:
        place = found.index(None)
        item = items[place]
        hint = ": it is nested too deep" if isinstance(item, list | tuple | np.ndarray) else ""
        raise ValueError(f"{what} has {scalars.shown(item)} where a token id is due{hint}")
    return found


def _in_vocabulary(lm, found: list[int], what: str, hint: str) -> list[int]:
    # A lookup past the end would be clamped in silence.
    size = lm.config.vocab_size
    if found and not (min(found) >= 0 and max(found) < size):
        bad = next(token for token in found if not 0 <= token < size)
        raise ValueError(
            f"{what} has token id {scalars.shown(bad)}, outside the vocabulary of {size}: {hint}"
        )
    return found


def _kind(value: Any) -> str:
    """`None`, `5.9`, `of type set`: how a message names a value that is no prompt."""
    if value is None or isinstance(value, bool | int | float | np.generic):
        return scalars.shown(value)
    return f"of type {type(value).__name__}"
