"""Tabular models against definitions spelled out in plain Python."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerjax.theory import TabularModel, enumeration, laws
from tests.theory import drawn


def spelled_out(model):
    """{tokens: probability} by walking the tables."""
    eos = model.vocab_size - 1 if model.eos else None
    probs = {}
    for length in range(1, model.length + 1):
        for tokens in itertools.product(range(model.vocab_size), repeat=length):
            if eos in tokens[:-1] or (length < model.length and tokens[-1] != eos):
                continue
            row, prob = 0, 1.0
            for t, token in enumerate(tokens):
                prob *= math.exp(model.log_p[t][row, token])
                row = row * model.num_live + token
            probs[tokens] = prob
    return probs


@settings(max_examples=40, deadline=None)
@given(drawn.models())
def test_enumeration(model):
    tokens, lengths = model.completions()
    probs = np.exp(model.log_joint())
    by_hand = spelled_out(model)
    assert len(by_hand) == model.num_completions == len(tokens)
    for row, length, prob in zip(tokens, lengths, probs, strict=True):
        key = tuple(row[:length].tolist())
        assert (row[length:] == -1).all()
        assert prob == pytest.approx(by_hand.pop(key), rel=1e-12, abs=1e-300)
    assert not by_hand
    assert probs.sum() == pytest.approx(1, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(drawn.models(), drawn.ALPHAS)
def test_powered_is_the_power_law(model, alpha):
    expected = laws.power(model.log_joint(), alpha)
    got = model.powered(alpha).log_joint()
    np.testing.assert_allclose(np.exp(got), np.exp(expected), rtol=0, atol=1e-12)
    total = model.log_prefix_totals(alpha)[0].item()
    assert total == pytest.approx(laws.log_power_sum(model.log_joint(), alpha).item(), abs=1e-10)


@settings(max_examples=20, deadline=None)
@given(drawn.models(zeros=False), st.data())
def test_suffix_laws_are_those_of_the_model_after_a_prefix(model, data):
    depth = data.draw(st.integers(0, model.length - 1))
    prefix = data.draw(st.lists(st.integers(0, model.num_live - 1), min_size=depth, max_size=depth))
    row = sum(token * model.num_live ** (depth - 1 - d) for d, token in enumerate(prefix))
    after = model.after(prefix)
    np.testing.assert_allclose(model.suffix_log_laws(depth)[row], after.log_joint(), atol=1e-12)
    tokens, lengths = model.completions()
    through = (tokens[:, :depth] == prefix).all(axis=1) & (lengths > depth)
    expected = np.sort(laws.normalise(model.log_joint()[through]))
    np.testing.assert_allclose(np.sort(after.log_joint()), expected, atol=1e-11)


def test_from_law_returns_the_conditionals():
    for model in drawn.fixed_models():
        target = model.powered(3.0)
        again = TabularModel.from_law(target.log_joint(), model)
        np.testing.assert_allclose(
            np.exp(again.log_joint()), np.exp(target.log_joint()), atol=1e-13
        )


def test_temperature_is_token_by_token():
    model = drawn.fixed_models()[0]
    for table, tempered in zip(model.log_p, model.tempered(3.0).log_p, strict=True):
        cubes = np.exp(table) ** 3
        expected = cubes / cubes.sum(1, keepdims=True)
        np.testing.assert_allclose(np.exp(tempered), expected, atol=1e-14)


def test_from_function_asks_for_every_live_prefix():
    prefixes = []

    def logits(prefix):
        prefixes.append(prefix)
        return [0.1 * len(prefix), sum(prefix), 1.0]

    model = TabularModel.from_function(logits, 3, 3, eos=True)
    assert len(prefixes) == 1 + 2 + 4
    assert model.num_completions == 1 + 2 + 4 + 8
    row = laws.normalise(np.array([0.2, 1.0, 1.0]))
    np.testing.assert_allclose(model.log_p[2][0b01], row, atol=1e-14)


@pytest.mark.parametrize("index", range(3))
def test_samplers_draw_their_law(index):
    """Pearson's chi-square within five deviations, for both samplers, and no impossible draws."""
    model = drawn.fixed_models()[index].powered(1.5)
    rng, size = np.random.default_rng(index), 100_000
    probs = np.exp(model.log_joint())
    for sample in (model.sample(rng, size), laws.draw(rng, model.log_joint(), size)):
        counts = np.bincount(sample, minlength=len(probs))
        assert counts[probs == 0].sum() == 0
        seen = probs * size > 5
        rest = np.append(probs[seen], max(1 - probs[seen].sum(), 1e-12)) * size
        observed = np.append(counts[seen], counts[~seen].sum())
        chi2 = (np.square(observed - rest) / rest).sum()
        assert chi2 < seen.sum() + 5 * math.sqrt(2 * seen.sum() + 2)


@given(
    st.lists(st.floats(-20, 0), min_size=1, max_size=8),
    st.sampled_from([0.999, 1 - 1e-6, 1 - 1e-12, 1 + 1e-12, 1 + 1e-6, 1.001]),
)
def test_renyi_entropy_is_continuous_at_one(logits, order):
    log_q = laws.normalise(np.array([*logits, -np.inf]))
    at_one = laws.renyi_entropy(log_q, 1)
    spread = laws.mean(log_q, np.square(np.where(np.isfinite(log_q), log_q, 0)))
    near = laws.renyi_entropy(log_q, order)
    # The slope in the order is -Var(log q)/2, and the variance is at most the second moment.
    assert abs(near - at_one) <= abs(order - 1) * spread + 1e-10


def test_renyi_entropy_limits():
    log_q = laws.log_of(np.array([0.5, 0.25, 0.25, 0.0]))
    assert laws.renyi_entropy(log_q, 0) == pytest.approx(np.log(3))
    assert laws.renyi_entropy(log_q, 1) == pytest.approx(1.5 * np.log(2))
    assert laws.renyi_entropy(log_q, 2) == pytest.approx(-np.log(0.375))
    assert laws.renyi_entropy(log_q, np.inf) == pytest.approx(np.log(2))
    assert laws.renyi_entropy(log_q, 2000) == pytest.approx(np.log(2), abs=1e-3)
    orders = [0, 0.3, 0.96, 1, 1.04, 1.06, 3, 50, np.inf]
    values = [float(laws.renyi_entropy(log_q, order)) for order in orders]
    assert values == sorted(values, reverse=True)


def test_distances_with_zeros():
    p, q = laws.log_of([0.5, 0.5, 0.0]), laws.log_of([0.5, 0.0, 0.5])
    assert laws.kl(p, q) == np.inf and laws.kl(p, p) == 0
    assert laws.total_variation(p, q) == 0.5
    assert laws.squared_hellinger(p, q) == pytest.approx(1)
    assert laws.modes(laws.log_of([0.4, 0.2, 0.4])).tolist() == [True, False, True]


@pytest.mark.parametrize(("vocab_size", "length", "eos"), [(10, 6, False), (11, 6, True)])
def test_a_million_completions_in_seconds(vocab_size, length, eos, record_property):
    start = time.perf_counter()
    model = TabularModel.random(np.random.default_rng(0), vocab_size, length, eos)
    log_z = laws.log_power_sum(model.log_joint(), 4.0)
    assert abs(model.log_prefix_totals(4.0)[0].item() - log_z) < 1e-10
    assert abs(np.exp(model.powered(4.0).log_joint()).sum() - 1) < 1e-10
    elapsed = time.perf_counter() - start
    record_property("seconds for 10^6 completions", f"{elapsed:.2f}")
    assert elapsed < 10


class TestBadInput:
    def test_too_large(self, monkeypatch):
        with pytest.raises(ValueError, match=r"10,000,000,000 completions.*limit.*4,194,304"):
            TabularModel.random(np.random.default_rng(0), 10, 10)
        monkeypatch.setattr(enumeration, "MAX_COMPLETIONS", 7)
        with pytest.raises(ValueError, match="8 completions; the limit"):
            TabularModel.from_function(lambda prefix: [0.0, 0.0], 2, 3)

    def test_does_not_sum_to_one(self):
        with pytest.raises(ValueError, match=r"depth 1 does not sum to 1: row 1 of 2 sums to 0\.9"):
            TabularModel.from_probs([[[0.5, 0.5]], [[0.5, 0.5], [0.4, 0.5]]])
        with pytest.raises(ValueError, match="negative"):
            TabularModel.from_probs([[[1.5, -0.5]]])
        with pytest.raises(ValueError, match="NaN"):
            TabularModel((np.array([[np.nan, 0.0]]),))
        with pytest.raises(ValueError, match="zero everywhere"):
            TabularModel.from_logits([[[-np.inf, -np.inf]]])

    def test_shape(self):
        with pytest.raises(ValueError, match=r"depth 1 must have shape \(2, 2\), got \(1, 2\)"):
            TabularModel.from_logits([np.zeros((1, 2)), np.zeros((1, 2))])
        with pytest.raises(ValueError, match=r"prefix .* is not live"):
            drawn.fixed_models()[0].after([2])
        with pytest.raises(ValueError, match="length >= 1"):
            TabularModel.random(np.random.default_rng(0), 3, 0)

    @pytest.mark.parametrize("alpha", [0, -1, math.inf, math.nan])
    def test_alpha(self, alpha):
        model = drawn.fixed_models()[0]
        for f in (model.powered, model.tempered, model.log_prefix_totals):
            with pytest.raises(ValueError, match="alpha must be a positive, finite number"):
                f(alpha)

    def test_order(self):
        with pytest.raises(ValueError, match="order"):
            laws.renyi_entropy(np.zeros(1), -1)
