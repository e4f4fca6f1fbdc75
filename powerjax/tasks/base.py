"""What every task speaks: problems, verdicts, and tasks, which make the one and give the other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from powerjax.models.text import CHAT, RAW

# A model whose name has one of these words was trained to answer through its chat template. "it"
# counts after another word only (gemma-2b-it): alone in front it is a language (it-5b). Qwen2.5's
# base models ship a template too, and are asked in raw text.
CHAT_WORDS = ("instruct", "chat", "it")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of a task.

    Attributes:
      id: stable name, unique within the task; a chain's randomness is keyed by it.
      prompt: the text the model continues, exactly as it is to be tokenized, or its token ids.
      answer: the reference answer; None where none is known.
      meta: whatever else the task's grader or reports need.
      secret: its authors ask that it appear nowhere in plain text. See `without_text`.
      style: how the prompt asks: RAW, CHAT (through the chat template), or the task's wording.
    """

    id: str
    prompt: str | list[int]
    answer: str | None
    meta: dict[str, Any] | None = None
    secret: bool = False
    style: str = RAW


@dataclasses.dataclass(frozen=True)
class Graded:
    """The verdict on one completion.

    Attributes:
      correct: None where no answer is known.
      extracted: the answer found in the completion, None if there is none.
      detail: what else the grader found out: the verdict of each rule by name, `timed_out`.
    """

    correct: bool | None
    extracted: str | None
    detail: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """A set of problems and its grader.

    Attributes:
      name: as it stands in records.
      load: `load(*, data_dir=None, limit=None, ...) -> list[Problem]`: from the folder `data_dir`
        if given, else from where the task comes from; the first `limit` of them. Tasks with
        `splits` take `split=` too, those with a `wording` `wording=`.
      grade: `grade(problem, completion) -> (correct, extracted)`, for one completion at a time.
      grade_all: `grade_all(problems, completions, *, num_workers=None, progress=False, ...) ->
        list[Graded]`, the same verdicts for many, and whatever second opinions there are. Tasks
        that run programs take `unsafe_exec=` too.
      max_new_tokens, block_size: what the paper samples the task with, where it does.
      chat: whether chat models are asked through their chat template.
      splits: names of the splits, the default first; () if there is one set only.
      wording: which of the wordings that `load` knows a model of this name is asked with; None if
        there is one only.
      secret: whether its problems are.
      quick: whether `grade` may be called as completions come in; where it runs programs, records
        are left ungraded, for experiments.evaluate.
    """

    name: str
    load: Callable[..., list[Problem]]
    grade: Callable[[Problem, str], tuple[bool | None, str | None]]
    grade_all: Callable[..., list[Graded]]
    max_new_tokens: int = 3072
    block_size: int = 192
    chat: bool = True
    splits: tuple[str, ...] = ()
    wording: Callable[[str], str] | None = None
    secret: bool = False
    quick: bool = True

    def prompt_style(self, model: str, has_template: bool = True) -> str:
        """RAW or CHAT: how this model is asked, unless the user says otherwise."""
        return self.prompt_choice(model, has_template)[0]

    def prompt_choice(self, model: str, has_template: bool = True) -> tuple[str, str]:
        """(RAW or CHAT, the reason).

        model: a Hugging Face id or a folder. has_template: whether its tokenizer has a template.
        """
        if not self.chat:
            return RAW, f"{self.name} is asked in raw text, as in the paper"
        name, word = own_name(model), chat_word(model)
        if word is None:
            return RAW, f"the name {name!r} has none of the words {', '.join(CHAT_WORDS)}"
        if not has_template:
            return RAW, f"the name {name!r} says {word}, and there is no chat template"
        return CHAT, f"the name {name!r} says {word}, and there is a chat template"

    def load_for(self, model: str, **options) -> list[Problem]:
        """`load(**options)` in the wording for a model of this name, unless `options` has one."""
        if self.wording is not None and options.get("wording") is None:
            options["wording"] = self.wording(model)
        return self.load(**options)


def is_chat_model(model: str, has_template: bool = True) -> bool:
    """Whether the model has a chat template, and its own name says that it was trained on it."""
    return has_template and chat_word(model) is not None


def chat_word(model: str) -> str | None:
    """Which of CHAT_WORDS the model's own name has as a whole word; None for a base model."""
    words = re.split(r"[\W_]+", own_name(model).lower())
    return next((w for i, w in enumerate(words) if w in CHAT_WORDS and (w != "it" or i)), None)


def own_name(model: str) -> str:
    """The last part of a Hugging Face id or a folder; of the hub's cache, that of the id."""
    if not model:
        return ""
    path = Path(os.path.abspath(os.path.expanduser(model)))
    if path.parent.name == "snapshots":  # models--owner--name/snapshots/COMMIT
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def grade_each(
    grade: Callable[[Problem, str], tuple[bool | None, str | None]],
) -> Callable[..., list[Graded]]:
    """`Task.grade_all` of a grader that is quick and cannot hang: one after the other."""

    def grade_all(
        problems: Sequence[Problem],
        completions: Sequence[str],
        *,
        num_workers: int | None = None,
        progress: bool = False,
    ) -> list[Graded]:
        del num_workers, progress
        pairs = zip(problems, completions, strict=True)
        return [Graded(*grade(problem, completion)) for problem, completion in pairs]

    return grade_all


def prompt_hash(problem: Problem) -> str:
    """SHA-256 of the prompt, in hex."""
    prompt = problem.prompt
    text = prompt if isinstance(prompt, str) else json.dumps(prompt)
    return hashlib.sha256(text.encode()).hexdigest()


def without_text(problem: Problem, record: dict[str, Any]) -> dict[str, Any]:
    """The record as it may be written: of a secret problem, without prompt and completion.

    A completion may quote its question, so neither stands in the record as text: `prompt` and
    `completion` are None, `prompt_sha256` says which prompt it was, and `tokens` keeps the
    completion for those who hold the tokenizer (training, scoring, grading anew).
    """
    if not problem.secret:
        return record
    return {
        **record,
        "prompt": None,
        "completion": None,
        "prompt_sha256": prompt_hash(problem),
    }
