"""Sharpening (Eq. 3) and what n samples of pi_alpha teach a finite policy class: Prop. 3, Lemma 1.

Letters: X prompts, Y completions, M policies, R data sets. A policy is a log-law [X, Y].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from powerjax.theory import laws

C0 = (1 - 1 / np.sqrt(2)) ** 2
"""The constant of Eq. 17; 2 / C0 is about 23.3."""


def mode_mass(log_policy: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """p(y*(x) | x) for each prompt, y* the base law's set of modes (Eq. 2): [..., X]."""
    return np.where(laws.modes(log_p), np.exp(log_policy), 0.0).sum(axis=-1)


def unsharpened(
    log_policy: np.ndarray, log_p: np.ndarray, delta: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """P_x[p(y*(x) | x) <= 1 - delta], the left side of Eq. 17; weights [X] are the prompts' law."""
    return np.average(mode_mass(log_policy, log_p) <= 1 - delta, axis=-1, weights=weights)


def is_sharpened(
    log_policy: np.ndarray,
    log_p: np.ndarray,
    eps: float,
    delta: float,
    weights: np.ndarray | None = None,
) -> bool:
    """Eq. 3: p(y*(x) | x) >= 1 - delta with probability at least 1 - eps over the prompts."""
    enough = mode_mass(log_policy, log_p) >= 1 - delta
    return bool(np.average(enough, weights=weights) >= 1 - eps)


def policy_class(
    log_p: np.ndarray, alpha: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """M = size policies [M, X, Y], pi_alpha the last of them.

    Half are mixtures of pi_alpha with a random law, at weights from 1e-3 to 1: competitors as near
    as wanted, and the hardest to tell apart. The rest are pi at other exponents.
    """
    if size < 1:
        raise ValueError(f"the policy class needs at least pi_alpha itself, got size {size}")
    target = laws.power(log_p, alpha)
    others = []
    num_mixtures = (size - 1) // 2
    for share in np.geomspace(1e-3, 1, num_mixtures):
        noise = laws.normalise(2 * rng.standard_normal(log_p.shape))
        others.append(np.logaddexp(target + np.log1p(-min(share, 0.999)), noise + np.log(share)))
    for exponent in np.geomspace(0.2, 5, size - 1 - num_mixtures):
        others.append(laws.power(log_p, alpha * exponent * 1.01))
    return np.stack([*(laws.normalise(other) for other in others), target])


class PolicyFits(NamedTuple):
    """The maximum-likelihood policy of R data sets of n completions of pi_alpha, and its bounds."""

    unsharpened: np.ndarray
    """P_x[p_hat(y*|x) <= 1 - delta] for each data set, [R]."""
    hellinger: np.ndarray
    """E_x[H^2(p_hat, pi_alpha)] for each data set, [R]."""
    statistical_term: float
    """(2/C0) log(M/rho) / (delta n), the first term of Eq. 17."""
    sharpening_term: float
    """P_x[pi_alpha(y*|x) <= 1 - delta/2], the second."""
    hellinger_bound: float
    """2 log(M/rho) / n (Lemma 1)."""

    @property
    def bound(self) -> float:
        """Eq. 17's right side; above 1 it says nothing."""
        return self.statistical_term + self.sharpening_term

    @property
    def failure_rate(self) -> float:
        """How often a data set breaks Eq. 17; Prop. 3 allows rho."""
        return float(np.mean(self.unsharpened > self.bound + 1e-12))

    @property
    def hellinger_failure_rate(self) -> float:
        """How often a data set breaks Lemma 1, which allows rho."""
        return float(np.mean(self.hellinger > self.hellinger_bound + 1e-12))


def maximum_likelihood(
    policies: np.ndarray, log_prompt_law: np.ndarray, target: int, n: int, size: int, rng
) -> np.ndarray:
    """The index of the likeliest policy for each of `size` data sets of n pairs (x, y), [R].

    x is drawn from the prompts' law and y from policy `target`. Ties go to the lowest index.
    """
    log_pairs = (log_prompt_law[:, None] + policies[target]).ravel()
    counts = rng.multinomial(n, np.exp(laws.normalise(log_pairs)), size=size)
    flat = policies.reshape(len(policies), -1)
    possible = np.isfinite(flat)
    likelihood = counts @ np.where(possible, flat, 0.0).T
    likelihood[(counts @ (~possible).T) > 0] = -np.inf
    return np.argmax(likelihood, axis=1)


def prop3_fits(
    log_p: np.ndarray,
    policies: np.ndarray,
    alpha: float,
    num_samples: int,
    *,
    delta: float,
    rho: float,
    num_data_sets: int,
    rng: np.random.Generator,
    prompt_weights: np.ndarray | None = None,
) -> PolicyFits:
    """Proposition 3 (Eq. 17) and Lemma 1 by experiment: power self-distillation, many times over.

    log_p [X, Y] is the base model, policies [M, X, Y] the class, pi_alpha its last member (so that
    ties go against it).
    """
    if not (0 < delta < 1 and 0 < rho < 1):
        raise ValueError(f"delta and rho must lie between 0 and 1, got {delta:g} and {rho:g}")
    if num_samples < 1 or num_data_sets < 1:
        raise ValueError("num_samples and num_data_sets must be at least 1")
    policies = laws.check_log_law(policies, "the policy class")
    target = laws.power(laws.check_log_law(log_p, "the base model"), alpha)
    if not np.allclose(np.exp(policies[-1]), np.exp(target), atol=1e-12):
        raise ValueError("the last policy of the class must be pi_alpha: Prop. 3 assumes it is in")
    size = len(log_p)
    weights = np.full(size, 1 / size) if prompt_weights is None else np.asarray(prompt_weights)
    log_weights = laws.check_log_law(laws.log_of(weights), "the prompts' law")
    chosen = maximum_likelihood(
        policies, log_weights, len(policies) - 1, num_samples, num_data_sets, rng
    )
    log_m_rho = np.log(len(policies) / rho)
    misses = unsharpened(policies, log_p, delta, weights)
    distances = np.average(laws.squared_hellinger(policies, target), axis=-1, weights=weights)
    return PolicyFits(
        unsharpened=misses[chosen],
        hellinger=distances[chosen],
        statistical_term=2 / C0 * log_m_rho / (delta * num_samples),
        sharpening_term=float(unsharpened(target, log_p, delta / 2, weights)),
        hellinger_bound=2 * log_m_rho / num_samples,
    )
