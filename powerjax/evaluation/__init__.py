"""Records to numbers: accuracy, self-reward, Best-of-N and cost, with their intervals."""

from powerjax.evaluation.equal_cost import Priced, best_of, within
from powerjax.evaluation.estimates import Estimate, paired_difference
from powerjax.evaluation.summary import NAMES, Result, Summary, rows, summarize

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
