"""Metropolis-Hastings on completions as explicit matrices: the exact law after any number of moves.

The chain has one stage: its completion ends in EOS or is cut at T. A move draws a cut m uniformly
on 0..|y|-1, resamples the suffix from m by the proposal, and accepts by the ratio of Eq. 20
(`kernel`). This is written from the formulas alone and shares no code with `powerjax.sample.mh`, so
that each can be checked by the other.

Letters: Y completions, U live prefixes of 1..T-1 tokens; a state of a chain is one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from powerjax.theory import laws
from powerjax.theory.exact import TabularModel

RULES = ("exact", "karan2026", "no_length_terms")


class Strings(NamedTuple):
    """Every state that a chain can be in: the Y completions, then the U live prefixes.

    Only the published rule reaches a live prefix: it may leave a completion unfinished.
    """

    tokens: np.ndarray
    """The tokens of each state, int [Y+U, T], -1 after its end."""
    lengths: np.ndarray
    """The number of tokens of each state, EOS counted, int [Y+U]."""


class Kernel(NamedTuple):
    """One Metropolis-Hastings move of a chain."""

    matrix: np.ndarray
    """Entry (s, s') is the probability of a move from state s to s', [Y+U, Y+U]."""
    tokens_per_step: np.ndarray
    """The expected number of tokens that a move from each state draws, [Y+U]."""


def strings(model: TabularModel) -> Strings:
    """Returns the state space: the completions in the model's order, then the live prefixes."""
    tokens, lengths = model.completions()
    for t in range(1, model.length):
        index = np.arange(model.num_live**t)
        prefix = np.full((len(index), model.length), -1)
        for d in range(t):
            prefix[:, d] = index // model.num_live ** (t - 1 - d) % model.num_live
        tokens = np.concatenate([tokens, prefix])
        lengths = np.concatenate([lengths, np.full(len(index), t)])
    return Strings(tokens, lengths)


def _running_sums(tables: Sequence[np.ndarray], states: Strings, num_live: int) -> np.ndarray:
    """Sums the entries of tables [A^t, V] over the first t tokens of each state.

    Returns [Y+U, T+1] for t = 0..T; past the end of a state its sum stays as it is.
    """
    row = np.zeros(len(states.tokens), dtype=np.int64)
    sums = np.zeros((len(row), len(tables) + 1))
    for t, table in enumerate(tables):
        here = states.lengths > t
        entry = np.where(here, table[np.where(here, row, 0), states.tokens[:, t]], 0.0)
        sums[:, t + 1] = sums[:, t] + entry
        row = np.where(here, row * num_live + states.tokens[:, t], 0)
        row = np.where(states.tokens[:, t] < num_live, row, 0)
    return sums


def _weight_sums(
    model: TabularModel, proposal: TabularModel, alpha: float, states: Strings
) -> np.ndarray:
    """Returns the running sums [Y+U, T+1] of w = alpha log p - log q (Eq. 20) along each state."""
    tables = []
    for log_p, log_q in zip(model.log_p, proposal.log_p, strict=True):
        alive = np.isfinite(log_p) & np.isfinite(log_q)
        finite = np.where(alive, alpha * np.where(alive, log_p, 0) - np.where(alive, log_q, 0), 0)
        tables.append(np.where(alive | np.isneginf(log_q), finite, -np.inf))
    return _running_sums(tables, states, model.num_live)


def _reachable(model: TabularModel, states: Strings, rule: str) -> np.ndarray:
    """Returns whether a suffix proposed from one state can end in another, bool [Y+U, Y+U].

    A proposal runs to EOS or to a cap: T, or under the published rule the current length.
    """
    lengths, num = states.lengths, len(states.lengths)
    is_completion = np.arange(num) < model.num_completions
    ended = is_completion & (states.tokens[np.arange(num), lengths - 1] >= model.num_live)
    cap = lengths if rule == "karan2026" else np.full(num, model.length)
    reachable = ended[None, :] | (lengths[None, :] == cap[:, None])
    return reachable & (lengths[None, :] <= cap[:, None])


def _log_acceptance(weight: np.ndarray, lengths: np.ndarray, m: int, rule: str) -> np.ndarray:
    """Returns log A of Eq. 20 for a cut at m, [from state, to state].

    `weight` holds the running sums of `_weight_sums`.
    """
    num = len(lengths)
    current = weight[:, -1:] - weight[:, m : m + 1]
    if rule == "karan2026":
        current = np.take_along_axis(weight, np.broadcast_to(lengths, (num, num)), axis=1)
        current = current - weight[:, m : m + 1]
    with np.errstate(invalid="ignore"):
        log_a = (weight[:, -1] - weight[:, m])[None, :] - current
    if rule == "exact":
        log_a = log_a + np.log(lengths)[:, None] - np.log(lengths)[None, :]
    return log_a


def kernel(
    model: TabularModel, proposal: TabularModel, alpha: float, rule: str = "exact"
) -> Kernel:
    """Returns the Metropolis-Hastings move towards pi_alpha under one of three rules.

    "exact": the suffix runs to EOS or T, and (Eq. 20, with w = alpha log p - log q)
        log A = sum_{t>=m} w(y') - sum_{t>=m} w(y) + log|y| - log|y'|.
    "karan2026": the rule of the published code. The suffix runs to EOS or to the current length,
        the sum over the current y stops at the proposal's length, and log|y| - log|y'| is missing.
    "no_length_terms": the exact rule without log|y| - log|y'|.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    alpha = laws.check_alpha(alpha)
    states = strings(model)
    lengths, num = states.lengths, len(states.lengths)
    weight = _weight_sums(model, proposal, alpha, states)
    # A token that the proposal never draws: -1e4 makes its probability zero and its sums finite.
    tables = [np.maximum(log_q, -1e4) for log_q in proposal.log_p]
    log_q = _running_sums(tables, states, model.num_live)
    reachable = _reachable(model, states, rule)
    matrix, drawn = np.zeros((num, num)), np.zeros(num)
    same = np.ones((num, num), dtype=bool)  # whether two states agree before the cut
    for m in range(model.length):
        # --- the chance of the cut m and of each proposal from it ---
        if m:
            same &= states.tokens[:, None, m - 1] == states.tokens[None, :, m - 1]
        moves = same & reachable & (lengths[:, None] > m) & (lengths[None, :] > m)
        chance = np.where(moves, np.exp(log_q[:, -1] - log_q[:, m])[None, :], 0) / lengths[:, None]
        # --- accept or reject ---
        log_a = _log_acceptance(weight, lengths, m, rule)
        matrix += chance * np.exp(np.minimum(0, np.nan_to_num(log_a, nan=0.0)))
        drawn += (chance * (lengths[None, :] - m)).sum(axis=1)
    matrix[np.arange(num), np.arange(num)] += 1 - matrix.sum(axis=1)
    return Kernel(matrix, drawn)


def laws_of_chain(step: Kernel, start: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Follows the law of a chain through its moves.

    Args:
      step: one move of the chain.
      start: the law that the chain starts from, probabilities of completions [Y].

    Returns the law after 0..num_steps moves, [num_steps+1, Y+U], and the expected number of tokens
    that these moves have drawn, [num_steps+1]; the first draw's tokens are not counted.
    """
    law = np.zeros(len(step.matrix))
    law[: len(start)] = start
    path, tokens = [law], [0.0]
    for _ in range(num_steps):
        tokens.append(tokens[-1] + path[-1] @ step.tokens_per_step)
        path.append(path[-1] @ step.matrix)
    return np.stack(path), np.array(tokens)


def distance_to(log_target: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Returns the total variation [...] of laws over states [..., Y+U] to a target.

    The laws are probabilities; the target is a log-law over completions, [Y].
    """
    target = np.zeros(law.shape[-1])
    target[: len(log_target)] = np.exp(log_target)
    return 0.5 * np.abs(law - target).sum(axis=-1)
