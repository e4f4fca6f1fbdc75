"""Models that hypothesis draws, entry by entry, and a few fixed ones."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from powerjax.theory import TabularModel

ALPHAS = st.one_of(st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0, 8.0]), st.floats(0.2, 10))


@st.composite
def models(draw, zeros: bool = True):
    """Up to 4 tokens and length 3, with or without EOS; a logit may be -inf where `zeros`."""
    vocab_size, length, eos = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.booleans())
    finite = st.floats(-8, 8, width=32)
    logit = st.one_of(finite, finite, finite, st.just(-np.inf)) if zeros else finite
    tables = []
    for t in range(length):
        shape = ((vocab_size - eos) ** t, vocab_size)
        table = draw(hnp.arrays(np.float64, shape, elements=logit))
        table[np.isneginf(table).all(axis=1), 0] = 0.0
        tables.append(table)
    return TabularModel.from_logits(tables, eos)


def fixed_models() -> list[TabularModel]:
    """One of each kind, large enough that a wrong formula shows."""
    rng = np.random.default_rng(0)
    return [
        TabularModel.random(rng, 3, 4, eos=True, scale=1.5),
        TabularModel.random(rng, 4, 3, eos=False, scale=1.5),
        TabularModel.random(rng, 4, 4, eos=True, scale=1.5, zeros=0.15),
    ]


def policy_like(model: TabularModel, seed: int = 0, zeros: float = 0.0) -> TabularModel:
    """A random policy of the model's shape."""
    rng = np.random.default_rng(seed)
    return TabularModel.random(rng, model.vocab_size, model.length, model.eos, zeros=zeros)
