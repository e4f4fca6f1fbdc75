"""What a reader of the table beside the paper's must know: terms, departures, each row's target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from powerjax.evaluation import paper
from powerjax.report import tables
from powerjax.report.cells import law
from powerjax.report.comparison import Line, most_passes
from powerjax.runs import Row


def notes(shown: Sequence[Line], model: str | None, vocab_size: int | None = None) -> list[str]:
    """Returns what a reader of the table must know, one sentence or more per note.

    Args:
      model: the paper's model whose numbers stand in the table; None if there are none.
      vocab_size: V of the model with random weights; None leaves out the bound -log V.
    """
    n = most_passes(shown)
    texts = [
        f"r*: accuracy. r_self: mean log-likelihood per token (nats, EOS counted) under the row's"
        f" own model. Mean ± standard deviation over {n} passes, a pass being one completion of"
        " each problem: independent samples of one run, where the paper has 4 seeds. 95 %:"
        " bootstrap intervals over problems.",
        f"Bo{n}: of a problem's {n} completions that of largest r_self; it costs {n} times the"
        " forward tokens of its row. Forward tokens are those fed to the model by decoding,"
        " per completion; the prompt's are left out.",
    ]
    if any(line.paper for line in shown):
        texts.append(
            f"paper: its numbers for {model} (arXiv 2605.04542), where it has any. diff./s.e.: ours"
            " minus the paper's in standard errors of the difference, both over passes; where the"
            " paper's standard deviation is not known, ours stands for it."
            + ("" if n == paper.NUM_SEEDS else f" Bo{n} is not compared with the paper's Bo4.")
        )
    if unsafe := sum(tables.num_unsafe(line.result.records) for line in shown):
        texts.append(f"{unsafe} programs ran with resource limits alone (--unsafe_exec).")
    if boxes := tables.several_boxes([r for line in shown for r in line.result.records]):
        texts.append(boxes)
    if any(line.result.model == "RandW" for line in shown):
        bound = ""
        if vocab_size:
            bound = f" = {-math.log(vocab_size):.2f} (V = {vocab_size:,})"
        texts.append(
            "RandW: the same architecture with random weights. A model that scores its own plain"
            f" samples has a mean r_self of -log V{bound} or more. The paper's RandW figures,"
            " -13.4 and -12.4, lie below -11.93, that bound for its models: they were scored in"
            " some other way and are not comparable (n.c.)."
        )
    return texts


def departures(power: Row, num_problems: tuple[int, int], task: str) -> list[str]:
    """Returns a note of the settings that are not the paper's.

    The list is empty if all are the paper's, or if the paper has no such task.

    Args:
      power: the row of power sampling.
      num_problems: how many are evaluated on, and how many are learnt from.
    """
    if task not in paper.NUM_PROBLEMS:
        return []
    s, theirs = power.settings, paper.NUM_PROBLEMS[task]
    pairs = {
        "problems": (num_problems[0], theirs[0]),
        "training problems": (num_problems[1], theirs[1]),
        "passes": (s["num_samples"], paper.NUM_SEEDS),
        "tokens at most": (s["max_new_tokens"], paper.MAX_NEW_TOKENS),
        "tokens per stage": (s["block_size"], paper.BLOCK_SIZE),
        "moves per stage": (s["num_mcmc_steps"], paper.NUM_MCMC_STEPS),
        "as alpha": (s["alpha"], paper.ALPHA),
    }
    differing = [f"{a:g} {name} (its {b:g})" for name, (a, b) in pairs.items() if a != b]
    return [f"Not the paper's settings: {', '.join(differing)}."] if differing else []


def laws(rows: Sequence[Row]) -> list[str]:
    """Returns for each row that makes moves which distribution it draws from, and its settings."""
    texts = []
    for row in rows:
        if "num_mcmc_steps" in row.settings:
            s = {"kernel": "exact", **row.settings}
            most, block = s["max_new_tokens"], min(s["block_size"], s["max_new_tokens"])
            texts.append(
                f"{row.label}: {law(row.sampler, s)}; at most {most:,} tokens, {block} per stage."
            )
    return texts
