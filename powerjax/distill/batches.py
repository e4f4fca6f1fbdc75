"""Examples -> batches: padded, bucketed, and divided over accumulation steps and devices.

The order of the examples is a function of (seed, epoch), and a batch is a function of its examples.
So a run that was killed sees the same batches again, and every mesh sees the same ones.

Letters: G accumulation steps, B rows of one of them over all devices, T tokens.
"""

import jax
import numpy as np

from powerjax.distill import step as step_lib
from powerjax.distill.corpus import Corpus
from powerjax.models import buckets

SMALLEST_BUCKET = 16  # tokens
TOKENS = 1024  # how many tokens a device computes at a time
# On a CPU, allocating a step's buffers takes more than a tenth of its time. Smaller parts in one
# loop reuse buffers that are allocated and cached already.
TOKENS_ON_CPU = 512


def bucket(length: int, max_length: int) -> int:
    """Returns the width that an example is padded to: a power of two from 16 up, or max_length."""
    return min(max_length, buckets.power_of_two(length, SMALLEST_BUCKET))


def num_batches(corpus: Corpus, batch_size: int) -> int:
    """Returns the number of batches, and so of optimizer steps, of one epoch."""
    return -(-len(corpus) // batch_size)


def epoch_batches(corpus: Corpus, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Returns the indices of each batch's examples: a function of the arguments alone.

    Every example comes once, in an order drawn for the epoch; the last batch may be short. Examples
    are not sorted into batches of similar length. The loss is a mean over the batch's tokens, so in
    a batch of short completions a token would count for many times one in a batch of long ones, and
    the student would learn to be shorter than its teacher.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(corpus))
    return np.split(order, range(batch_size, len(order), batch_size))


def grid(
    num_tokens: int, *, batch_size: int, data_size: int, tokens_per_device: int | None = None
) -> tuple[int, int]:
    """Returns (G, B) for a batch whose rows are `num_tokens` wide.

    A device takes a power of two of rows at a time: as many as fit tokens_per_device, at least one.

    Args:
      num_tokens: T.
      batch_size: examples of the batch; G B of them.
      data_size: the size of the mesh's data axis.
      tokens_per_device: the most tokens at a time; None: 1024, or 512 on a CPU (`TOKENS_ON_CPU`).

    Raises:
      ValueError: the batch does not divide over the data axis.
    """
    if batch_size < 1 or batch_size % data_size:
        raise ValueError(
            f"a batch of {batch_size} examples does not divide over a data axis of {data_size}:"
            " choose a --batch_size that is a multiple of it, or a smaller data axis"
        )
    if tokens_per_device is None:
        tokens_per_device = TOKENS_ON_CPU if jax.default_backend() == "cpu" else TOKENS
    per_device = batch_size // data_size
    rows = 1
    while per_device % (2 * rows) == 0 and 2 * rows * num_tokens <= tokens_per_device:
        rows *= 2
    return per_device // rows, rows * data_size


def make_batch(
    corpus: Corpus,
    indices: np.ndarray,
    *,
    batch_size: int,
    data_size: int,
    tokens_per_device: int | None = None,
    sharding: step_lib.Batch | None = None,
) -> step_lib.Batch:
    """Returns the examples at `indices` as arrays (see `step.Batch`), T their longest's bucket.

    Args:
      corpus: the examples.
      indices: int[n], n at most batch_size; a short batch is filled up with empty rows.
      batch_size: see `grid`, as the next two.
      data_size: the size of the mesh's data axis.
      tokens_per_device: the most tokens that a device takes at a time, or None.
      sharding: a Batch of NamedShardings. The arrays are then global, and each process makes its
        own rows alone. None: the arrays are NumPy's.
    """
    width = bucket(max(len(corpus.examples[i]) for i in indices), corpus.max_length)
    steps, rows = grid(
        width, batch_size=batch_size, data_size=data_size, tokens_per_device=tokens_per_device
    )
    chosen = np.full(batch_size, -1, np.int32)
    chosen[: len(indices)] = indices
    chosen = chosen.reshape(steps, rows)

    def make(field: str, index: tuple[slice, ...]) -> np.ndarray:
        return getattr(_fill(corpus, chosen[index[:2]], width), field)

    if sharding is None:
        return _fill(corpus, chosen, width)
    return step_lib.Batch(
        *(
            jax.make_array_from_callback(
                chosen.shape if field == "example" else (*chosen.shape, width),
                getattr(sharding, field),
                lambda index, field=field: make(field, index),
            )
            for field in step_lib.Batch._fields
        )
    )


def _fill(corpus: Corpus, chosen: np.ndarray, width: int) -> step_lib.Batch:
    """Returns rows of `width` tokens with the examples chosen[G,B]; -1 leaves a row empty.

    An empty row repeats a token of the corpus. The model computes that row too, and a zero gradient
    through a NaN is NaN, so it must not hold a token that training itself never feeds.
    """
    first = corpus.examples[0]
    tokens = np.zeros((*chosen.shape, width), np.int32)
    tokens[chosen < 0] = (first.prompt + first.completion)[0]
    completion = np.zeros(tokens.shape, bool)
    for place in np.argwhere(chosen >= 0):
        example = corpus.examples[chosen[tuple(place)]]
        row = tuple(place)
        tokens[row][: len(example)] = example.prompt + example.completion
        completion[row][len(example.prompt) : len(example)] = True
    return step_lib.Batch(tokens, completion, chosen)
