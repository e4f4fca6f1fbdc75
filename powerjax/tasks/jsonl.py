r"""Problems from a JSONL file of the user's, whose rows hold a `prompt` and perhaps its `answer`.

A row is `{"prompt": "What is 6*7?", "answer": "42", "problem_id": "q1"}`. Only the prompt is
needed: a string, or a list of token ids. A row may have a conversation, `messages`, in its place,
which the model's chat template renders:

    {"messages": [{"role": "user", "content": "What is 6*7?"}], "answer": "42"}

The answer is text or a number. A row without `problem_id`
(or `id`) is named by a hash of its prompt and not by its line, so that it keeps its random numbers
when rows are added above it.
"""

import collections
import hashlib
import json
import logging
import os
import re
import unicodedata
from typing import Any

from powerjax import records
from powerjax.records import fields, json_lines, scalars
from powerjax.tasks import answers
from powerjax.tasks.answers import numbers
from powerjax.tasks.base import Problem

_NAMES = ("problem_id", "id")
_KEYS = ("prompt", "messages", "answer", *_NAMES)
_NAMED = dict.fromkeys(_NAMES, fields.NAME)

log = logging.getLogger(__name__)


def load(path: str | os.PathLike, limit: int | None = None) -> list[Problem]:
    """Returns the first `limit` problems of the file. Raises a ValueError that names a bad row.

    Rows without an answer are not graded. The log says how many there are, and which keys they
    have.
    """
    problems: list[Problem] = []
    lines: dict[str, int] = {}  # problem id: the number of its line
    copies: collections.Counter[str] = collections.Counter()  # rows per hash of a prompt
    without_answer: dict[str, None] = {}  # the keys of rows without an answer, in order
    for number, row in records.rows(path, as_written=True):
        if limit is not None and len(problems) == limit:
            break
        here = f"{path}, line {number}"
        _check_keys(row, here)
        prompt = _prompt(row, here)
        fields.check(row, here, kinds=_NAMED)
        name = row.get("problem_id", row.get("id"))
        if name is None:
            name = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:12]
            copies[name] += 1
            name += f"-{copies[name]}" if copies[name] > 1 else ""
        name = str(name)
        if name in lines:
            raise ValueError(
                f"{here}: the problem_id {name!r} is that of line {lines[name]}; give each its own"
            )
        lines[name] = number
        problem = Problem(name, prompt, _answer(row, here))
        problems.append(problem)
        if problem.answer is None:
            without_answer |= dict.fromkeys(row)
    if not problems:
        raise ValueError(f"{path} holds no prompts: write one JSON object with a prompt per line")
    if without_answer:
        _warn_ungraded(path, problems, list(without_answer))
    return problems


def grade(problem: Problem, completion: str) -> tuple[bool | None, str | None]:
    r"""Returns (correct, extracted answer); (None, None) if no answer is known.

    The extracted answer is the content of the last `\boxed{}`, or the whole text if there is no
    box. Spaces, dollar signs and thousands' commas do not count, except for a space between two
    numbers: `1 1/2` is not `11/2`. Numbers in decimal notation are compared exactly, whatever
    their length: 0.50 equals .5, and 1e3 equals 1000.
    """
    if problem.answer is None:
        return None, None
    boxed = answers.last_boxed(completion)
    extracted = completion.strip() if boxed is None else boxed
    return _plain(extracted) == _plain(problem.answer), extracted


def _prompt(row: dict[str, Any], here: str) -> str | list[int] | list[dict[str, str]]:
    if row.get("messages") is not None:
        return _conversation(row, here)
    prompt = row.get("prompt")
    if prompt and (fields.TEXT.fits(prompt) or fields.IDS.fits(prompt)):
        return prompt
    if "prompt" not in row:
        keys = scalars.listed(sorted(row)) or "an empty object"
        raise ValueError(f"{here}: no prompt and no messages, only {keys}")
    raise ValueError(
        f"{here}: the prompt must be text (without half of a surrogate pair) or a list of token"
        " ids (0 or more), and not empty"
    )


def _conversation(row: dict[str, Any], here: str) -> list[dict[str, str]]:
    """Returns the row's messages. Raises ValueError for what is no conversation to answer."""
    if row.get("prompt") is not None:
        raise ValueError(f"{here}: a prompt and messages: leave one of them out")
    messages = row["messages"]
    fields.check(row, here, kinds={"messages": fields.FIELDS["messages"]})
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            f"{here}: the messages end in the assistant's, and there is nothing to answer: leave"
            " that one out, or put the right answer into 'answer'"
        )
    return messages


def _check_keys(row: dict[str, Any], here: str) -> None:
    """Raises a ValueError for a key that would be read if it were written otherwise.

    Such a key differs from one of `_KEYS` only in capitals, spaces, hyphens and invisible signs.
    """
    for key in row:
        visible = re.sub(r"[^ -~]", "", unicodedata.normalize("NFKC", key)).strip()
        meant = re.sub(r"[\s-]+|(?<=[a-z])(?=[A-Z])", "_", visible).lower()
        if meant not in _KEYS or key in _KEYS:
            continue
        names = _NAMES if meant in _NAMES else (meant,)
        if all(row.get(name) is None for name in names):
            raise ValueError(f"{here}: the key {key!r} is not read: write {meant!r}")


def _answer(row: dict[str, Any], here: str) -> str | None:
    """Returns the row's answer as text; None if it has none."""
    answer = row.get("answer")
    if answer is None:
        return None
    if isinstance(answer, json_lines.Float):
        return answer.written
    if type(answer) is int:
        return str(answer)
    if fields.TEXT.fits(answer) and answer.strip():
        return answer
    kind = type(answer).__name__
    if isinstance(answer, str):
        kind = "half a surrogate pair" if answer.strip() else "empty text"
    raise ValueError(
        f"{here}: the answer must be text or a number, not {kind}: write it as the completion is"
        " to have it, or leave the key out where no answer is known"
    )


def _warn_ungraded(path: str | os.PathLike, problems: list[Problem], keys: list[str]) -> None:
    count = sum(problem.answer is None for problem in problems)
    listed = ", ".join(map(repr, keys[:8])) + (", ..." if len(keys) > 8 else "")
    if count == len(problems):
        log.warning(
            "%s: no row has an 'answer' that is not null, so there will be no accuracy (the keys"
            " are %s)"
            if "answer" in keys
            else "%s: no row has the key 'answer', so there will be no accuracy (the keys are %s)",
            path,
            listed,
        )
    else:
        log.warning(
            "%s: %d of %d rows have no 'answer' and do not count in the accuracy (their keys are"
            " %s)",
            *(path, count, len(problems), listed),
        )


def _plain(answer: str) -> str | tuple[bool, str, int]:
    """Returns the number that an answer is, or its text without spaces and dollar signs."""
    text = numbers.with_commas(re.sub(r"\\?\$", "", answer))
    text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", _without_commas, text)
    text = " ".join(text.split())
    if re.fullmatch(r"[-+−]?\d{1,3}(?: \d{3})+(?:\.\d+)?", text):
        text = text.replace(" ", "")
    text = re.sub(r"(?<!\d) | (?!\d)", "", text)
    # With its space back, `1, 000` is a list of two numbers and not a thousand.
    spaced = re.sub(r"(?<=,)(?=\d)", " ", text) if re.search(r",\s", answer) else text
    return numbers.decimal(spaced) or text


def _without_commas(match: re.Match) -> str:
    return match[0].replace(",", "")
