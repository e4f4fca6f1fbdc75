"""The error of a run in which the logits of some chains were not finite."""

import collections
from collections.abc import Sequence

import jax.numpy as jnp

from powerjax.sample.completions import Completions

_MOST_IDS = 20


class ChainsFailed(ValueError):
    """Raised after a run in which the logits of some chains held NaN or infinity.

    All other chains are finished by then.

    Attributes:
      failed: (id, sample index) of each chain that failed, in the order of the prompts.
      completions: the Completions of the chains that finished.
    """

    def __init__(
        self, failed: Sequence[tuple[str | int, int]], completions: Completions, dtype: jnp.dtype
    ):
        self.failed, self.completions = list(failed), completions
        owner = "the model's"
        if completions.settings.get("proposal") is not None:
            owner += " or the proposal model's"
        super().__init__(
            f"{owner} logits are not finite in {len(self.failed)} of"
            f" {len(self.failed) + len(completions)} chains, which have no completion:"
            f" {_names(self.failed)}; {remedy(dtype)}; all other chains are finished and kept"
        )


def remedy(dtype: jnp.dtype) -> str:
    """What helps against logits that are not finite, for a model loaded in this dtype."""
    if jnp.dtype(dtype) == jnp.float16:
        return (
            "float16 overflows there: load the model with dtype bfloat16 or float32"
            " (--dtype=bfloat16, and another --out)"
        )
    return "the checkpoint or its adapter holds numbers that are not finite, or huge ones"


def _names(chains: Sequence[tuple[str | int, int]]) -> str:
    """`'a' samples 0, 2; 'b' sample 1; 3 more ids`."""
    samples = collections.defaultdict(list)
    for name, sample in chains:
        samples[name].append(sample)
    names = [
        f"{name!r} sample{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
        for name, found in list(samples.items())[:_MOST_IDS]
    ]
    if more := len(samples) - len(names):
        names.append(f"{more} more ids")
    return "; ".join(names)
