"""Results as tables (rows of cells, the head first), and tables as text, CSV, LaTeX and Markdown.

Accuracies are in percent, self-rewards in nats per token, costs in forward tokens a completion.
"""

import csv as csv_format
import io
import re
from collections.abc import Sequence

from powerjax import evaluation
from powerjax.evaluation import Result
from powerjax.records import Record
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
    """All figures of each row. Columns in which no row has anything to say are left out."""
    n = {result.summary.num_passes for result in results}
    best = f"Bo{n.pop()}" if len(n) == 1 else "BoN"
    ks = sorted({k for result in results for k in result.summary.pass_at} - {1})
    head = ["model", "sampler", "problems", "passes", "accuracy %", "95 %", "self-reward", "95 %"]
    head += [f"{best} acc.", "95 %", f"{best} r", "majority", *(f"pass@{k}" for k in ks)]
    head += ["evaluated r", f"{best} acc. by it"]
    head += ["accepted", "forward", "tokens", "5-95 %", "ended in EOS"]
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
            ]
        )
    kept = [i for i in range(len(head)) if any(row[i] != "-" for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def costs(results: Sequence[Result]) -> Cells | None:
    """Accuracy at equal cost: for the price of one completion of a row, Best-of-n of every row.

    Prices are those of the rows that make moves, or of all where none does; of prices within 5 % of
    each other the largest stands for all. n is the largest the price allows and the records have.
    None where accuracies or prices are not known.
    """
    results = [r for r in results if r.summary.accuracy and r.summary.forward_tokens]
    if len(results) < 2:
        return None
    dear = [r for r in results if r.summary.acceptance_rate is not None] or results
    prices = []
    for price in sorted((result.summary.forward_tokens for result in dear), reverse=True):
        if not prices or price < prices[-1] / 1.05:
            prices.append(price)
    prices.reverse()
    rows = [["model", "sampler", "one costs", *(f"for {price:.0f}" for price in prices)]]
    for result in results:
        priced = evaluation.best_of(result.records)
        cells = [evaluation.within(priced, price) for price in prices]
        rows.append(
            [
                *(result.model, result.sampler, f"{result.summary.forward_tokens:.1f}"),
                *("-" if p is None else f"{_percent(p.accuracy)} (n={p.n})" for p in cells),
            ]
        )
    return rows


def by_stage(results: Sequence[Result]) -> Cells | None:
    """The share of moves accepted in each stage; None where no row knows it."""
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
    """How often the rules of a grader differ, row by row; None where there is one rule only."""
    names = next((list(rules(r)) for result in results for r in result.records if rules(r)), [])
    if len(names) < 2:
        return None
    a, b = names[:2]
    head = ["model", "sampler", "graded", "both right", f"{a} alone", f"{b} alone", "out of time"]
    table = [head]
    for result in results:
        graded = [(found, r["grade_detail"]) for r in result.records if (found := rules(r))]
        pairs = [(found.get(a), found.get(b)) for found, _ in graded]
        counts = [
            len(pairs),
            *(pairs.count(pair) for pair in ((True, True), (True, False), (False, True))),
            sum(None in found.values() or bool(d.get("timed_out")) for found, d in graded),
        ]
        table.append([result.model, result.sampler, *map(str, counts)])
    return table


def rules(record: Record) -> dict[str, bool | None]:
    """The verdict of each rule of the grader by name, None for "out of time"."""
    detail = record.get("grade_detail") or {}
    return {name: v for name, v in detail.items() if v is None or isinstance(v, bool)}


def num_unsafe(records: Sequence[Record]) -> int:
    """How many of them are programs that ran with resource limits alone (`tasks.sandbox`)."""
    details = (record.get("grade_detail") or {} for record in records)
    return sum(detail.get("isolation") == sandbox.RLIMITS for detail in details)


def several_boxes(records: Sequence[Record]) -> str | None:
    """What to say of completions whose last sentence has several boxes; None where there are none.

    The grader compares the last box alone, under either rule.
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
    """The table in columns for a terminal."""
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
    """The table as CSV; cells as they stand."""
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def latex(rows: Cells) -> str:
    """The table as a LaTeX tabular (package booktabs)."""
    columns = "ll" + "r" * (len(rows[0]) - 2)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}", ""])


def _latex(cell: str) -> str:
    text = "".join(_LATEX.get(sign, sign) for sign in cell)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)


def _percent(estimate: evaluation.Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.mean:.1f}"
