"""Records to numbers: accuracy, self-reward, Best-of-N, cost, and how sure one may be of them."""

from powerjax.evaluation.estimates import Estimate, paired_difference
from powerjax.evaluation.summary import (
    NAMES,
    Priced,
    Result,
    Summary,
    best_of,
    rows,
    summarize,
    within,
)

__all__ = [
    "NAMES",
    "Estimate",
    "Priced",
    "Result",
    "Summary",
    "best_of",
    "paired_difference",
    "rows",
    "summarize",
    "within",
]
