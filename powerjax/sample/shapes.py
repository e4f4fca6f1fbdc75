"""The sizes of a run: slots, cache slots, batches of prompts.

They are rounded up, so that few shapes are compiled. A slot is a row of the batch that the engine
advances, and serves one chain at a time; a cache slot holds the K/V of one position.
"""

import numpy as np
from jax.sharding import Mesh

from powerjax.models import buckets
from powerjax.models.cache import bytes_per_token

LOGIT_ROWS = 6  # float32 arrays [V] that the draw of one slot has alive at once
STEP = 8  # slots are counted in eights, which are the rows of a device's tile
PREFILL_ROWS = 8  # prompts in one prefill
_PREFILL_TOKENS = 8192  # tokens in one prefill, padding counted
_MAX_SLOTS = {"cpu": 64, "gpu": 256, "tpu": 256}  # per engine; more do not pay
_MEMORY_SHARE = 0.8  # the share of free device memory that slots may take
_MIN_WINDOW = 256  # cache slots to begin with; they double when a chain needs more
_CHUNK_S = 0.5  # what a call of the slots aims to take: progress and Ctrl-C wait so long


def bytes_per_slot(
    config,
    dtype,
    longest_prompt: int,
    max_new_tokens: int,
    platform: str,
    mesh: Mesh | None = None,
) -> int:
    """Bytes that a slot takes of a device's memory.

    A slot has two caches of its whole length, a few rows of logits, and its share of the queue of
    prefilled prompts (`feed.Feed`).

    Args:
      config: of the model.
      dtype: of the caches.
      longest_prompt: tokens.
      max_new_tokens: tokens.
      platform: "cpu", "gpu" or "tpu"; caches are wider on a TPU.
      mesh: over whose "model" axis the caches are split.
    """
    tokens = 2 * (longest_prompt + max_new_tokens) + 2 * prompt_bucket(longest_prompt)
    per_token = bytes_per_token(config, dtype, platform, mesh)
    return tokens * per_token + LOGIT_ROWS * 4 * config.vocab_size


def prompt_bucket(length: int) -> int:
    """Cache slots of a prompt: the next power of two, 16 at least."""
    return buckets.power_of_two(length, 16)


def prefill_shape(longest_prompt: int) -> tuple[int, int]:
    """(rows, tokens) of a batch of prompts whose longest has so many tokens.

    The batch has fewer rows where a run has fewer slots.
    """
    width = prompt_bucket(longest_prompt)
    return max(1, min(PREFILL_ROWS, _PREFILL_TOKENS // width)), width


def count_fitting(free_bytes: int, per_slot: int, platform: str) -> int:
    """How many slots of one engine fit into so many bytes: at least one, at most what pays.

    From 8 up it is a multiple of 8.
    """
    room = max(1, int(_MEMORY_SHARE * free_bytes) // per_slot)
    room = min(room, _MAX_SLOTS.get(platform, 256))
    return room if room < STEP else room // STEP * STEP


def slots_for(num_chains: int) -> int:
    """How many slots one engine needs for so many chains: 1, 2, 4 or a multiple of 8.

    It is rounded up, because each number of slots is compiled anew.
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
