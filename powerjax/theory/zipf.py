"""The paper's synthetic model (B.2.4, B.2.5): Zipf next tokens, each with a Zipf suffix law.

V = 64 next tokens of p_i ∝ (i+1)^-1.05; the suffix law of token i has M = 256 outcomes and
q_i(z) ∝ z^-s_i. The paper says of s_i only that it lies in [0.45, 1.65], has "a sinusoidal
component plus a small trend" and is not monotone in the rank. **Chosen here** (the formula is
unpublished):

    s_i is the affine map onto [0.45, 1.65] of sin(2 pi 2.5 i/(V-1)) + 0.25 i/(V-1), V = 64.
"""

from __future__ import annotations

import numpy as np

from powerjax.theory import laws
from powerjax.theory.exact import TabularModel

NUM_TOKENS = 64
SUPPORT = 256
NEXT_EXPONENT = 1.05
SUFFIX_EXPONENTS = (0.45, 1.65)
CYCLES = 2.5
TREND = 0.25
ALPHAS = (1.1, 1.5, 2.0, 3.0, 4.0, 8.0)
HEADLINE_ALPHA = 4.0
"""The exponent of the figures that show only one."""


def suffix_exponents() -> np.ndarray:
    """Returns s_i of each next token, [V]."""
    rank = np.arange(NUM_TOKENS) / (NUM_TOKENS - 1)
    wave = np.sin(2 * np.pi * CYCLES * rank) + TREND * rank
    low, high = SUFFIX_EXPONENTS
    return low + (high - low) * (wave - wave.min()) / (wave.max() - wave.min())


def next_log_law() -> np.ndarray:
    """Returns log p_i of each next token, [V]."""
    return laws.normalise(-NEXT_EXPONENT * np.log(np.arange(1, NUM_TOKENS + 1)))


def suffix_log_laws() -> np.ndarray:
    """Returns log q_i(z) of each next token and suffix, [V, M]."""
    return laws.normalise(-suffix_exponents()[:, None] * np.log(np.arange(1, SUPPORT + 1)))


def model() -> TabularModel:
    """Returns the synthetic model as a tabular model of two tokens from a vocabulary of 256.

    Of the first token 64 values are possible; the other 192 have probability zero, and the uniform
    law after each of them is never drawn from.
    """
    first = np.full((1, SUPPORT), -np.inf)
    first[0, :NUM_TOKENS] = next_log_law()
    second = np.full((SUPPORT, SUPPORT), -np.log(SUPPORT))
    second[:NUM_TOKENS] = suffix_log_laws()
    return TabularModel((first, second))


def proposals(alpha: float) -> dict[str, np.ndarray]:
    """Returns the four proposals for the first token (figures iv to vi): name -> log-law [V].

    The oracle is the next-token conditional of pi_alpha (Eq. 6); it is also the target.
    """
    log_p = next_log_law()
    return {
        "oracle": laws.normalise(alpha * log_p + laws.log_power_sum(suffix_log_laws(), alpha)),
        "base": log_p,
        "temperature": laws.power(log_p, alpha),
        "uniform": np.full(NUM_TOKENS, -np.log(NUM_TOKENS)),
    }
