"""How a model is asked the problems of a task: as raw text, or through its chat template."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from powerjax import records
from powerjax.models import LM, text
from powerjax.tasks import CHAT, RAW, Problem, Task


def asked(
    lm: LM, task: Task, problems: Sequence[Problem], chat_template: str = "auto"
) -> list[Problem]:
    """The problems as the model is to read them: in raw text, or in its chat template.

    chat_template: "on", "off", or "auto", as the paper asks such a model.
    """
    style, _ = prompt_choice(lm, task, chat_template)

    def read(problem: Problem) -> Problem:
        if style == RAW or not isinstance(problem.prompt, str):
            return problem
        prompt = text.format_prompt(lm.tokenizer, problem.prompt, chat=True)
        chat = CHAT if problem.style == RAW else f"{problem.style}, {CHAT}"
        return dataclasses.replace(problem, prompt=prompt, style=chat)

    return [read(problem) for problem in problems]


def prompt_choice(lm: LM, task: Task, chat_template: str = "auto") -> tuple[str, str]:
    """(RAW or CHAT, the reason), see `asked`."""
    if chat_template != "auto":
        return {"on": CHAT, "off": RAW}[chat_template], f"--chat_template={chat_template}"
    return task.prompt_choice(lm.name, text.has_chat_template(lm.tokenizer))


def note_prompts(folder: Path, lm: LM, tasks: Sequence[Task], chat_template: str = "auto") -> None:
    """Writes into the run's manifest how the model is asked each task, and why."""
    choices = {task.name: prompt_choice(lm, task, chat_template) for task in tasks}
    styles = {name: {"style": style, "why": why} for name, (style, why) in choices.items()}
    records.note_prompts(folder, styles)
