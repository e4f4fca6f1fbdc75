"""How a model is prompted with the problems of a task: in raw text, or through its chat template.

The prompts of secret problems are in no record, which holds their SHA-256 instead.
`recover_prompts` finds them again among the problems.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from powerjax import records as files
from powerjax.models import LM, text
from powerjax.records import Record
from powerjax.tasks import CHAT, RAW, Problem, Task
from powerjax.tasks.base import prompt_hash

Prompt = str | list[int]


def prompted(
    lm: LM, task: Task, problems: Sequence[Problem], chat_template: str = "auto"
) -> list[Problem]:
    """Returns the problems with the prompts that the model is to continue.

    In raw style they are returned as they are. In chat style each text becomes the user's turn of
    the tokenizer's chat template, and "chat" stands in the problem's `style`. Prompts of token ids
    are never changed.

    chat_template: "on", "off", or "auto", which decides as `Task.prompt_choice` does.

    Raises ValueError where the style is chat and the tokenizer has no template that can be
    rendered.
    """
    style, _ = prompt_choice(lm, task, chat_template)

    def in_style(problem: Problem) -> Problem:
        if style == RAW or not isinstance(problem.prompt, str):
            return problem
        chat = CHAT if problem.style == RAW else f"{problem.style}, {CHAT}"
        return dataclasses.replace(_in_chat(lm.tokenizer, problem), style=chat)

    return [in_style(problem) for problem in problems]


def prompt_choice(lm: LM, task: Task, chat_template: str = "auto") -> tuple[str, str]:
    """Returns the style, RAW or CHAT, in which the model is prompted, and the reason for it.

    chat_template: as for `prompted`.
    """
    if chat_template != "auto":
        return {"on": CHAT, "off": RAW}[chat_template], f"--chat_template={chat_template}"
    return task.prompt_choice(lm.name, text.has_chat_template(lm.tokenizer))


def note_prompts(folder: Path, lm: LM, tasks: Sequence[Task], chat_template: str = "auto") -> None:
    """Finds out how the model is prompted with each task, and writes it into the run's manifest.

    That is `prompt_choice`: the style and the reason for it.

    Raises ValueError where the folder holds records that were made in the other style.
    """
    choices = {task.name: prompt_choice(lm, task, chat_template) for task in tasks}
    styles = {name: {"style": style, "why": why} for name, (style, why) in choices.items()}
    files.note_prompts(folder, styles)


def recover_prompts(
    records: Sequence[Record], problems: Sequence[Problem], tokenizer=None
) -> list[Prompt | None]:
    """Returns, per record, the prompt whose SHA-256 the record holds instead of the prompt.

    Each hash is looked up among the hashes of the problems' prompts. If some hash is not there, and
    the tokenizer has a chat template, the problems' texts in that template are searched as well.
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
        in_chat = [_in_chat(tokenizer, p) for p in problems if isinstance(p.prompt, str)]
        by_hash |= {prompt_hash(problem): problem.prompt for problem in in_chat}
    return [None if name is None else by_hash.get(name) for name in hashes]


def _in_chat(tokenizer, problem: Problem) -> Problem:
    """Returns the problem with its text as the user's turn of the chat template."""
    prompt = text.format_prompt(tokenizer, str(problem.prompt), chat=True)
    return dataclasses.replace(problem, prompt=prompt)
