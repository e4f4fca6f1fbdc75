"""The flags on chat templates, which the launchers that put problems to a model share."""

from typing import Any, NamedTuple

from absl import flags

from experiments import flags as shared
from powerjax import runs

flags.disclaim_key_flags()  # a flag belongs to the launcher that calls `define`


class ChatFlags(NamedTuple):
    """The flags: --chat_template, --system and --enable_thinking."""

    template: shared.Holder[str]
    system: shared.Holder[Any]
    enable_thinking: shared.Holder[Any]

    @property
    def value(self) -> runs.Chat:
        """What the flags say."""
        return runs.Chat(self.template.value, self.system.value, self.enable_thinking.value)


def define(what: str | None = None) -> ChatFlags:
    """Defines the flags.

    what: the question that on and off of --chat_template answer; None for the usual one.
    """
    return ChatFlags(
        shared.define_chat_template(*([] if what is None else [what])),
        flags.DEFINE_string(
            "system",
            None,
            "The system message of each conversation in the chat template. Conversations that begin"
            " with one keep theirs. Default: none, and then some templates add one of their own.",
        ),
        flags.DEFINE_bool(
            "enable_thinking",
            None,
            "Whether the chat template lets the model think first, for templates that have the"
            " variable enable_thinking, such as Qwen3's. Default: the template's own.",
        ),
    )
