"""Results as tables (rows of cells, the head first), and tables as text, CSV, LaTeX and Markdown.

Accuracies are in percent, self-rewards in nats per token, costs in forward tokens per completion.
"""

import csv as csv_format
import io
import re
from collections.abc import Sequence

from powerjax import evaluation
from powerjax.evaluation import Result
from powerjax.records import Record
from powerjax.report import nearness
from powerjax.report.cells import interval, markdown, spread
from powerjax.tasks import sandbox

__all__ = [
    "COSTS",
    "by_stage",
    "costs",
    "csv",
    "disagreements",
    "latex",
    "main",
    "markdown",
    "num_unsafe",
    "plain",
    "rules",
    "several_boxes",
]

Cells = list[list[str]]
COSTS = "Accuracy (Best-of-n by self-reward) at equal cost in forward tokens"

_LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$",
}


def main(results: Sequence[Result]) -> Cells:
    """Returns all numbers of each result. A column that is known for no row is left out."""
    n = {result.summary.num_passes for result in results}
    best = f"Bo{n.pop()}" if len(n) == 1 else "BoN"
    ks = sorted({k for result in results for k in result.summary.pass_at} - {1})
    head = ["model", "sampler", "problems", "passes", "accuracy %", "95 %", "self-reward", "95 %"]
    head += [f"{best} acc.", "95 %", f"{best} r", "majority", *(f"pass@{k}" for k in ks)]
    head += ["evaluated r", f"{best} acc. by it"]
    head += ["accepted", "forward", "tokens", "5-95 %", "ended in EOS"]
    head += [*nearness.MIXING_HEAD, *nearness.NEARNESS_HEAD]
    rows = [head]
    for result in results:
        s = result.summary
        several = s.num_passes > 1
        low, _, high = s.length_quantiles
        rows.append(
            [
                *(result.model, result.sampler, str(s.num_problems), str(s.num_passes)),
                *(spread(s.accuracy, 100, 1), interval(s.accuracy, 100, 1)),
                *(spread(s.self_reward), interval(s.self_reward)),
                _percent(s.best_of_n_accuracy) if several else "-",
                interval(s.best_of_n_accuracy, 100, 1) if several else "-",
                f"{s.best_of_n_self_reward.mean:.3f}" if several else "-",
                _percent(s.majority_accuracy) if several else "-",
                *(_percent(s.pass_at.get(k)) for k in ks),
                spread(s.evaluated_self_reward),
                _percent(s.evaluated_best_of_n_accuracy) if several else "-",
                "-" if s.acceptance_rate is None else f"{s.acceptance_rate:.3f}",
                "-" if s.forward_tokens is None else f"{s.forward_tokens:.1f}",
                f"{s.num_tokens:.1f}",
                f"{low:.0f}-{high:.0f}",
                f"{100 * s.finished:.0f} %",
                *nearness.mixing_cells(result),
                *nearness.nearness_cells(result),
            ]
        )
    known = [i for i in range(len(head)) if any(row[i] != "-" for row in rows[1:])]
    return [[row[i] for i in known] for row in rows]


def costs(results: Sequence[Result]) -> Cells | None:
    """Returns accuracy at equal cost: what Best-of-n of each row gives for the prices of others.

    A price is what one completion of a row costs. The columns are the prices of the rows that make
    moves, or of all rows if none does. Of prices within 5 % of each other only the largest is a
    column. n is the largest that the price allows and for which there are completions.

    Returns None where accuracies or prices of fewer than two rows are known.
    """
    prices = [(r, r.summary.forward_tokens) for r in results if r.summary.accuracy]
    priced_rows = [(result, price) for result, price in prices if price]
    if len(priced_rows) < 2:
        return None
    moving = [pair for pair in priced_rows if pair[0].summary.acceptance_rate is not None]
    columns: list[float] = []
    for price in sorted((price for _, price in moving or priced_rows), reverse=True):
        if not columns or price < columns[-1] / 1.05:
            columns.append(price)
    columns.reverse()
    rows = [["model", "sampler", "one costs", *(f"for {price:.0f}" for price in columns)]]
    for result, own_price in priced_rows:
        best_of = evaluation.best_of(result.records)
        bought = [evaluation.within(best_of, price) for price in columns]
        cells = ["-" if p is None else f"{_percent(p.accuracy)} (n={p.n})" for p in bought]
        rows.append([result.model, result.sampler, f"{own_price:.1f}", *cells])
    return rows


def by_stage(results: Sequence[Result]) -> Cells | None:
    """Returns the share of moves accepted in each stage; None if it is known for no row."""
    results = [result for result in results if result.stages]
    if not results:
        return None
    most = max(len(result.stages) for result in results)
    rows = [["model", "sampler", *(f"stage {i + 1}" for i in range(most))]]
    for result in results:
        shares = [f"{a / m:.3f} of {m:,}" if m else "-" for m, a in result.stages]
        rows.append([result.model, result.sampler, *shares, *["-"] * (most - len(shares))])
    return rows


def disagreements(results: Sequence[Result]) -> Cells | None:
    """Returns how often a grader's two rules differ, row by row; None if it has one rule only."""
    names = next((list(rules(r)) for result in results for r in result.records if rules(r)), [])
    if len(names) < 2:
        return None
    a, b = names[:2]
    head = ["model", "sampler", "graded", "both right", f"{a} alone", f"{b} alone", "out of time"]
    table = [head]
    for result in results:
        graded = [(verdicts, r["grade_detail"]) for r in result.records if (verdicts := rules(r))]
        pairs = [(verdicts.get(a), verdicts.get(b)) for verdicts, _ in graded]
        counts = [
            len(pairs),
            *(pairs.count(pair) for pair in ((True, True), (True, False), (False, True))),
            sum(None in v.values() or bool(detail.get("timed_out")) for v, detail in graded),
        ]
        table.append([result.model, result.sampler, *map(str, counts)])
    return table


def rules(record: Record) -> dict[str, bool | None]:
    """Returns rule of the grader -> its verdict; None stands for "out of time"."""
    detail = record.get("grade_detail") or {}
    return {name: v for name, v in detail.items() if v is None or isinstance(v, bool)}


def num_unsafe(records: Sequence[Record]) -> int:
    """Returns how many records are programs that ran with resource limits alone."""
    details = (record.get("grade_detail") or {} for record in records)
    return sum(detail.get("isolation") == sandbox.RLIMITS for detail in details)


def several_boxes(records: Sequence[Record]) -> str | None:
    """Returns a note on completions whose last sentence has several boxes; None if there are none.

    The grader compares only the last box, under either rule.
    """
    details = [record.get("grade_detail") or {} for record in records]
    count = sum(detail.get("boxes", 1) > 1 for detail in details)
    if not count:
        return None
    return (
        f"{count} of {len(details)} completions have several boxes in their last sentence, of which"
        " the last alone was compared: an answer spread over them counts as wrong."
    )


def plain(rows: Cells) -> str:
    """Returns the table in columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if i < 2 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def csv(rows: Cells) -> str:
    """Returns the table as CSV; cells as they stand."""
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def latex(rows: Cells) -> str:
    """Returns the table as a LaTeX tabular (package booktabs)."""
    columns = "ll" + "r" * (len(rows[0]) - 2)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}", ""])


def _latex(cell: str) -> str:
    """Returns a cell with LaTeX's special characters escaped, and minus signs as such."""
    text = "".join(_LATEX.get(sign, sign) for sign in cell)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)


def _percent(estimate: evaluation.Estimate | None) -> str:
    """Returns the mean in percent; a dash for None."""
    return "-" if estimate is None else f"{100 * estimate.mean:.1f}"
