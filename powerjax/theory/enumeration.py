"""How many completions a tabular model has, and sums along every one of them.

Letters as in `exact`: V vocabulary, T longest completion, A live tokens, Y completions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_COMPLETIONS = 2**22


def count_completions(vocab_size: int, length: int, eos: bool) -> int:
    """Returns Y: V^T without EOS; with it, those that end early plus those cut at T."""
    if not eos:
        return vocab_size**length
    live = vocab_size - 1
    return sum(live**t for t in range(length)) + live**length


def check_size(vocab_size: int, length: int, eos: bool) -> None:
    """Raises ValueError for a model that cannot be enumerated, before any table is allocated."""
    if vocab_size < 1 + eos or length < 1:
        raise ValueError(
            f"a model needs a token that goes on and a length >= 1, got vocab_size={vocab_size}, "
            f"length={length}, eos={eos}"
        )
    count = count_completions(vocab_size, length, eos)
    if count > MAX_COMPLETIONS:
        raise ValueError(
            f"a model of vocabulary {vocab_size} and length {length} has {count:,} completions; "
            f"the limit for enumeration is {MAX_COMPLETIONS:,}: make either smaller"
        )


def sum_along(tables: Sequence[np.ndarray], eos: bool, depth: int = 0) -> np.ndarray:
    """Sums numbers along the suffix of each completion, after each live prefix of `depth` tokens.

    With log-probabilities as numbers, the sums are the suffixes' log-laws.

    Args:
      tables: one number for each live prefix and next token, [A^t, V] for t = 0..T-1.

    Returns:
      [A^depth, suffixes per prefix], suffixes in the order of completions.
    """
    vocab_size = tables[0].shape[1]
    live = vocab_size - eos
    current, ended = np.zeros((live**depth, 1)), []
    for t in range(depth, len(tables)):
        step = current[:, :, None] + tables[t].reshape(live**depth, -1, vocab_size)
        if t == len(tables) - 1:
            ended.append(step.reshape(live**depth, -1))
        elif eos:
            ended.append(step[:, :, -1])
        current = step[:, :, :live].reshape(live**depth, -1)
    return np.concatenate(ended, axis=1) if ended else current
