"""report.html: one self-contained page of a run, to be read on a phone as on a screen.

Figures are data URIs, and nothing is fetched. The text of secret problems is never shown: their
completions are listed by id, verdict and length. The page around the parts is templates/page.html.
"""

from __future__ import annotations

import functools
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from powerjax import records
from powerjax.evaluation import Result
from powerjax.records import Record, lock
from powerjax.report import diagnostic_figures, nearness, plots, tables
from powerjax.report.examples import disagreements, example, examples
from powerjax.report.html_parts import figure, fill, heading, table
from powerjax.tasks.base import Problem, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEGEND = """<p class=small>Accuracy and self-reward (mean log-likelihood per token, nats, EOS
counted): mean ± standard deviation over passes, a pass being one completion of each problem. 95 %:
bootstrap intervals over problems. BoN: the completion of largest self-reward among a problem's N;
it costs N times its row. majority: the commonest answer. pass@k: unbiased. evaluated r: self-reward
under the model given for it. accepted: share of a chain's moves. forward: tokens fed to the model
by decoding, per completion (the prompt's are left out). R-hat and bulk ESS: of log p over a
problem's chains, the worst of all problems; above 1.05 chains have not mixed.</p>"""

_COSTS = """<p class=small>What each row gets for the price of one completion of a row that makes
moves: Best-of-n by self-reward with the largest n that the price allows and the records have, the
mean over all choices of n.</p>"""


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
      task: whether its texts are secret; None leaves that to the problems and records.
      problems: they give the reference answers beside the examples.
      lead: heading -> table, shown first (as the comparison with the paper).
      notes: plain text that a reader must know, shown below `lead`.
      figures: name -> figure, shown before the page's own.
      name: the file's name in the folder.
    """
    secret = bool(task and task.secret) or any(problem.secret for problem in problems)
    by_id = {problem.id: problem for problem in problems}
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *_lead(lead or {}, notes),
        *_tables(results),
        heading("Figures"),
        *(figure(name, drawn) for name, drawn in {**(figures or {}), **_figures(results)}.items()),
    ]
    parts += _nearness(results)
    if stages := tables.by_stage(results):
        parts += [heading("Acceptance by stage"), table(stages)]
    if counts := tables.disagreements(results):
        parts += [heading("Where graders disagree"), table(counts)]
        parts.append(disagreements(results, by_id, secret))
    parts += _examples(results, by_id, secret)
    parts += [heading("Settings and manifest"), _manifest(Path(folder) / records.MANIFEST)]
    path = Path(folder) / name
    lock.replace_file(path, fill("page.html", title=html.escape(title), body="\n".join(parts)))
    return path


def _lead(lead: Mapping[str, tables.Cells], notes: Sequence[str]) -> list[str]:
    """Returns the tables that come first, and the notes below them."""
    parts = [part for name, cells in lead.items() for part in (heading(name), table(cells))]
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<ul class=small>{items}</ul>")
    return parts


def _tables(results: Sequence[Result]) -> list[str]:
    """Returns the table of all numbers, and the one at equal cost where prices are known."""
    parts = [heading("All figures"), table(tables.main(results)), _LEGEND]
    if costs := tables.costs(results):
        parts += [heading(tables.COSTS), table(costs), _COSTS]
    return parts


def _examples(results: Sequence[Result], problems: dict[str, Problem], secret: bool) -> list[str]:
    """Returns examples of right completions, and of wrong ones, where there are any."""
    parts = []
    for word, verdict in (("right", True), ("wrong", False)):
        chosen = examples(results, functools.partial(_has_verdict, verdict))
        if chosen:
            parts.append(heading(f"{_count(len(chosen))} completions that are {word}"))
            parts += [example(*pair, problems, secret) for pair in chosen]
    return parts


def _has_verdict(verdict: bool, record: Record) -> bool:
    return record.get("correct") is verdict


def _nearness(results: Sequence[Result]) -> list[str]:
    """Returns the section on the student's weights; [] where no row is weighed."""
    cells = nearness.table(results)
    if not cells:
        return []
    drawn = figure("The student's weights", diagnostic_figures.weights(results))
    return [heading(nearness.TITLE), table(cells), nearness.TEXT, drawn]


def _figures(results: Sequence[Result]) -> dict[str, Figure]:
    """Returns name -> figure of those that the records have the numbers for."""
    graded = [result for result in results if result.summary.accuracy]
    moving = [r for r in results if r.summary.acceptance_rate is not None]
    figures = {}
    if graded:
        figures["Accuracy and self-reward"] = plots.accuracy_against_self_reward(graded)
    if any(result.summary.forward_tokens for result in graded):
        figures["Accuracy and cost"] = plots.accuracy_against_cost(graded)
    figures["Lengths"] = plots.lengths(results)
    if moving:
        figures["Acceptance"] = plots.acceptance(moving)
    if any(result.mixing for result in results):
        figures["Mixing"] = diagnostic_figures.log_p_against_moves(results)
    if any(len(result.stages) > 1 for result in results):
        figures["Acceptance by stage"] = plots.acceptance_by_stage(results)
    return figures


def _manifest(path: Path) -> str:
    """Returns the settings as a table, and the starts of the program as a text that folds out."""
    if not path.is_file():
        return "<p>This folder has no manifest.</p>"
    manifest = records.read_manifest(path)
    settings = [["setting", "value"]]
    settings += [[name, _as_text(value)] for name, value in manifest["settings"].items()]
    for task, choice in (manifest.get("prompts") or {}).items():
        settings.append([f"prompts of {task}", f"{choice['style']}: {choice['why']}"])
    starts = html.escape(json.dumps(manifest["starts"], indent=2, ensure_ascii=False))
    count = f"{len(manifest['starts'])} start{'s' * (len(manifest['starts']) > 1)}"
    return (
        f"{table(settings)}<details><summary>{count} of the program: time, command, versions,"
        f" device</summary><pre>{starts}</pre></details>"
    )


def _as_text(value: Any) -> str:
    """Returns text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _count(n: int) -> str:
    return "Ten" if n == 10 else str(n)
