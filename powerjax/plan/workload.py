"""What a run has still to draw: chains, tokens and hours of each stage."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stage:
    """Chains that a run has still to draw.

    horizon: every stage of a chain runs (stop="horizon").
    endless: completions run to their longest, as those of random weights do.
    """

    name: str
    num_chains: int
    max_new_tokens: int
    block_size: int
    num_mcmc_steps: int = 0
    horizon: bool = False
    endless: bool = False

    def forward_tokens(self, length: float) -> float:
        """Tokens fed to the model in all, for completions of `length` tokens.

        A move draws its cut uniformly, so it proposes half of what is there (Algorithm 2).
        """
        length = min(length, self.max_new_tokens)
        reached = self.max_new_tokens if self.horizon else length
        ends = np.arange(1, math.ceil(reached / self.block_size) + 1) * self.block_size
        proposed = (np.minimum(ends, length) + 1) / 2
        return self.num_chains * (length + self.num_mcmc_steps * float(proposed.sum()))


def duration(seconds: float) -> str:
    """`53 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
