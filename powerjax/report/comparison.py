"""The table of a reproduction beside the paper's numbers, and whether it shows the paper's pattern.

r* is accuracy, as a share; r_self the mean log-likelihood per token (nats, EOS counted) under the
model of the row; Best-of-N takes the completion of largest r_self.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from powerjax import evaluation
from powerjax.evaluation import Estimate, Result, paper
from powerjax.report import tables
from powerjax.report.cells import interval, law, spread
from powerjax.runs import Row

_WORD = {True: "yes", False: "NO", None: "not known"}
_SAME = 5e-4  # a difference below the paper's last digit


class Line(NamedTuple):
    """One row: ours and the paper's, where it has one."""

    result: Result
    paper: paper.Row | None


class Claim(NamedTuple):
    """One claim of the paper on this run. holds: None where the rows for it are not there."""

    claim: str
    holds: bool | None
    numbers: str


def lines(results: Sequence[Result], task: str, model: str | None) -> list[Line]:
    """The results beside the paper's rows of that task and model (None: there are none)."""
    return [Line(r, paper.row(task, model, r.model, r.sampler)) for r in results]


def standard_errors(
    ours: Estimate | None, num_passes: int, theirs: float, their_std: float | None
) -> float | None:
    """(ours - theirs) / standard error, both means over passes; None where that says nothing.

    A mean's standard error is its standard deviation over passes by the root of their number; the
    paper's are over 4. Where the paper's is not known, ours stands for it.
    """
    if ours is None or ours.std is None:
        return None
    gap = ours.mean - theirs
    their_std = ours.std if their_std is None else their_std
    error = math.sqrt(ours.std**2 / num_passes + their_std**2 / paper.NUM_SEEDS)
    if error == 0:
        return 0.0 if abs(gap) < _SAME else None
    return gap / error


def write(
    folder: Path, title: str, found: Sequence[Line], claims: Sequence[Claim], said: Sequence[str]
) -> str:
    """Writes table.md, table.tex and table.csv into the folder; returns the text of the first."""
    summary = found[0].result.summary
    rows = cells(found)
    parts = [
        f"# {title}",
        f"{summary.num_problems} problems x {summary.num_passes} completions.",
        tables.markdown(rows),
    ]
    if costs := tables.costs([line.result for line in found]):
        parts += [f"## {tables.COSTS}", tables.markdown(costs)]
    parts += [
        "## The paper's pattern, on these rows",
        describe(claims),
        "## Notes",
        "\n".join(f"- {note}" for note in said),
    ]
    text = "\n\n".join(parts)
    for name, content in (
        ("table.md", text + "\n"),
        ("table.tex", tables.latex(rows)),
        ("table.csv", as_csv(found)),
    ):
        (folder / name).write_text(content, encoding="utf-8")
    return text


def cells(found: Sequence[Line]) -> tables.Cells:
    """The table; the paper's columns only where it has a row, "n.c." for what is not comparable."""
    n = _most_passes(found)
    beside = any(line.paper for line in found)
    head = ["model", "sampling"]
    for name in ("r*", "r_self"):
        head += [name, "95 %", *(["paper", "diff./s.e."] if beside else [])]
    for name in (f"Bo{n} r*", f"Bo{n} r_self"):
        head += [name, *(["paper, Bo4", "diff."] if beside else [])]
    return [[*head, "forward tokens"], *(_row(line, beside) for line in found)]


def _row(line: Line, beside: bool) -> list[str]:
    result, theirs = line
    s = result.summary
    row = [result.model, result.sampler]
    for name in ("accuracy", "self_reward"):
        ours = getattr(s, name)
        row += [spread(ours), interval(ours)]
        if beside:
            mean, std = getattr(theirs, name, None), getattr(theirs, f"{name}_std", None)
            gap = None if mean is None else standard_errors(ours, s.num_passes, mean, std)
            row += [_paper(mean, std), _gap(line, name, gap, 1)]
    for name in ("accuracy", "self_reward"):
        ours = getattr(s, f"best_of_n_{name}") if s.num_passes > 1 else None
        row.append(_paper(ours and ours.mean, None))
        if beside:
            mean = getattr(theirs, f"best_{name}", None)
            alike = None not in (mean, ours) and s.num_passes == paper.NUM_SEEDS
            row += [_paper(mean, None), _gap(line, name, ours.mean - mean if alike else None, 3)]
    return [*row, "-" if s.forward_tokens is None else f"{s.forward_tokens:,.0f}"]


def _gap(line: Line, name: str, gap: float | None, digits: int) -> str:
    if line.paper and line.result.model == "RandW" and name == "self_reward":
        return "n.c."
    return "-" if gap is None else f"{gap:+.{digits}f}"


def as_csv(found: Sequence[Line]) -> str:
    """All numbers unrounded, one row a line; empty cells where there is none."""
    file = io.StringIO()
    rows = [_numbers(line) for line in found]
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def pattern(results: Sequence[Result], teacher: str = "Power") -> list[Claim]:
    """What the paper claims of these rows, and whether it is so here.

    "Rises" is of the means; the intervals of paired differences stand beside it.
    """
    rows = {(result.model, result.sampler): result for result in results}

    def base(*names: str) -> list[Result] | None:
        found = [rows.get(("Base", name)) for name in names]
        return None if None in found else found

    three = base("Standard", "Temperature", "Power")
    claims = [
        _rises("r_self rises from Standard to Temperature to Power", three, "self_reward"),
        _rises("r* rises from Standard to Temperature to Power", three, "correct"),
    ]
    by_alpha = {}
    for result in results:
        if result.model == "Base" and result.sampler.startswith(("Standard", "Power")):
            by_alpha.setdefault(result.records[0]["alpha"], result)
    by_alpha.pop("inf", None)
    ordered = [by_alpha[alpha] for alpha in sorted(by_alpha)]
    name = f"r* rises with alpha ({', '.join(f'{alpha:g}' for alpha in sorted(by_alpha))})"
    if len(ordered) > 1:
        claims.append(_rises(name, ordered, "correct"))
    claims.append(_random_weights([r for r in results if r.model == "RandW"]))
    student = rows.get(("Distilled", "Standard"))
    claims.append(_student(student, rows.get(("Base", teacher)), rows.get(("Base", "Standard"))))
    return claims


def describe(claims: Sequence[Claim]) -> str:
    """The claims as a Markdown list."""
    return "\n".join(f"- {_WORD[c.holds]}: {c.claim}. {c.numbers}" for c in claims)


def claim_cells(claims: Sequence[Claim]) -> tables.Cells:
    """The claims as a table."""
    return [["holds", "claim", "numbers"], *([_WORD[c.holds], c.claim, c.numbers] for c in claims)]


def notes(found: Sequence[Line], model: str | None, vocab_size: int | None = None) -> list[str]:
    """What a reader of the table must know; model: whose numbers of the paper stand in it."""
    n = _most_passes(found)
    said = [
        f"r*: accuracy. r_self: mean log-likelihood per token (nats, EOS counted) under the row's"
        f" own model. Mean ± standard deviation over {n} passes, a pass being one completion of"
        " each problem: independent samples of one run, where the paper has 4 seeds. 95 %:"
        " bootstrap intervals over problems.",
        f"Bo{n}: of a problem's {n} completions that of largest r_self; it costs {n} times the"
        " forward tokens of its row. Forward tokens are those fed to the model by decoding, a"
        " completion; the prompt's are left out.",
    ]
    if any(line.paper for line in found):
        said.append(
            f"paper: its numbers for {model} (arXiv 2605.04542), where it has any. diff./s.e.: ours"
            " minus the paper's in standard errors of the difference, both over passes; where the"
            " paper's standard deviation is not known, ours stands for it."
            + ("" if n == paper.NUM_SEEDS else f" Bo{n} is not compared with the paper's Bo4.")
        )
    if unsafe := sum(tables.num_unsafe(line.result.records) for line in found):
        said.append(f"{unsafe} programs ran with resource limits alone (--unsafe_exec).")
    if boxes := tables.several_boxes([r for line in found for r in line.result.records]):
        said.append(boxes)
    if any(line.result.model == "RandW" for line in found):
        bound = ""
        if vocab_size:
            bound = f" = {-math.log(vocab_size):.2f} (V = {vocab_size:,})"
        said.append(
            "RandW: the same architecture with random weights. A model that scores its own plain"
            f" samples has a mean r_self of -log V{bound} or more. The paper's RandW figures,"
            " -13.4 and -12.4, lie below -11.93, that bound for its models: they were scored in"
            " some other way and are not comparable (n.c.)."
        )
    return said


def departures(power: Row, num_problems: tuple[int, int], task: str) -> list[str]:
    """What keeps a run from being the paper's; [] where nothing does, or the task is not its.

    power: the row of power sampling. num_problems: evaluated on, and learnt from.
    """
    if task not in paper.NUM_PROBLEMS:
        return []
    s, theirs = power.settings, paper.NUM_PROBLEMS[task]
    pairs = {
        "problems": (num_problems[0], theirs[0]),
        "training problems": (num_problems[1], theirs[1]),
        "passes": (s["num_samples"], paper.NUM_SEEDS),
        "tokens at most": (s["max_new_tokens"], paper.MAX_NEW_TOKENS),
        "tokens a stage": (s["block_size"], paper.BLOCK_SIZE),
        "moves a stage": (s["num_mcmc_steps"], paper.NUM_MCMC_STEPS),
        "as alpha": (s["alpha"], paper.ALPHA),
    }
    differing = [f"{a:g} {name} (its {b:g})" for name, (a, b) in pairs.items() if a != b]
    return [f"Not the paper's settings: {', '.join(differing)}."] if differing else []


def laws(rows: Sequence[Row]) -> list[str]:
    """Which law the rows that make moves are from, and with what settings."""
    found = []
    for row in rows:
        if row.sampler in ("power", "power_inf"):
            s = {"kernel": "exact", **row.settings}
            most, block = s["max_new_tokens"], min(s["block_size"], s["max_new_tokens"])
            found.append(
                f"{row.label}: {law(row.sampler, s)}; at most {most:,} tokens, {block} a stage."
            )
    return found


def _rises(claim: str, results: Sequence[Result] | None, value: str) -> Claim:
    if results is None:
        return Claim(claim, None, "Rows are missing.")
    field = {"correct": "accuracy", "self_reward": "self_reward"}[value]
    found = [getattr(result.summary, field) for result in results]
    if None in found:
        return Claim(claim, None, "No answers are known.")
    means = [estimate.mean for estimate in found]
    steps = []
    for before, after in itertools.pairwise(results):
        gap = evaluation.paired_difference(after.records, before.records, value)
        steps.append(f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]")
    holds = all(a < b for a, b in itertools.pairwise(means))
    shown = ", ".join(f"{mean:.3f}" for mean in means)
    return Claim(claim, holds, f"Means {shown}; steps {', '.join(steps)}.")


def _random_weights(results: Sequence[Result]) -> Claim:
    claim = "r* of random weights stays 0"
    found = [result.summary.accuracy for result in results]
    if not found or None in found:
        return Claim(claim, None, "Rows are missing.")
    worst = max(estimate.mean for estimate in found)
    rewards = ", ".join(f"{r.sampler} {r.summary.self_reward.mean:.3f}" for r in results)
    return Claim(claim, worst == 0, f"The largest r* is {worst:.3f}; r_self: {rewards}.")


def _student(student: Result | None, teacher: Result | None, base: Result | None) -> Claim:
    claim = (
        "the student, sampled plainly, rises above the base and comes within 5 points of its"
        " teacher at plain cost"
    )
    if None in (student, teacher, base) or student.summary.accuracy is None:
        return Claim(claim, None, "Rows are missing.")
    gap, gain = (
        evaluation.paired_difference(student.records, row.records) for row in (teacher, base)
    )
    ours, theirs = student.summary.forward_tokens, teacher.summary.forward_tokens
    plain = abs(ours / student.summary.num_tokens - 1) < 1e-6
    gaps = [
        f"minus {row.model} {row.sampler} {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        for row, d in ((base, gain), (teacher, gap))
    ]
    numbers = (
        f"r* {student.summary.accuracy.mean:.3f}, {', '.join(gaps)}; {ours:,.0f} forward tokens a"
        f" completion against {theirs:,.0f}."
    )
    return Claim(claim, gain.mean > 0 and gap.mean > -0.05 and plain, numbers)


def _numbers(line: Line) -> dict[str, float | str | None]:
    result, row = line
    s = result.summary
    found = {
        "model": result.model,
        "sampling": result.sampler,
        "problems": s.num_problems,
        "passes": s.num_passes,
    }
    for name, ours in (("accuracy", s.accuracy), ("self_reward", s.self_reward)):
        for part in ("mean", "std", "low", "high"):
            found[f"{name}_{part}"] = getattr(ours, part) if ours else None
        theirs = getattr(row, name, None)
        std = getattr(row, f"{name}_std", None)
        found[f"paper_{name}"], found[f"paper_{name}_std"] = theirs, std
        found[f"{name}_difference_in_standard_errors"] = (
            None if row is None else standard_errors(ours, s.num_passes, theirs, std)
        )
    for name in ("accuracy", "self_reward"):
        ours = getattr(s, f"best_of_n_{name}")
        found[f"best_of_n_{name}"] = ours.mean if ours else None
        found[f"paper_best_of_4_{name}"] = getattr(row, f"best_{name}", None)
    return found | {
        "acceptance_rate": s.acceptance_rate,
        "forward_tokens": s.forward_tokens,
        "num_tokens": s.num_tokens,
        "finished": s.finished,
    }


def _most_passes(found: Sequence[Line]) -> int:
    return max(line.result.summary.num_passes for line in found)


def _paper(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
