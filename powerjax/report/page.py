"""report.html: one self-contained page of a run, to be read on a phone as on a screen.

Figures stand in it as data URIs, and nothing is fetched. Text of secret problems is never shown:
their completions are listed by id, verdict and length.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powerjax import records
from powerjax.evaluation import Result
from powerjax.records import Record, lock
from powerjax.report import plots, tables
from powerjax.tasks.base import Problem, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_EXAMPLES = 10
_MAX_DISAGREEMENTS = 50
_MAX_CHARS = 6000  # of a prompt or completion that is shown
_LONGEST_NUMBER = 40  # characters; a longer cell is a text, and wraps
_PIXELS_AN_INCH = 84  # of a figure on the page


def write_report(
    folder: str | os.PathLike,
    results: Sequence[Result],
    *,
    title: str,
    task: Task | None = None,
    problems: Sequence[Problem] = (),
    lead: Mapping[str, tables.Cells] | None = None,
    notes: Sequence[str] = (),
    figures: Mapping[str, Figure] | None = None,
    name: str = "report.html",
) -> Path:
    """Writes the page into the run folder, whose manifest.json it shows, and returns its path.

    Args:
      results: the rows; their records may hold `grade_detail` of `grading.grade_records`.
      problems: for prompts and reference answers beside the examples.
      lead: heading -> table, shown before the table of all figures (as the paper's comparison).
      notes: what a reader must know, plain text; they stand below `lead`.
      figures: heading -> figure, shown before the page's own.
    """
    secret = bool(task and task.secret) or any(problem.secret for problem in problems)
    by_id = {problem.id: problem for problem in problems}
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for heading, cells in (lead or {}).items():
        parts += [_heading(heading), _table(cells)]
    if notes:
        told = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<ul class=small>{told}</ul>")
    parts += [_heading("All figures"), _table(tables.main(results)), _LEGEND]
    if costs := tables.costs(results):
        parts += [_heading(tables.COSTS), _table(costs), _COSTS]
    drawn = {**(figures or {}), **_figures(results)}
    parts += [_heading("Figures"), *(_figure(name, figure) for name, figure in drawn.items())]
    if stages := tables.by_stage(results):
        parts += [_heading("Acceptance by stage"), _table(stages)]
    if disagreements := tables.disagreements(results):
        parts += [_heading("Where graders disagree"), _table(disagreements)]
        parts.append(_disagreements(results, by_id, secret))
    for heading, verdict in (("right", True), ("wrong", False)):
        chosen = examples(results, lambda record, v=verdict: record.get("correct") is v)
        if chosen:
            parts.append(_heading(f"{_count(len(chosen))} completions that are {heading}"))
            parts += [_example(*pair, by_id, secret) for pair in chosen]
    parts += [_heading("Settings and manifest"), _manifest(Path(folder) / records.MANIFEST)]
    path = Path(folder) / name
    page = _PAGE.format(title=html.escape(title), body="\n".join(parts))
    lock.replace_file(path, page)
    return path


def examples(
    results: Sequence[Result],
    wanted: Callable[[Record], bool],
    num: int = NUM_EXAMPLES,
) -> list[tuple[Result, Record]]:
    """`num` records drawn by a hash of their ids, the rows in turn, each problem once if it can be.

    The draw does not look at the text, so that nobody has picked the examples.
    """
    queues = [
        sorted((r for r in result.records if wanted(r)), key=lambda r: _rank(str(r.get("id"))))
        for result in results
    ]
    found, seen = [], set()
    for again in (False, True):
        turn = True
        while turn and len(found) < num:
            turn = False
            for result, queue in zip(results, queues, strict=True):
                fresh = (r for r in queue if again or r["problem_id"] not in seen)
                record = next(fresh, None)
                if record is not None and len(found) < num:
                    queue.remove(record)
                    seen.add(record["problem_id"])
                    found.append((result, record))
                    turn = True
    return found


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "replace")).digest()


def _figures(results: Sequence[Result]) -> dict[str, Figure]:
    graded = [result for result in results if result.summary.accuracy]
    moving = [r for r in results if r.summary.acceptance_rate is not None]
    found = {}
    if graded:
        found["Accuracy and self-reward"] = plots.accuracy_against_self_reward(graded)
    if any(result.summary.forward_tokens for result in graded):
        found["Accuracy and cost"] = plots.accuracy_against_cost(graded)
    found["Lengths"] = plots.lengths(results)
    if moving:
        found["Acceptance"] = plots.acceptance(moving)
    if any(len(result.stages) > 1 for result in results):
        found["Acceptance by stage"] = plots.acceptance_by_stage(results)
    return found


def _figure(name: str, figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    alt = html.escape(name, quote=True)
    # As wide as it was drawn, so that letters are of one size in all figures.
    wide = f"width: min(100%, {figure.get_figwidth() * _PIXELS_AN_INCH:.0f}px)"
    return f'<figure><img style="{wide}" alt="{alt}" src="data:image/png;base64,{data}"></figure>'


def _disagreements(results: Sequence[Result], problems: dict[str, Problem], secret: bool) -> str:
    rows = [["record", "answer found", "reference", "verdicts"]]
    total = 0
    for result in results:
        for record in result.records:
            verdicts = tables.rules(record)
            if len(set(verdicts.values())) < 2:
                continue
            total += 1
            if total > _MAX_DISAGREEMENTS:
                continue
            words = {True: "right", False: "wrong", None: "out of time"}
            told = ", ".join(f"{name}: {words[v]}" for name, v in verdicts.items())
            reference = "" if secret else _reference(problems.get(record["problem_id"]))
            rows.append([str(record.get("id")), _answer(record), reference, told])
    if not total:
        return "<p>Nowhere.</p>"
    more = f"<p>The first {len(rows) - 1} of {total}.</p>" if total >= len(rows) else ""
    return (
        f"<details><summary>Both verdicts, answer by answer</summary>{_table(rows)}{more}</details>"
    )


def _example(result: Result, record: Record, problems: dict[str, Problem], secret: bool) -> str:
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
        body = f"<pre>{_cut(prompt)}</pre><pre class=said>{_cut(record['completion'])}</pre>"
    return f"<details class={word}>{summary}<p>{html.escape(shown)}</p>{body}</details>"


def _answer(record: Record) -> str:
    found = record.get("extracted_answer")
    if found is None:
        return "none"
    return found if len(found) <= 200 else found[:200] + "..."


def _reference(problem: Problem | None) -> str:
    return "" if problem is None or problem.answer is None else problem.answer


def _manifest(path: Path) -> str:
    if not path.is_file():
        return "<p>This folder has no manifest.</p>"
    manifest = records.read_manifest(path)
    settings = [["setting", "value"]]
    settings += [[name, _said(value)] for name, value in manifest["settings"].items()]
    for task, choice in (manifest.get("prompts") or {}).items():
        settings.append([f"prompts of {task}", f"{choice['style']}: {choice['why']}"])
    starts = html.escape(json.dumps(manifest["starts"], indent=2, ensure_ascii=False))
    count = f"{len(manifest['starts'])} start{'s' * (len(manifest['starts']) > 1)}"
    return (
        f"{_table(settings)}<details><summary>{count} of the program: time, command, versions,"
        f" device</summary><pre>{starts}</pre></details>"
    )


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td{_text(cell)}>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[1:]
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(cell: str) -> str:
    """The mark of a cell that holds sentences and not a number."""
    return " class=text" if len(cell) > _LONGEST_NUMBER else ""


def _cut(text: str) -> str:
    text = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]} [... {len(text)} characters]"
    return html.escape(text)


def _count(n: int) -> str:
    return "Ten" if n == 10 else str(n)


_LEGEND = """<p class=small>Accuracy and self-reward (mean log-likelihood per token, nats, EOS
counted): mean ± standard deviation over passes, a pass being one completion of each problem. 95 %:
bootstrap intervals over problems. BoN: the completion of largest self-reward among a problem's N;
it costs N times its row. majority: the commonest answer. pass@k: unbiased. evaluated r: self-reward
under the model given for it. accepted: share of a chain's moves. forward: tokens fed to the model
by decoding, a completion (the prompt's are left out).</p>"""

_COSTS = """<p class=small>What each row gets for the price of one completion of a row that makes
moves: Best-of-n by self-reward with the largest n that the price allows and the records have, the
mean over all choices of n.</p>"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem;
  padding: 0 1rem 3rem;
  color: #1a1a1a; background: #fff; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; line-height: 1.25; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; }}
.wide, figure {{ overflow-x: auto; margin: .5rem 0; -webkit-overflow-scrolling: touch; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }}
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) {{ text-align: left; }}
td.text {{ text-align: left; white-space: normal; min-width: 15rem; }}
thead th {{ border-bottom: 2px solid #888; }}
img {{ display: block; min-width: 34rem; height: auto; }}
details {{ border-left: 3px solid #bbb; margin: .5rem 0; padding: .25rem .75rem; }}
details.right {{ border-color: #009e73; }}
details.wrong {{ border-color: #d55e00; }}
summary {{ cursor: pointer; }}
pre {{ font: .8rem/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  background: #f5f5f5; padding: .6rem; margin: .4rem 0; }}
pre.said {{ background: #eef5fb; }}
.small {{ font-size: .8rem; color: #444; }}
ul.small {{ padding-left: 1.2rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
