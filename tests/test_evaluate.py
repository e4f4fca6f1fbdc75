"""Records to numbers: paired differences."""

import numpy as np
import pytest

from powerjax import evaluate


def _records(correct):
    """{problem: [verdicts]} as records."""
    return [
        {"problem_id": name, "seed": 0, "sample_index": i, "correct": right}
        for name, verdicts in correct.items()
        for i, right in enumerate(verdicts)
    ]


def test_a_paired_difference_is_over_problems_both_have():
    ours = _records({"a": [True, True], "b": [True, False], "c": [True], "d": [None]})
    theirs = _records({"a": [False, True], "b": [False, False, False], "e": [True], "d": [True]})
    gap = evaluate.paired_difference(ours, theirs)
    assert gap.mean == pytest.approx(0.5) and gap.low == gap.high == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no problem in common"):
        evaluate.paired_difference(ours, _records({"f": [True]}))


def test_pairing_takes_out_what_the_problems_share():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    theirs = _records({str(i): [bool(h > 0.5)] for i, h in enumerate(hard)})
    ours = _records({str(i): [bool(h > 0.45)] for i, h in enumerate(hard)})
    gap = evaluate.paired_difference(ours, theirs)
    expected = np.mean((hard > 0.45) & (hard <= 0.5))
    assert gap.mean == pytest.approx(expected)
    se = np.sqrt(expected * (1 - expected) / 400)
    assert gap.low == pytest.approx(expected - 1.96 * se, abs=0.3 * se)
    assert gap.high == pytest.approx(expected + 1.96 * se, abs=0.3 * se)
