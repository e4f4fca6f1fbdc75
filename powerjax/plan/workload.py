"""What a run has still to draw, in chains and tokens."""

import dataclasses

from powerjax.sample import spec


@dataclasses.dataclass(frozen=True)
class Workload:
    """Chains of one sampler that a run has still to draw.

    Attributes:
      name: what a plan calls it.
      sampler: the sampler, which knows what a chain costs.
      num_chains: how many chains there are to draw.
      is_endless: whether completions run to max_new_tokens, as those of random weights do.
    """

    name: str
    sampler: spec.Sampler
    num_chains: int
    is_endless: bool = False

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest completion."""
        return self.sampler.max_new_tokens

    def forward_tokens(self, length: float) -> float:
        """Returns the tokens fed to the model, and to a proposal model, over all chains.

        length: tokens per completion, on average.
        """
        sampler = self.sampler
        per_chain = sampler.forward_tokens(length) + sampler.proposal_forward_tokens(length)
        return self.num_chains * per_chain


def duration(seconds: float) -> str:
    """Returns a duration as readers have it: `53 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
