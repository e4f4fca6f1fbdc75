"""Sizes of a run: slots, cache slots, batches of prompts. Few, so that few shapes are compiled.

A slot is a row of the batch that the engine advances: one chain at a time.
"""

import numpy as np
from jax.sharding import Mesh

from powerjax.models import buckets
from powerjax.models.cache import bytes_per_token

LOGIT_ROWS = 6  # float32 [V] that a slot's draw has alive at once
STEP = 8  # slots are counted in eights: rows of a device's tile
PREFILL_ROWS = 8  # prompts in one prefill
_PREFILL_TOKENS = 8192  # in one prefill
_MAX_SLOTS = {"cpu": 64, "gpu": 256, "tpu": 256}  # more slots do not pay
_MEMORY_SHARE = 0.8  # of free device memory, for caches and logits
_MIN_WINDOW = 256  # cache slots to begin with; doubled when a chain needs more
_CHUNK_S = 0.5  # aim for one call of the slots: how often progress shows and Ctrl-C is heard


def bytes_per_slot(
    config,
    dtype,
    longest_prompt: int,
    max_new_tokens: int,
    platform: str,
    mesh: Mesh | None = None,
) -> int:
    """What a slot takes of a device's memory.

    Two caches of its whole length, a few rows of logits, and its share of the queue of prefilled
    prompts.
    """
    tokens = 2 * (longest_prompt + max_new_tokens) + 2 * prompt_bucket(longest_prompt)  # as Feed's
    per_token = bytes_per_token(config, dtype, platform, mesh)
    return tokens * per_token + LOGIT_ROWS * 4 * config.vocab_size


def prompt_bucket(length: int) -> int:
    """Cache slots of a prompt: the next power of two, 16 at least."""
    return buckets.power_of_two(length, 16)


def prefill_shape(longest_prompt: int) -> tuple[int, int]:
    """(rows, tokens) of a batch of prompts, by the longest; fewer slots get fewer rows."""
    width = prompt_bucket(longest_prompt)
    return max(1, min(PREFILL_ROWS, _PREFILL_TOKENS // width)), width


def count_fitting(free_bytes: int, per_slot: int, platform: str) -> int:
    """Slots of one engine that fit: a multiple of 8 from 8 up, at most what pays, at least one."""
    room = max(1, int(_MEMORY_SHARE * free_bytes) // per_slot)
    room = min(room, _MAX_SLOTS.get(platform, 256))
    return room if room < STEP else room // STEP * STEP


def slots_for(num_chains: int) -> int:
    """Slots of one engine for so many chains: the next multiple of 8; 1, 2 or 4 for few chains.

    Rounded up, because each number of slots is a compilation of its own.
    """
    if num_chains <= STEP:
        return buckets.power_of_two(num_chains)
    return buckets.multiple(num_chains, STEP)


def first_window(longest_prompt: int, max_new_tokens: int) -> tuple[int, int]:
    """(cache slots to begin with, cache slots at most) of each slot."""
    bucket = prompt_bucket(longest_prompt)
    most = max(buckets.multiple(longest_prompt + max_new_tokens - 1, 32), bucket)
    return min(most, max(_MIN_WINDOW, buckets.power_of_two(bucket + 64))), most


def next_max_steps(max_steps: int, seconds: float) -> int:
    """Model steps of the next call, so that it takes about half a second as this one should have.

    seconds: what a call of `max_steps` steps took. A call grows by four at the most.
    """
    aim = max_steps * _CHUNK_S / max(seconds, 1e-3)
    return int(np.clip(aim, 1, 4 * max_steps))
