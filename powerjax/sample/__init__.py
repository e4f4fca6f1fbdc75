"""Samplers for pi(y|x)^alpha: exact Metropolis-Hastings over KV-cached, asynchronous slots."""

from powerjax.sample import draws, mh, weights
from powerjax.sample.completions import Completion, Completions, as_record
from powerjax.sample.failures import ChainsFailed
from powerjax.sample.importance import Importance, importance
from powerjax.sample.samplers import best_of_n, power, power_inf, standard, temperature
from powerjax.sample.stats import Stats

__all__ = [
    "ChainsFailed",
    "Completion",
    "Completions",
    "Importance",
    "Stats",
    "as_record",
    "best_of_n",
    "draws",
    "importance",
    "mh",
    "power",
    "power_inf",
    "standard",
    "temperature",
    "weights",
]
