"""The compiled loop of the slots, as text to search."""

import numpy as np

from powerjax.models import LM
from powerjax.models.cache import init_cache
from powerjax.sample import mh, slots


def slot_loop(
    lm: LM, settings: mh.Settings, *, num_slots: int, window: int
) -> tuple[str, slots.Slots]:
    """Compiles the loop over empty slots; returns the program's text and the slots.

    window: cache slots per row, for prompt and completion together.
    """
    state = slots.init(lm.model(), num_slots, window, int(settings.max_new_tokens), settings)
    room = 2 * num_slots
    zeros = np.zeros(room, np.int32)
    of_chains = dict.fromkeys(
        ("prefix_row", "prompt_length", "prompt_last", "request", "first_step"), zeros
    )
    queue = slots.Queue(
        prefix=init_cache(lm.config, 4, 16),
        key=np.zeros((room, 2), np.uint32),
        size=np.int32(0),
        **of_chains,
    )
    limits = np.int32(1), np.bool_(False)
    lowered = slots.run.lower(lm.model(), lm.variables, state, queue, settings, *limits)
    return lowered.compile().as_text(), state
