"""How a model is prompted with the problems of a task: in raw text, or through its chat template.

The prompts of secret problems are in no record, which holds their SHA-256 instead.
`recover_prompts` finds them again among the problems.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from powerjax import records as files
from powerjax.models import LM, text
from powerjax.records import Record
from powerjax.tasks import CHAT, RAW, Problem, Task
from powerjax.tasks.base import prompt_hash

Prompt = str | list[int] | list[dict[str, str]]
_THINKING = {True: "thinking on", False: "thinking off"}
_NUM_HEX = 8


@dataclasses.dataclass(frozen=True)
class Chat:
    """How problems are put into a model's chat template.

    template: "on", "off", or "auto", which decides as `Task.prompt_choice` does.
    system: the system message of conversations that have none; None for the template's own.
    enable_thinking: the template's variable of that name, as Qwen3's has it; None for its default.
    """

    template: str = "auto"
    system: str | None = None
    enable_thinking: bool | None = None

    @property
    def style(self) -> str:
        """The prompt style of what is rendered: "chat", or with settings "thinking off, chat"."""
        words = []
        if self.enable_thinking is not None:
            words.append(_THINKING[self.enable_thinking])
        if self.system is not None:
            digest = hashlib.sha256(self.system.encode()).hexdigest()[:_NUM_HEX]
            words.append(f"system message {digest}")
        return ", ".join([*words, CHAT])

    @property
    def arguments(self) -> dict[str, Any]:
        """The variables of the template that are set."""
        thinking = self.enable_thinking
        return {} if thinking is None else {"enable_thinking": thinking}

    def messages(self, prompt: Any) -> list[dict[str, str]]:
        """Returns the conversation that asks a text, with the system message.

        prompt: a text, or a conversation, which may have a system message of its own.
        """
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.system is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system})
        return turns


def prompted(
    lm: LM, task: Task, problems: Sequence[Problem], chat: Chat | str = "auto"
) -> list[Problem]:
    """Returns the problems with the prompts that the model is to continue.

    In raw style texts are returned as they are. In chat style each text becomes the user's turn of
    the tokenizer's chat template, `messages` has the conversation, and "chat" stands in the
    problem's `style`. Conversations are rendered unless the template is "off". Prompts of token ids
    are never changed.

    chat: the settings, or the `Chat.template` alone.

    Raises ValueError where the tokenizer has no template that can be rendered, for a conversation
    with the template "off", and for settings of the template where no prompt is rendered.
    """
    chat = _settings(chat)
    style, why = prompt_choice(lm, task, chat)

    def in_style(problem: Problem) -> Problem:
        if _is_conversation(problem.prompt):
            if chat.template == "off":
                raise ValueError(
                    f"problem {problem.id} is a conversation, and --chat_template=off: only a chat"
                    " template makes a prompt of it"
                )
        elif style == RAW or not isinstance(problem.prompt, str):
            return problem
        own = chat.style if problem.style == RAW else f"{problem.style}, {chat.style}"
        return dataclasses.replace(_in_chat(lm.tokenizer, problem, chat), style=own)

    asked = [in_style(problem) for problem in problems]
    if chat.style != CHAT and not any(problem.messages for problem in asked):
        raise ValueError(
            "--system and --enable_thinking are for a chat template, and the prompts are raw"
            f" ({why}): add --chat_template=on, or leave them out"
        )
    return asked


def prompt_choice(lm: LM, task: Task, chat: Chat | str = "auto") -> tuple[str, str]:
    """Returns the style in which the model is prompted, RAW or `Chat.style`, and the reason for it.

    chat: as for `prompted`.
    """
    chat = _settings(chat)
    if chat.template != "auto":
        style, why = {"on": CHAT, "off": RAW}[chat.template], f"--chat_template={chat.template}"
    else:
        style, why = task.prompt_choice(lm.name, text.has_chat_template(lm.tokenizer))
    return (chat.style if style == CHAT else style), why


def note_prompts(folder: Path, lm: LM, tasks: Sequence[Task], chat: Chat | str = "auto") -> None:
    """Finds out how the model is prompted with each task, and writes it into the run's manifest.

    That is `prompt_choice`: the style and the reason for it.

    Raises ValueError where the folder holds records that were made in the other style.
    """
    choices = {task.name: prompt_choice(lm, task, chat) for task in tasks}
    styles = {name: {"style": style, "why": why} for name, (style, why) in choices.items()}
    files.note_prompts(folder, styles)


def _settings(chat: Chat | str) -> Chat:
    return Chat(chat) if isinstance(chat, str) else chat


def _is_conversation(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and any(isinstance(item, dict) for item in prompt)


def recover_prompts(
    records: Sequence[Record], problems: Sequence[Problem], tokenizer=None
) -> list[Prompt | None]:
    """Returns, per record, the prompt whose SHA-256 the record holds instead of the prompt.

    Each hash is looked up among the hashes of the problems' prompts. If some hash is not there, and
    the tokenizer has a chat template, the problems' texts in that template are searched as well,
    with thinking on and off where a record says so, and without a system message of the user's.
    None stands for a record that holds its prompt, for one without a hash, and for one whose hash
    is not found.
    """
    hashes = [
        None if record.get("prompt") is not None else record.get("prompt_sha256")
        for record in records
    ]
    by_hash = {prompt_hash(problem): problem.prompt for problem in problems}
    unmatched = any(name is not None and name not in by_hash for name in hashes)
    if unmatched and text.has_chat_template(tokenizer):
        styles = {str(record.get("prompt_style")) for record in records}
        thinking = [on for on, word in _THINKING.items() if any(word in s for s in styles)]
        for chat in [Chat(enable_thinking=on) for on in (None, *thinking)]:
            in_chat = [_in_chat(tokenizer, p, chat) for p in problems if isinstance(p.prompt, str)]
            by_hash |= {prompt_hash(problem): problem.prompt for problem in in_chat}
    return [None if name is None else by_hash.get(name) for name in hashes]


def _in_chat(tokenizer, problem: Problem, chat: Chat = Chat()) -> Problem:
    """Returns the problem with its text as the user's turn of the chat template."""
    messages = chat.messages(problem.prompt)
    remedy = "use raw prompts (--chat_template=off)"
    if _is_conversation(problem.prompt):
        remedy = "give it a prompt instead of messages"
    prompt = text.render_chat(tokenizer, messages, remedy, chat.arguments)
    return dataclasses.replace(problem, prompt=prompt, messages=messages)
