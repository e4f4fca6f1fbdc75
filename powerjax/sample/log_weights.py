"""What the log-weights of n draws say: how near their law q is to pi^alpha, and Z_alpha.

From draws y_i of q, W_i = alpha log p(y_i) - log q(y_i) gives
    log Z_alpha = log mean exp(W),   ESS/n = (sum w)^2 / (n sum w^2),   chi^2 = n/ESS - 1,
    KL(q || pi_alpha) = log Z_alpha - E_q[W],
and, by the Pareto fit of the largest weights (PSIS, Vehtari et al. 2024), k-hat.
"""

import dataclasses
import functools
import math

import numpy as np

from powerjax.sample import diagnostics


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LogWeights:
    """The weights of n draws of one prompt.

    Attributes:
      log_weights: float64 [n], W = alpha log p - log q of each draw (nats, not normalised).
    """

    log_weights: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The normalised weights, float64 [n]. They sum to 1."""
        relative = np.exp(self.log_weights - self.log_weights.max())
        return relative / relative.sum()

    @property
    def log_z(self) -> float:
        """log Z_alpha, Z_alpha = sum_y p(y)^alpha: the log of the mean weight (nats)."""
        top = self.log_weights.max()
        return float(top + math.log(np.mean(np.exp(self.log_weights - top))))

    @property
    def log_z_stderr(self) -> float:
        """The standard error of `log_z`, by the delta method; nan for a single draw."""
        n = len(self.log_weights)
        if n < 2:
            return math.nan
        relative = self.weights * n
        return float(relative.std(ddof=1) / math.sqrt(n))

    @property
    def ess_fraction(self) -> float:
        """ESS/n, the effective share of the draws: 1 where q is pi_alpha, 1/n at the least."""
        return diagnostics.ess_fraction(self.log_weights)

    @property
    def chi2(self) -> float:
        """An estimate of the chi-square divergence of pi_alpha from q: n/ESS - 1."""
        return 1 / self.ess_fraction - 1

    @property
    def kl(self) -> float:
        """An estimate of KL(q || pi_alpha), in nats: log Z - mean(W)."""
        return self.log_z - float(self.log_weights.mean())

    @functools.cached_property
    def k_hat(self) -> float | None:
        """Pareto k-hat of the weights; None where fewer than five of the largest are distinct.

        Above 0.7, q gives pi_alpha's region too little mass, and the estimates here are not to be
        trusted. Below 0.7 says nothing about a mode that no draw visited: k-hat is blind to it, and
        `log_z` is then too low. `defensive` draws guard against that.
        """
        return diagnostics.k_hat(self.log_weights)
