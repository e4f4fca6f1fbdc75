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
    """Returns the bytes that a slot takes of a device's memory.

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
    """Returns a prompt's cache slots: its length rounded up to a power of two, 16 at least."""
    return buckets.power_of_two(length, 16)


def prefill_shape(longest_prompt: int) -> tuple[int, int]:
    """Returns (rows, tokens) of a batch of prompts, of which the longest has longest_prompt tokens.

    A run with fewer slots than rows prefills fewer rows.
    """
    width = prompt_bucket(longest_prompt)
    return max(1, min(PREFILL_ROWS, _PREFILL_TOKENS // width)), width


def count_fitting(free_bytes: int, per_slot: int, platform: str) -> int:
    """Returns how many slots of one engine fit into free memory.

    It is 1 at least, and 64 on a CPU or 256 elsewhere at most, because more do not pay. From 8 up
    it is a multiple of 8.

    Args:
      free_bytes: of the device; `_MEMORY_SHARE` of it is used.
      per_slot: bytes of a slot (`bytes_per_slot`).
      platform: "cpu", "gpu" or "tpu".
    """
    room = max(1, int(_MEMORY_SHARE * free_bytes) // per_slot)
    room = min(room, _MAX_SLOTS.get(platform, 256))
    return room if room < STEP else room // STEP * STEP


def slots_for(num_chains: int) -> int:
    """Returns the slots that one engine needs to serve this many chains at once.

    The number is rounded up to 1, 2, 4 or a multiple of 8, because each one is compiled anew.
    """
    if num_chains <= STEP:
        return buckets.power_of_two(num_chains)
    return buckets.multiple(num_chains, STEP)


def first_window(longest_prompt: int, max_new_tokens: int) -> tuple[int, int]:
    """Returns the cache slots that a slot has at first, and the most that it can need."""
    bucket = prompt_bucket(longest_prompt)
    most = max(buckets.multiple(longest_prompt + max_new_tokens - 1, 32), bucket)
    return min(most, max(_MIN_WINDOW, buckets.power_of_two(bucket + 64))), most


def next_max_steps(max_steps: int, seconds: float) -> int:
    """Returns the model steps of the next call, scaled so that it takes about half a second.

    seconds: what the last call took, which made `max_steps` steps. The number grows at most
      fourfold from call to call.
    """
    aim = max_steps * _CHUNK_S / max(seconds, 1e-3)
    return int(np.clip(aim, 1, 4 * max_steps))
