"""Sharpening (Eq. 3), and what n samples of pi_alpha teach a finite policy class.

Here are the modes' mass (Eq. 2), the definition of a sharpened policy (Eq. 3), and the experiment
that holds power self-distillation against Proposition 3 (Eq. 17) and Lemma 1 (`prop3_fits`).

Letters: X prompts, Y completions, M policies, R data sets. A policy is a log-law [X, Y].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from powerjax.theory import laws

C0 = (1 - 1 / np.sqrt(2)) ** 2
"""The constant of Eq. 17; 2 / C0 is about 23.3."""


def mode_mass(log_policy: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Returns p(y*(x) | x) of each prompt, [..., X]; y* is the set of modes of log_p (Eq. 2)."""
    return np.where(laws.modes(log_p), np.exp(log_policy), 0.0).sum(axis=-1)


def unsharpened(
    log_policy: np.ndarray, log_p: np.ndarray, delta: float, prompt_law: np.ndarray | None = None
) -> np.ndarray:
    """Returns P_x[p(y*(x) | x) <= 1 - delta], the left side of Eq. 17, [...].

    Args:
      log_policy: policies [..., X, Y].
      log_p: the base model [X, Y], whose modes are y*.
      prompt_law: probabilities of the prompts, [X]; None means uniform.
    """
    return np.average(mode_mass(log_policy, log_p) <= 1 - delta, axis=-1, weights=prompt_law)


def is_sharpened(
    log_policy: np.ndarray,
    log_p: np.ndarray,
    eps: float,
    delta: float,
    prompt_law: np.ndarray | None = None,
) -> bool:
    """Returns Eq. 3: whether p(y*(x) | x) >= 1 - delta with probability >= 1 - eps over prompts."""
    enough = mode_mass(log_policy, log_p) >= 1 - delta
    return bool(np.average(enough, weights=prompt_law) >= 1 - eps)


def policy_class(
    log_p: np.ndarray, alpha: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns `size` policies [M, X, Y], the last of which is pi_alpha.

    Half of the others mix pi_alpha with a share of a random law, from 1e-3 to 1. The smallest
    shares are the hardest to tell from pi_alpha. The rest are pi at other exponents.
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
    """The maximum-likelihood policies p_hat of R data sets of n completions, and their bounds."""

    unsharpened: np.ndarray
    """P_x[p_hat(y*|x) <= 1 - delta] of each data set, [R]: the left side of Eq. 17."""
    hellinger: np.ndarray
    """E_x[H^2(p_hat, pi_alpha)] of each data set, [R]: the left side of Lemma 1."""
    statistical_term: float
    """(2/C0) log(M/rho) / (delta n), the first term on the right of Eq. 17."""
    sharpening_term: float
    """P_x[pi_alpha(y*|x) <= 1 - delta/2], the second term on the right of Eq. 17."""
    hellinger_bound: float
    """2 log(M/rho) / n, the right side of Lemma 1."""

    @property
    def bound(self) -> float:
        """The right side of Eq. 17. Above 1 it is no restriction, for the left is a probability."""
        return self.statistical_term + self.sharpening_term

    @property
    def failure_rate(self) -> float:
        """The share of data sets that break Eq. 17. Prop. 3 allows rho."""
        return float(np.mean(self.unsharpened > self.bound + 1e-12))

    @property
    def hellinger_failure_rate(self) -> float:
        """The share of data sets that break Lemma 1, which allows rho."""
        return float(np.mean(self.hellinger > self.hellinger_bound + 1e-12))


def maximum_likelihood(
    policies: np.ndarray,
    log_prompt_law: np.ndarray,
    target: int,
    n: int,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws data sets of n pairs (x, y), and returns the likeliest policy's index for each, [R].

    Args:
      policies: [M, X, Y].
      log_prompt_law: log-probabilities of the prompts, [X], from which x is drawn.
      target: the index of the policy from which y is drawn.
      n: pairs per data set.
      size: the number of data sets, R.

    Of equally likely policies the one of lowest index is returned.
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
    prompt_law: np.ndarray | None = None,
) -> PolicyFits:
    """Repeats power self-distillation, to be held against Proposition 3 (Eq. 17) and Lemma 1.

    Args:
      log_p: the base model, [X, Y].
      policies: the policy class, [M, X, Y]. pi_alpha must be the last, so that ties go against it.
      num_samples: n, pairs of prompt and completion per data set.
      delta: the mass that a sharpened policy may leave to completions other than the modes (Eq. 3).
      rho: the probability with which the bounds may fail.
      num_data_sets: R.
      prompt_law: probabilities of the prompts, [X]; None means uniform.
    """
    if not (0 < delta < 1 and 0 < rho < 1):
        raise ValueError(f"delta and rho must lie between 0 and 1, got {delta:g} and {rho:g}")
    if num_samples < 1 or num_data_sets < 1:
        raise ValueError("num_samples and num_data_sets must be at least 1")
    policies = laws.check_log_law(policies, "the policy class")
    target = laws.power(laws.check_log_law(log_p, "the base model"), alpha)
    if not np.allclose(np.exp(policies[-1]), np.exp(target), atol=1e-12):
        raise ValueError("the last policy of the class must be pi_alpha: Prop. 3 assumes it is in")
    num_prompts = len(log_p)
    if prompt_law is None:
        prompt_law = np.full(num_prompts, 1 / num_prompts)
    log_prompt_law = laws.check_log_law(laws.log_of(prompt_law), "the prompts' law")
    chosen = maximum_likelihood(
        policies, log_prompt_law, len(policies) - 1, num_samples, num_data_sets, rng
    )
    log_m_rho = np.log(len(policies) / rho)
    misses = unsharpened(policies, log_p, delta, prompt_law)
    distances = np.average(laws.squared_hellinger(policies, target), axis=-1, weights=prompt_law)
    return PolicyFits(
        unsharpened=misses[chosen],
        hellinger=distances[chosen],
        statistical_term=2 / C0 * log_m_rho / (delta * num_samples),
        sharpening_term=float(unsharpened(target, log_p, delta / 2, prompt_law)),
        hellinger_bound=2 * log_m_rho / num_samples,
    )
