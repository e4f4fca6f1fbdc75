"""Synthetic rewards and Prop. 4: the slope on exact samples, and what would not give it."""

import hashlib

import numpy as np
import pytest

from powerjax.evaluation import proposition4

NUM_PROBLEMS, NUM_SAMPLES = 400, 24


def _laws(seed=0):
    """log pi [problem, completion] of guesses, many and unlikely, and of a few worked answers."""
    rng = np.random.default_rng(seed)
    logits = np.concatenate(
        [rng.normal(0, 0.3, (NUM_PROBLEMS, 40)), rng.normal(2, 1, (NUM_PROBLEMS, 4))], axis=1
    )
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _samples(alpha, rng, log_pi, scale=None):
    law = alpha * log_pi
    drawn = (law[:, None] + rng.gumbel(size=(NUM_PROBLEMS, NUM_SAMPLES, law.shape[1]))).argmax(-1)
    log_prob = np.take_along_axis(log_pi, drawn, axis=1)
    probe = (drawn * 0.6180339887) % 1
    return proposition4.Samples(log_prob if scale is None else log_prob * scale[drawn], probe)


@pytest.fixture(scope="module")
def drawn():
    rng, log_pi = np.random.default_rng(1), _laws()
    return {a: _samples(a, rng, log_pi) for a in map(float, proposition4.alphas(4.0, 7))}, log_pi


def test_the_fitted_slope_is_that_of_prop_4(drawn, record_property):
    by_alpha, log_pi = drawn
    probed = proposition4.synthetic(by_alpha)
    record_property("slope", f"{probed.slope}, predicted {probed.predicted}")
    assert probed.agrees and 0 in probed.difference
    law = np.exp(4 * log_pi) / np.exp(4 * log_pi).sum(axis=1, keepdims=True)
    at_one = np.exp(log_pi)
    rise = ((law - at_one) * log_pi).sum(axis=1).mean()
    second = (at_one * log_pi**2).sum(axis=1) - (at_one * log_pi).sum(axis=1) ** 2
    exact = rise / second.mean()
    assert probed.predicted.value == pytest.approx(exact, rel=0.05)
    assert probed.slope.value == pytest.approx(exact, rel=0.05)
    assert probed.slope.high - probed.slope.low < 0.2 * exact
    assert probed.rise[-1].value == pytest.approx(rise, rel=0.05)
    for measured, predicted in zip(probed.rise, probed.rise_predicted, strict=True):
        assert measured.value == pytest.approx(predicted.value, abs=0.05 * rise)


def test_chains_that_have_not_mixed_are_noticed(drawn):
    by_alpha, log_pi = drawn
    rng = np.random.default_rng(2)
    probed = proposition4.synthetic({**by_alpha, 4.0: _samples(2.0, rng, log_pi)})
    assert not probed.agrees


def test_self_reward_per_token_does_not_obey_it(drawn):
    """Prop. 4 is of the sum; here guesses are short and answers long."""
    _, log_pi = drawn
    lengths = np.array([5.0] * 40 + [50.0] * 4)
    rng = np.random.default_rng(3)
    by_alpha = {
        a: _samples(a, rng, log_pi, 1 / lengths) for a in map(float, proposition4.alphas(4.0, 7))
    }
    assert not proposition4.synthetic(by_alpha).agrees


def test_the_integral_is_exact_enough_for_variances_that_fall_fast():
    alphas = proposition4.alphas(4.0, 7)
    values = 3 * np.exp(-3 * (alphas - 1))
    integrals, exact = proposition4.integral(values, alphas), 1 - np.exp(-3 * (alphas - 1))
    assert integrals[-1] == pytest.approx(exact[-1], rel=0.01)
    np.testing.assert_allclose(integrals, exact, atol=0.02)
    with pytest.raises(ValueError, match="odd"):
        proposition4.alphas(4.0, 6)


def test_the_probe_is_the_leading_64_bits_of_sha_256():
    digest = hashlib.sha256("né".encode()).hexdigest()
    assert proposition4.probe("né") == int(digest[:16], 16) / 2**64


def _record(problem, sample, **fields):
    text = f"{problem}{sample}"
    fixed = {"problem_id": problem, "seed": 0, "sample_index": sample}
    return {**fixed, "completion": text, "tokens": [1, 2], "log_prob": -float(sample), **fields}


def test_samples_are_of_every_problem_alike():
    records = [_record(p, s) for p in "ba" for s in (1, 0)]
    drawn = proposition4.samples(records)
    assert drawn.log_prob.tolist() == [[0, -1], [0, -1]]
    assert drawn.probe[1, 0] == proposition4.probe("b0")
    secret = proposition4.samples([{**record, "completion": None} for record in records])
    assert secret.probe[0, 0] == proposition4.probe("[1, 2]")
    for some in (records[:3], records[::2]):
        with pytest.raises(ValueError, match="same number of completions"):
            proposition4.samples(some)
