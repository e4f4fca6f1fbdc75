"""Finished completions scored by another model than the one that drew them.

Decoding reads a token at a time, scoring reads a completion in one pass. So a second model's
log-probabilities cost little where they are not needed before the end.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from powerjax.models.language_model import LM
from powerjax.sample.stats import Finished

_BATCH = 64  # the most completions that are scored together


class Scores:
    """Hands finished chains on with their log-probabilities under a scorer, batch by batch.

    Args:
      scorer: the model that scores.
      prompts: token ids, by prompt index.
      long_context: whether longrope's long factors are used.
      on_finish: called with each chain, `scored` filled in.
      num_slots: of the engine. So many completions, or 64, are scored together: what a killed run
        has finished and not scored is no more than what it has begun.
    """

    def __init__(
        self,
        scorer: LM,
        prompts: Sequence[Sequence[int]],
        long_context: bool,
        on_finish: Callable[[Finished], None],
        num_slots: int = _BATCH,
    ) -> None:
        self._scorer, self._prompts, self._long_context = scorer, prompts, long_context
        self._on_finish = on_finish
        self._waiting: list[Finished] = []
        self._batch = min(_BATCH, num_slots)

    def add(self, finished: Finished) -> None:
        """Takes a chain; hands a batch of them on once there are enough."""
        self._waiting.append(finished)
        if len(self._waiting) >= self._batch:
            self.flush()

    def flush(self) -> None:
        """Hands on all chains that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        prompts = [list(self._prompts[end.request.prompt_index]) for end in waiting]
        completions = [end.tokens.tolist() for end in waiting]
        scores = self._scorer.score(prompts, completions, long_context=self._long_context)
        for end, log_p in zip(waiting, scores, strict=True):
            self._on_finish(dataclasses.replace(end, scored=np.asarray(log_p)))
