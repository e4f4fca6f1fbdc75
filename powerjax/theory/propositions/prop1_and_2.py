"""Proposition 1 (Eq. 6 to 8), power and temperature, and Proposition 2 (Eq. 9, 10, 23), weights.

Every function returns the two sides of its equation (`Sides`). W_t is an incremental importance
weight (Eq. 9), q a proposal. Shapes are in the letters of `exact`.
"""

from __future__ import annotations

import numpy as np

from powerjax.theory import laws
from powerjax.theory.enumeration import sum_along
from powerjax.theory.exact import TabularModel
from powerjax.theory.propositions.sides import PairSides, Sides

MAX_PAIRS = 2**25


def next_token_conditionals(model: TabularModel, alpha: float) -> Sides:
    """Returns both sides of Eq. 6, the next-token conditionals of pi_alpha.

    Left: the law of Eq. 4, summed over completions. Right: p^alpha times the suffixes' power sums.
    Cells: the probability of every token after every prefix of positive probability.
    """
    summed = model.sum_by_prefix(laws.power(model.log_joint(), alpha))
    left, right = [], []
    for mass, table in zip(summed[1:], model.powered(alpha).log_p, strict=True):
        total = laws.log_sum_exp(mass)
        reached = np.isfinite(total)
        left.append(np.exp(mass[reached] - total[reached, None]).ravel())
        right.append(np.exp(table[reached]).ravel())
    return Sides(np.concatenate(left), np.concatenate(right))


def prefix_totals(model: TabularModel, alpha: float) -> Sides:
    """Returns both sides of Eq. 8: log g_t of every prefix, t = 0..T.

    Left: pi^alpha summed over completions. Right: the backward recursion.
    """
    summed = model.sum_by_prefix(laws.check_alpha(alpha) * model.log_joint())
    recursed = model.log_prefix_totals(alpha)
    return Sides(*(np.concatenate([x.ravel() for x in side]) for side in (summed, recursed)))


def prop1_log_odds(model: TabularModel, alpha: float, depth: int | None = None) -> PairSides:
    """Returns both sides of Proposition 1 (Eq. 7), in logs: how power corrects temperature's odds.

    Left: log odds of token i against j under pi_alpha, whose conditionals are summed from the law
    of Eq. 4, minus those under Eq. 5. Right: (1 - alpha)(H_alpha(q_i) - H_alpha(q_j)), where q_i is
    the law of the suffix after token i. Cells: pairs i < j of tokens of positive probability.

    Args:
      depth: the length, in tokens, of the prefixes to compare after; None compares at all lengths.

    Raises ValueError for more than MAX_PAIRS pairs.
    """
    depths = range(model.length) if depth is None else [depth]
    first, second = np.triu_indices(model.vocab_size, 1)
    count = sum(model.num_live**t for t in depths) * len(first)
    if count > MAX_PAIRS:
        raise ValueError(
            f"{count:,} pairs to compare, the limit is {MAX_PAIRS:,}: give a depth, or a model "
            f"with fewer tokens or prefixes"
        )
    summed = model.sum_by_prefix(laws.power(model.log_joint(), alpha))
    cells = []
    for t in depths:
        temperature = model.tempered(alpha).log_p[t]
        entropy = np.zeros(temperature.shape)
        if t + 1 < model.length:
            after = laws.renyi_entropy(model.suffix_log_laws(t + 1), alpha)
            entropy[:, : model.num_live] = after.reshape(len(entropy), -1)
        alive = np.isfinite(summed[t + 1])
        correction = np.where(alive, summed[t + 1], 0.0) - np.where(alive, temperature, 0.0)
        left = correction[:, first] - correction[:, second]
        right = (1 - alpha) * (entropy[:, first] - entropy[:, second])
        prefix, pair = np.nonzero(alive[:, first] & alive[:, second])
        sides = left[prefix, pair], right[prefix, pair]
        cells.append((*sides, np.full(len(prefix), t), prefix, first[pair], second[pair]))
    return PairSides(*(np.concatenate(column) for column in zip(*cells, strict=True)))


def log_incremental_weights(
    model: TabularModel, proposal: TabularModel, alpha: float
) -> tuple[np.ndarray, ...]:
    """Returns log W_t of Eq. 9 for every prefix and next token, one array [A^t, V] for each depth.

    W_t = g_t / (g_(t-1) q) with g_t of Eq. 8. W_t is 0 for a token that pi_alpha cannot draw, also
    after a prefix that pi cannot reach. It is inf for one that the proposal alone cannot draw.
    """
    totals = model.log_prefix_totals(alpha)
    weights, before = [], totals[0].reshape(-1)
    for now, log_q in zip(totals[1:], proposal.log_p, strict=True):
        with np.errstate(invalid="ignore"):
            log_w = now - before[:, None] - log_q
        weights.append(np.where(np.isneginf(now), -np.inf, log_w))
        before = model.live(now)
    return tuple(weights)


def prop2_moments(model: TabularModel, proposal: TabularModel, alpha: float) -> tuple[Sides, Sides]:
    """Returns the sides of Proposition 2: E[W_t] and 1, then Var[W_t] and sum f^2/q - 1.

    f = g_t/g_(t-1) is the conditional of pi_alpha (Eq. 6). Cells: the prefixes that pi can reach.
    Where the proposal cannot draw a token that pi_alpha draws, both sides are the limits of small
    q: a mean of 1 and an infinite variance.
    """
    weights = log_incremental_weights(model, proposal, alpha)
    target = model.powered(alpha)
    means, variances, formulas = [], [], []
    for log_w, log_q, log_f in zip(weights, proposal.log_p, target.log_p, strict=True):
        reached = np.isfinite(log_w).any(axis=1) | np.isposinf(log_w).any(axis=1)
        w, q, f = (np.exp(x[reached]) for x in (log_w, log_q, log_f))
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.where(np.isinf(w), f, q * w).sum(axis=1))
            spread = np.where(np.isinf(w), np.inf, q * np.square(w - 1))
            variances.append(spread.sum(axis=1))
            formulas.append(np.where(f > 0, f * np.exp((log_f - log_q)[reached]), 0).sum(axis=1))
    mean = np.concatenate(means)
    return (
        Sides(mean, np.ones_like(mean)),
        Sides(np.concatenate(variances), np.concatenate(formulas) - 1),
    )


def prop2_minimiser(model: TabularModel, alpha: float) -> Sides:
    """Returns both sides of Eq. 10 (Prop. 2): Var[W_t] at q* = g_t/g_(t-1), and 0, the least value.

    Nothing is minimised here: q* is the minimiser that the proposition names. `prop2_moments`
    computes the variance for any proposal. Cells: the prefixes that pi can reach.
    """
    variance = prop2_moments(model, model.powered(alpha), alpha)[1].left
    return Sides(variance, np.zeros_like(variance))


def prop2_product(model: TabularModel, proposal: TabularModel, alpha: float) -> Sides:
    """Returns both sides of Eq. 23: the sum of log W_t along a completion, and log pi_alpha/q.

    Cells: the completions that the proposal can draw.
    """
    weights = log_incremental_weights(model, proposal, alpha)
    log_q = proposal.log_joint()
    drawn = np.isfinite(log_q)
    weights = tuple(np.where(np.isposinf(log_w), 0.0, log_w) for log_w in weights)
    left = sum_along(weights, model.eos)[0]
    return Sides(left[drawn], laws.power(model.log_joint(), alpha)[drawn] - log_q[drawn])
