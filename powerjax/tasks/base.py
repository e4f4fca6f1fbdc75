"""What a task consists of: its problems, the verdicts on completions, and the `Task` itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from powerjax.records.prompt_style import CHAT, RAW

# A model whose name has one of these words was trained to answer through its chat template. "it"
# counts only after another word (gemma-2b-it): at the front it is a language (it-5b). Having a
# template is not enough: Qwen2.5's base models ship one too, and are asked in raw text.
CHAT_WORDS = ("instruct", "chat", "it")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of a task.

    Attributes:
      id: the problem's name, unique within the task and the same in every run, because the random
        numbers of a chain are derived from it. The tasks of this package put no "/" in it, which
        separates the parts of a record's id. In a task with `splits` it begins with the split's
        name and a hyphen (`test-12`): experiments.evaluate tells by it which splits to load.
      prompt: the text that the model continues, exactly as it is to be tokenized, or its token ids.
        A conversation, a list of messages {"role", "content"}, is rendered by `runs.prompted`.
      answer: the reference answer; None if no answer is known.
      meta: what else the task's grader or reports need; None if they need nothing.
      secret: whether its authors ask that it appear nowhere in plain text. See `without_text`.
      style: how the prompt asks: RAW, CHAT (through the chat template), or the task's wording.
      messages: the conversation that the prompt was rendered from; None if it was not rendered.
    """

    id: str
    prompt: str | list[int] | list[dict[str, str]]
    answer: str | None
    meta: dict[str, Any] | None = None
    secret: bool = False
    style: str = RAW
    messages: list[dict[str, str]] | None = None

    @property
    def reference(self) -> str:
        """The answer, for graders that need one. Raises ValueError if none is known."""
        if self.answer is None:
            raise ValueError(f"no answer to problem {self.id} is known")
        return self.answer

    def detail(self, name: str) -> Any:
        """Returns `meta[name]`. Raises ValueError if the problem has no such entry."""
        if self.meta is None or name not in self.meta:
            raise ValueError(f"problem {self.id} has no {name!r}: it is of another task")
        return self.meta[name]


@dataclasses.dataclass(frozen=True)
class Graded:
    """The verdict on one completion.

    Attributes:
      correct: whether the answer is right; None if no answer is known.
      extracted: the answer in the completion; None if there is none.
      detail: what else the grader learned, such as the verdict of each rule by its name. A record
        keeps it as `grade_detail`. The key "isolation" says that the completion was graded by
        running it as a program: evaluation.summary leaves such completions out of majority votes,
        and report.tables counts those that ran without a sandbox.
    """

    correct: bool | None
    extracted: str | None
    detail: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """A set of problems and its grader.

    Attributes:
      name: the task's name, as records and `--task` have it.
      load: `load(*, data_dir=None, limit=None, ...) -> list[Problem]` returns the first `limit`
        problems, read from the folder `data_dir` if one is given, else from where the task is
        published. With `splits` it takes `split=` too, and with `wording` it takes `wording=`.
      grade: `grade(problem, completion) -> (correct, extracted)` grades one completion.
      grade_all: `grade_all(problems, completions, *, num_workers=None, progress=False, ...) ->
        list[Graded]` gives the same verdicts for many completions, with second opinions where the
        task has any. For tasks that run programs it takes `unsafe_exec=` too.
      max_new_tokens, block_size: how long completions and blocks are by default, in tokens. For
        tasks of the paper these are the paper's lengths.
      chat: whether chat models are asked through their chat template.
      splits: names of the splits, the default first; () if there is only one set. Ids then begin
        with the split's name and a hyphen (see `Problem.id`).
      wording: a function from a model's name to the wording that `load` asks it with; None if the
        task has only one wording.
      secret: whether its problems are secret (see `Problem.secret`).
      quick: whether `grade` may be called while completions come in. Tasks that run programs are
        not quick: their records stay ungraded until experiments.evaluate grades them. The flag
        --quick of launchers, which asks for a smaller run, has nothing to do with it.
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
        """Returns RAW or CHAT: how this model is asked unless the user says otherwise."""
        return self.prompt_choice(model, has_template)[0]

    def prompt_choice(self, model: str, has_template: bool = True) -> tuple[str, str]:
        """Returns how this model is asked (RAW or CHAT), and the reason in words.

        Args:
          model: a Hugging Face id or a folder.
          has_template: whether the model's tokenizer has a chat template.
        """
        if not self.chat:
            return RAW, f"{self.name} is asked in raw text, as in the paper"
        name, word = own_name(model), chat_word(model)
        if word is None:
            return RAW, f"the name {name!r} has none of the words {', '.join(CHAT_WORDS)}"
        if not has_template:
            return RAW, f"the name {name!r} says {word}, and there is no chat template"
        return CHAT, f"the name {name!r} says {word}, and there is a chat template"

    def load_for(self, model: str, **options: Any) -> list[Problem]:
        """Returns `load(**options)`, in the wording for this model unless `options` names one."""
        if self.wording is not None and options.get("wording") is None:
            options["wording"] = self.wording(model)
        return self.load(**options)


def is_chat_model(model: str, has_template: bool = True) -> bool:
    """Whether the model has a chat template, and its own name says that it was trained on it."""
    return has_template and chat_word(model) is not None


def chat_word(model: str) -> str | None:
    """The first of CHAT_WORDS that is a whole word of the model's own name; None if none is."""
    words = re.split(r"[\W_]+", own_name(model).lower())
    return next((w for i, w in enumerate(words) if w in CHAT_WORDS and (w != "it" or i)), None)


def own_name(model: str) -> str:
    """The last part of a Hugging Face id or of a folder.

    A folder of the hub's cache (`models--owner--name/snapshots/COMMIT`) gives the model's name.
    """
    if not model:
        return ""
    path = Path(os.path.abspath(os.path.expanduser(model)))
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def grade_each(
    grade: Callable[[Problem, str], tuple[bool | None, str | None]],
) -> Callable[..., list[Graded]]:
    """Makes a `Task.grade_all` that calls `grade` for one completion after the other.

    It suits graders that are quick and cannot hang.
    """

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
    """The SHA-256 of the prompt, in hex."""
    prompt = problem.prompt
    text = prompt if isinstance(prompt, str) else json.dumps(prompt)
    return hashlib.sha256(text.encode()).hexdigest()


def without_text(problem: Problem, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record as it may be written to a file.

    The record of a secret problem loses its prompt and its completion, which may quote the
    question: both become None. `prompt_sha256` says which prompt it was, and `tokens` keeps the
    completion for those who hold the tokenizer (for training, scoring and grading again). The
    record of any other problem is returned as it is.
    """
    if not problem.secret:
        return record
    return {
        **record,
        "prompt": None,
        "messages": None,
        "completion": None,
        "prompt_sha256": prompt_hash(problem),
    }
