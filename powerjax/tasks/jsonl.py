r"""Problems from a JSONL file of the user's: `prompt`, and if known `answer`.

A row is `{"prompt": "What is 6*7?", "answer": "42", "problem_id": "q1"}`. Only the prompt is
needed: a string, or a list of token ids. A row without `problem_id` (or `id`) is named by a hash of
its prompt, so that its chains stay its own when rows are added above it.
"""

import collections
import hashlib
import json
import os
import re
from typing import Any

from powerjax import fields, records
from powerjax.tasks import answers
from powerjax.tasks.base import Problem

_NAMED = dict.fromkeys(("problem_id", "id"), fields.NAME)


def load(path: str | os.PathLike, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of the file. A bad row is a ValueError that names it."""
    found, where, copies = [], {}, collections.Counter()
    for number, row in records.rows(path):
        if limit is not None and len(found) == limit:
            break
        here = f"{path}, line {number}"
        prompt = _prompt(row, here)
        fields.check(row, here, kinds=_NAMED)
        name = row.get("problem_id", row.get("id"))
        if name is None:
            name = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:12]
            copies[name] += 1
            name += f"-{copies[name]}" if copies[name] > 1 else ""
        name = str(name)
        if name in where:
            raise ValueError(
                f"{here}: the problem_id {name!r} is that of line {where[name]}; give each its own"
            )
        where[name] = number
        answer = row.get("answer")
        found.append(Problem(name, prompt, None if answer is None else str(answer)))
    if not found:
        raise ValueError(f"{path} holds no prompts: write one JSON object with a prompt per line")
    return found


def grade(problem: Problem, completion: str) -> tuple[bool | None, str | None]:
    r"""(correct, extracted answer): the last `\boxed{}`, else the whole text, against the answer.

    Spaces, dollar signs and thousands' commas do not count, and 0.50 equals .5. (None, None) where
    no answer is known.
    """
    if problem.answer is None:
        return None, None
    boxed = answers.last_boxed(completion)
    extracted = completion.strip() if boxed is None else boxed
    return _plain(extracted) == _plain(problem.answer), extracted


def _prompt(row: dict[str, Any], here: str) -> str | list[int]:
    prompt = row.get("prompt")
    if prompt and (fields.TEXT.fits(prompt) or fields.IDS.fits(prompt)):
        return prompt
    if "prompt" not in row:
        raise ValueError(f"{here}: no prompt, only {', '.join(sorted(row)) or 'an empty object'}")
    raise ValueError(
        f"{here}: the prompt must be text (half a surrogate pair is none) or a list of token ids (0"
        " or more), and not empty"
    )


def _plain(answer: str) -> str | float:
    plain = re.sub(r"[\s$]|(?<=\d),(?=\d{3}\b)", "", answer)
    try:
        return float(plain)
    except ValueError:
        return plain
