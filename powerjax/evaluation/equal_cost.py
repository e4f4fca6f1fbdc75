"""Best-of-n by self-reward and its price in forward tokens, to compare samplers at equal cost."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from powerjax.evaluation.estimates import (
    Estimate,
    Estimator,
    Table,
    best_of_each,
    forward_tokens,
    known_mean,
)
from powerjax.records import Record


@dataclasses.dataclass(frozen=True)
class Priced:
    """Best-of-n by self-reward.

    Attributes:
      n: completions per answer.
      forward_tokens: its price, tokens fed to the model by decoding, per answer, and to a proposal
        model where there is one; None where records do not say.
      accuracy: None where no verdict is known.
      self_reward: mean log-likelihood per token (nats) of the completions chosen.
    """

    n: int
    forward_tokens: float | None
    accuracy: Estimate | None
    self_reward: Estimate


def best_of(records: Sequence[Record], *, num_resamples: int = 2000) -> list[Priced]:
    """Returns Best-of-n by self-reward for n = 1, 2, ... up to the most completions of a problem.

    Each is the mean over all choices of n of a problem's completions, see `estimates.best_of_each`.

    Raises ValueError as `estimates.Table` does.
    """
    table = Table(records)
    estimate = Estimator(len(table.problems), num_resamples)
    self_reward = table.of(lambda r: r["self_reward"])
    correct = table.of(lambda r: r.get("correct"))
    forward = known_mean(table.of(forward_tokens))
    most = int((~np.isnan(self_reward)).sum(axis=1).max())
    return [
        Priced(
            n=n,
            forward_tokens=None if forward is None else n * forward,
            accuracy=estimate(best_of_each(correct, self_reward, n)),
            self_reward=estimate.known(best_of_each(self_reward, self_reward, n)),
        )
        for n in range(1, most + 1)
    ]


def within(priced: Sequence[Priced], forward_tokens: float) -> Priced | None:
    """Returns the Best-of-n of largest n that costs at most `forward_tokens` per answer.

    Returns None if one completion costs more, or if the price of one is not known.

    Args:
      priced: a row's `best_of`, n rising.
    """
    # The tolerance is for rounding: a row whose price is the limit itself must be within it.
    limit = forward_tokens * (1 + 1e-9)
    affordable = [p for p in priced if p.forward_tokens is not None and p.forward_tokens <= limit]
    return affordable[-1] if affordable else None
