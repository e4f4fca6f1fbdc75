"""How near a student's law q is to pi^alpha of its base, by the weights of its own completions.

The statistics are those of `sample.importance`, from records in place of new draws: log q is the
sum of a record's log_probs, and log p its `evaluated_log_prob` under the base (`runs.rescoring`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from powerjax.records import Record
from powerjax.sample.diagnostics import KHAT_THRESHOLD
from powerjax.sample.log_weights import LogWeights


@dataclasses.dataclass(frozen=True, eq=False)
class Nearness:
    """The weights of one row's completions, problem by problem.

    Attributes:
      alpha: the exponent of the target pi^alpha.
      weights: problem -> the weights of its completions, two or more.
    """

    alpha: float
    weights: Mapping[Any, LogWeights]

    @property
    def ess_fraction(self) -> float:
        """The mean of ESS/n over the problems."""
        return float(np.mean([w.ess_fraction for w in self.weights.values()]))

    @property
    def kl(self) -> float:
        """The mean of KL(q || pi_alpha) over the problems (nats)."""
        return float(np.mean([w.kl for w in self.weights.values()]))

    @property
    def k_hats(self) -> list[float]:
        """k-hat of the problems that have one."""
        return [w.k_hat for w in self.weights.values() if w.k_hat is not None]

    @property
    def num_above(self) -> int:
        """How many problems have a k-hat above 0.7."""
        return sum(k_hat > KHAT_THRESHOLD for k_hat in self.k_hats)

    @property
    def num_without(self) -> int:
        """How many problems have no k-hat: fewer than five of their largest weights differ."""
        return len(self.weights) - len(self.k_hats)

    @property
    def fewest(self) -> int:
        """The smallest number of completions of a problem."""
        return min(len(w.log_weights) for w in self.weights.values())

    @property
    def normalised(self) -> np.ndarray:
        """W - log Z_alpha of all completions (nats): all 0 where q is pi_alpha."""
        return np.concatenate([w.log_weights - w.log_z for w in self.weights.values()])

    def numbers(self) -> dict[str, Any]:
        """The statistics as JSON can hold them: the row's, and those of each problem."""
        return {
            "alpha": self.alpha,
            "ess_fraction": self.ess_fraction,
            "kl": self.kl,
            "num_k_hat_above": self.num_above,
            "num_without_k_hat": self.num_without,
            "problems": {
                str(name): {
                    "n": len(w.log_weights),
                    **{key: getattr(w, key) for key in ("ess_fraction", "k_hat", "kl", "log_z")},
                }
                for name, w in self.weights.items()
            },
        }


def nearness(records: Sequence[Record], alpha: float) -> Nearness:
    """Returns how near the law of these records is to pi^alpha of the model that scored them.

    Args:
      records: of one row, drawn from the law q itself (at temperature 1, without top_k), with
        `evaluated_log_prob`.
      alpha: of the target.

    Raises ValueError where a weight is not finite, and where no problem has two completions, for a
    single weight says nothing.
    """
    by_problem: dict[Any, list[float]] = {}
    of_completion: dict[tuple, float] = {}
    for record in records:
        weight = alpha * record["evaluated_log_prob"] - math.fsum(record["log_probs"])
        if not math.isfinite(weight):
            raise ValueError(f"the record {record.get('id')!r} has no finite weight")
        # Two batches may round log p of one completion to two values, and k-hat would count them as
        # two weights: a completion that was drawn again has the weight that it had.
        problem, tokens = record["problem_id"], tuple(record["tokens"])
        weight = of_completion.setdefault((problem, tokens), weight)
        by_problem.setdefault(problem, []).append(weight)
    weights = {
        name: LogWeights(np.array(values)) for name, values in by_problem.items() if len(values) > 1
    }
    if not weights:
        raise ValueError("the student has one completion per problem: weights need two, better 100")
    return Nearness(alpha, weights)
