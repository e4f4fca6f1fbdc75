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
_MOST_KNOWN = 1024  # scores that are kept for completions that are drawn again

_Key = tuple[int, bytes]  # prompt index, tokens


class Scores:
    """Hands finished chains on with their log-probabilities under a scorer, batch by batch.

    A completion that was drawn before is not scored again: students often repeat themselves.

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
        self._batch = min(_BATCH, num_slots)
        self._known: dict[_Key, np.ndarray] = {}
        self._waiting: dict[_Key, list[Finished]] = {}

    def add(self, finished: Finished) -> None:
        """Takes a chain. Hands it on if its score is known, or with a batch that is full."""
        key = finished.request.prompt_index, finished.tokens.tobytes()
        if key in self._known:
            self._hand_on(finished, self._known[key])
            return
        self._waiting.setdefault(key, []).append(finished)
        if len(self._waiting) >= self._batch:
            self.flush()

    def flush(self) -> None:
        """Scores what waits, and hands it on."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        prompts = [list(self._prompts[prompt]) for prompt, _ in waiting]
        completions = [ends[0].tokens.tolist() for ends in waiting.values()]
        scores = self._scorer.score(prompts, completions, long_context=self._long_context)
        for (key, ends), log_p in zip(waiting.items(), scores, strict=True):
            self._known[key] = np.asarray(log_p)
            for end in ends:
                self._hand_on(end, self._known[key])
        for key in list(self._known)[:-_MOST_KNOWN]:
            del self._known[key]

    def _hand_on(self, finished: Finished, scored: np.ndarray) -> None:
        self._on_finish(dataclasses.replace(finished, scored=scored))
