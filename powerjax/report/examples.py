"""Completions on the page of a run: examples drawn by hash, and answers that graders dispute."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Sequence

from powerjax.evaluation import Result
from powerjax.records import Record
from powerjax.report import tables
from powerjax.report.html_parts import cut, table
from powerjax.tasks.base import Problem

NUM_EXAMPLES = 10
_MAX_DISAGREEMENTS = 50
_WORD_OF_RULE = {True: "right", False: "wrong", None: "out of time"}


def examples(
    results: Sequence[Result],
    wanted: Callable[[Record], bool],
    num: int = NUM_EXAMPLES,
) -> list[tuple[Result, Record]]:
    """Draws up to `num` records of which `wanted` is true, by a hash of their ids.

    The draw does not look at the text, so that nobody has picked the examples. The rows take turns.
    A problem comes a second time only after every other problem has come once.

    Returns pairs of row and record.
    """
    queues = [
        sorted((r for r in result.records if wanted(r)), key=lambda r: _rank(str(r.get("id"))))
        for result in results
    ]
    chosen: list[tuple[Result, Record]] = []
    seen = set()
    for repeats_allowed in (False, True):
        progress = True
        while progress and len(chosen) < num:
            progress = False
            for result, queue in zip(results, queues, strict=True):
                fresh = (r for r in queue if repeats_allowed or r["problem_id"] not in seen)
                record = next(fresh, None)
                if record is not None and len(chosen) < num:
                    queue.remove(record)
                    seen.add(record["problem_id"])
                    chosen.append((result, record))
                    progress = True
    return chosen


def _rank(name: str) -> bytes:
    """Returns the hash by which records are put in order."""
    return hashlib.sha256(name.encode("utf-8", "replace")).digest()


def disagreements(results: Sequence[Result], problems: dict[str, Problem], secret: bool) -> str:
    """Returns the answers on which the rules of a grader differ, as a table that folds out.

    Args:
      problems: id -> problem, for the reference answers.
      secret: leaves out the reference answers.
    """
    rows = [["record", "answer found", "reference", "verdicts"]]
    differing = [
        (record, verdicts)
        for result in results
        for record in result.records
        if len(set((verdicts := tables.rules(record)).values())) > 1
    ]
    for record, verdicts in differing[:_MAX_DISAGREEMENTS]:
        words = ", ".join(f"{name}: {_WORD_OF_RULE[v]}" for name, v in verdicts.items())
        reference = "" if secret else _reference(problems.get(record["problem_id"]))
        rows.append([str(record.get("id")), _answer(record), reference, words])
    total = len(differing)
    if not total:
        return "<p>Nowhere.</p>"
    more = f"<p>The first {len(rows) - 1} of {total}.</p>" if total >= len(rows) else ""
    return (
        f"<details><summary>Both verdicts, answer by answer</summary>{table(rows)}{more}</details>"
    )


def example(result: Result, record: Record, problems: dict[str, Problem], secret: bool) -> str:
    """Returns one completion, with its prompt and verdict, as a text that folds out.

    Args:
      problems: id -> problem, for the reference answer.
      secret: shows neither texts nor the reference answer.
    """
    word = "right" if record["correct"] else "wrong"
    facts = {
        "answer found": _answer(record),
        "self-reward": f"{record['self_reward']:.3f}",
        "tokens": f"{record['num_tokens']}, {record['finish_reason']}",
    }
    detail = record.get("grade_detail") or {}
    if "status" in detail:
        del facts["answer found"]
        facts["tests"] = " ".join(filter(None, [detail["status"], detail.get("message")]))
    problem = problems.get(record["problem_id"])
    if problem is not None and not secret and "status" not in detail:
        facts["reference"] = _reference(problem)
    shown = "; ".join(f"{name} {value}" for name, value in facts.items())
    head = f"{result.model}, {result.sampler}: {record['problem_id']}"
    summary = f"<summary><b>{word}</b> {html.escape(head)}</summary>"
    if secret or "prompt_sha256" in record or record.get("completion") is None:
        body = "<p>Its text is not shown.</p>"
    else:
        prompt = record.get("prompt")
        prompt = prompt if isinstance(prompt, str) else json.dumps(prompt)
        body = f"<pre>{cut(prompt)}</pre><pre class=said>{cut(record['completion'])}</pre>"
    return f"<details class={word}>{summary}<p>{html.escape(shown)}</p>{body}</details>"


def _answer(record: Record) -> str:
    """Returns the answer that was found in the completion, cut after 200 characters."""
    answer = record.get("extracted_answer")
    if answer is None:
        return "none"
    return answer if len(answer) <= 200 else answer[:200] + "..."


def _reference(problem: Problem | None) -> str:
    """Returns the problem's reference answer, "" where there is none."""
    return "" if problem is None or problem.answer is None else problem.answer
