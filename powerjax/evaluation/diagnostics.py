"""Whether chains mixed: R-hat and bulk ESS of the log p that traced records hold.

A traced record has `trace`: lists with one value per move, of which `log_p` is read here. All is
within one stage, because a chain tends to another law in each: of each problem, the last stage that
all of its chains reached.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from powerjax.records import Record
from powerjax.sample import diagnostics


@dataclasses.dataclass(frozen=True, eq=False)
class Mixing:
    """What the traces of one row's records say of its chains.

    Attributes:
      log_p: problem -> log p of its chains after each move of the stage, float64 [chains, moves].
      rhat: problem -> split R-hat of log p; None for fewer than 16 chains or 100 moves.
      bulk_ess: problem -> bulk effective sample size of log p, over all its chains; None likewise.
    """

    log_p: Mapping[Any, np.ndarray]
    rhat: Mapping[Any, float | None]
    bulk_ess: Mapping[Any, float | None]

    @property
    def worst_rhat(self) -> float | None:
        """The largest R-hat of a problem; None where none has one."""
        return max((r for r in self.rhat.values() if r is not None), default=None)

    @property
    def least_bulk_ess(self) -> float | None:
        """The smallest bulk ESS of a problem; None where none has one."""
        return min((n for n in self.bulk_ess.values() if n is not None), default=None)

    @property
    def num_known(self) -> int:
        """How many problems have an R-hat."""
        return sum(r is not None for r in self.rhat.values())

    @property
    def num_above(self) -> int:
        """How many problems have an R-hat above 1.05: their chains have not mixed."""
        return sum(r is not None and r > diagnostics.RHAT_THRESHOLD for r in self.rhat.values())

    def numbers(self) -> dict[str, Any]:
        """R-hat and bulk ESS as JSON can hold them: a text for an infinite R-hat."""
        return {
            "rhat": {
                str(name): value if value is None or math.isfinite(value) else str(value)
                for name, value in self.rhat.items()
            },
            "bulk_ess": {str(name): value for name, value in self.bulk_ess.items()},
        }


def mixing(records: Sequence[Record]) -> Mixing | None:
    """Returns what the traces of a row's records say; None where none is traced.

    Raises ValueError, naming the record, for a trace that is none.
    """
    chains: dict[Any, list[np.ndarray]] = {}
    moves_per_stage: dict[Any, int] = {}
    for record in records:
        trace = record.get("trace")
        if trace is None:
            continue
        log_p = _log_p(record, trace)
        if not len(log_p):
            continue
        problem = record["problem_id"]
        chains.setdefault(problem, []).append(log_p)
        moves_per_stage[problem] = int(record.get("num_mcmc_steps") or len(log_p))
    if not chains:
        return None
    log_p_of = {
        name: _in_one_stage(name, of_problem, moves_per_stage[name])
        for name, of_problem in chains.items()
    }
    tied = {name: diagnostics.tied(values) for name, values in log_p_of.items()}
    return Mixing(
        log_p=log_p_of,
        rhat={name: diagnostics.rhat(values) for name, values in tied.items()},
        bulk_ess={name: diagnostics.bulk_ess(values) for name, values in tied.items()},
    )


def _log_p(record: Record, trace: Any) -> np.ndarray:
    """Returns log p after each move of a record's chain, float64 [moves]."""
    try:
        values = np.asarray(trace["log_p"], np.float64)
    except (KeyError, TypeError, ValueError):
        values = np.full(1, np.nan)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"the record {record.get('id')!r}: its trace has no list of finite numbers log_p"
        )
    return values


def _in_one_stage(problem: Any, chains: list[np.ndarray], moves_per_stage: int) -> np.ndarray:
    """Returns log p of the last stage that all of a problem's chains reached, [chains, moves]."""
    try:
        stage = diagnostics.common_stage([len(chain) for chain in chains], moves_per_stage)
    except ValueError as error:
        raise ValueError(f"the traces of the problem {problem!r}: {error}") from None
    return np.array([chain[stage] for chain in chains])


def bands(mixing: Mixing) -> np.ndarray:
    """Returns the 5, 50 and 95 % quantiles of log p over a problem's chains, after each move.

    They are means over the problems, float64 [3, moves]. Problems whose stage has fewer moves than
    another's are left out of the moves that they did not make.
    """
    most = max(values.shape[1] for values in mixing.log_p.values())
    quantiles = np.full((len(mixing.log_p), 3, most), np.nan)
    for i, values in enumerate(mixing.log_p.values()):
        quantiles[i, :, : values.shape[1]] = np.percentile(values, [5, 50, 95], axis=0)
    return np.nanmean(quantiles, axis=0)
