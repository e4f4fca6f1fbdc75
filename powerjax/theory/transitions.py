"""Metropolis-Hastings on completions as explicit matrices: the exact law after any number of steps.

One stage: the state ends in EOS or is cut at T. A step draws a cut m uniformly on 0..|y|-1,
resamples from m by the proposal, and accepts by the ratio of Eq. 20. This is written from the
formulas alone, apart from `powerjax.sample.mh`, so that each can be checked by the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from powerjax.theory import laws
from powerjax.theory.exact import TabularModel

RULES = ("exact", "karan2026", "no_length_terms")


class Strings(NamedTuple):
    """Every state a chain can be in: the Y completions, then the U live prefixes of 1..T-1 tokens.

    A prefix is a state of the published rule alone, which may leave a completion unfinished.
    """

    tokens: np.ndarray
    """int [Y+U, T], -1 after the end."""
    lengths: np.ndarray
    """int [Y+U], EOS counted."""


class Kernel(NamedTuple):
    """One step of a chain."""

    matrix: np.ndarray
    """[Y+U, Y+U], rows sum to 1."""
    tokens_per_step: np.ndarray
    """Expected tokens that a step from each state draws, [Y+U]."""


def strings(model: TabularModel) -> Strings:
    """The state space, completions first and in the model's order."""
    tokens, lengths = model.completions()
    for t in range(1, model.length):
        index = np.arange(model.num_live**t)
        prefix = np.full((len(index), model.length), -1)
        for d in range(t):
            prefix[:, d] = index // model.num_live ** (t - 1 - d) % model.num_live
        tokens = np.concatenate([tokens, prefix])
        lengths = np.concatenate([lengths, np.full(len(index), t)])
    return Strings(tokens, lengths)


def _running_sums(tables: tuple[np.ndarray, ...], states: Strings, num_live: int) -> np.ndarray:
    """[Y+U, T+1]: sums of tables [A^t, V] over a state's first t tokens, constant past its end."""
    row = np.zeros(len(states.tokens), dtype=np.int64)
    sums = np.zeros((len(row), len(tables) + 1))
    for t, table in enumerate(tables):
        here = states.lengths > t
        step = np.where(here, table[np.where(here, row, 0), states.tokens[:, t]], 0.0)
        sums[:, t + 1] = sums[:, t] + step
        row = np.where(here, row * num_live + states.tokens[:, t], 0)
        row = np.where(states.tokens[:, t] < num_live, row, 0)
    return sums


def kernel(
    model: TabularModel, proposal: TabularModel, alpha: float, rule: str = "exact"
) -> Kernel:
    """The transition matrix towards pi_alpha under one of three rules.

    "exact": the suffix runs to EOS or T, and log A = sum_{t>=m} w(y') - sum_{t>=m} w(y)
        + log|y| - log|y'| with w = alpha log p - log q.
    "karan2026": the published code's. The suffix runs to EOS or to the current length, the current
        sum stops at the proposal's length, and the cut's range is not corrected for.
    "no_length_terms": the exact rule without log|y| - log|y'|.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    alpha = laws.check_alpha(alpha)
    states = strings(model)
    lengths = states.lengths
    weights = []
    for log_p, log_q in zip(model.log_p, proposal.log_p, strict=True):
        alive = np.isfinite(log_p) & np.isfinite(log_q)
        finite = np.where(alive, alpha * np.where(alive, log_p, 0) - np.where(alive, log_q, 0), 0)
        weights.append(np.where(alive | np.isneginf(log_q), finite, -np.inf))
    weight = _running_sums(tuple(weights), states, model.num_live)
    # A token that the proposal never draws: -1e4 makes its probability zero and its sums finite.
    tables = tuple(np.maximum(log_q, -1e4) for log_q in proposal.log_p)
    log_q = _running_sums(tables, states, model.num_live)
    num = len(lengths)
    is_completion = np.arange(num) < model.num_completions
    ended = is_completion & (states.tokens[np.arange(num), lengths - 1] >= model.num_live)
    cap = lengths if rule == "karan2026" else np.full(num, model.length)
    reachable = ended[None, :] | (lengths[None, :] == cap[:, None])
    reachable &= lengths[None, :] <= cap[:, None]
    matrix, drawn = np.zeros((num, num)), np.zeros(num)
    same = np.ones((num, num), dtype=bool)
    for m in range(model.length):
        if m:
            same &= states.tokens[:, None, m - 1] == states.tokens[None, :, m - 1]
        moves = same & reachable & (lengths[:, None] > m) & (lengths[None, :] > m)
        chance = np.where(moves, np.exp(log_q[:, -1] - log_q[:, m])[None, :], 0) / lengths[:, None]
        now = weight[:, -1:] - weight[:, m : m + 1]
        if rule == "karan2026":
            now = np.take_along_axis(weight, np.broadcast_to(lengths, (num, num)), axis=1)
            now = now - weight[:, m : m + 1]
        with np.errstate(invalid="ignore"):
            log_a = (weight[:, -1] - weight[:, m])[None, :] - now
        if rule == "exact":
            log_a = log_a + np.log(lengths)[:, None] - np.log(lengths)[None, :]
        accept = np.exp(np.minimum(0, np.nan_to_num(log_a, nan=0.0)))
        matrix += chance * accept
        drawn += (chance * (lengths[None, :] - m)).sum(axis=1)
    matrix[np.arange(num), np.arange(num)] += 1 - matrix.sum(axis=1)
    return Kernel(matrix, drawn)


def laws_of_chain(step: Kernel, start: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The law after 0..num_steps steps, [num_steps+1, Y+U], and the tokens drawn by then, [..].

    `start` [Y] is a law (probabilities) over completions. The tokens are those of the steps alone.
    """
    law = np.zeros(len(step.matrix))
    law[: len(start)] = start
    path, tokens = [law], [0.0]
    for _ in range(num_steps):
        tokens.append(tokens[-1] + path[-1] @ step.tokens_per_step)
        path.append(path[-1] @ step.matrix)
    return np.stack(path), np.array(tokens)


def distance_to(log_target: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Total variation [..] of laws over strings [.., Y+U] to a target over completions [Y]."""
    target = np.zeros(law.shape[-1])
    target[: len(log_target)] = np.exp(log_target)
    return 0.5 * np.abs(law - target).sum(axis=-1)
