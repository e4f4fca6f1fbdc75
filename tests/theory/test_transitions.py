"""The chain's exact law: stationary for the exact kernel only, and the law that `mh` draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerjax.theory import bridge, chains, laws, learning, transitions
from tests.theory import drawn


def drift(model, proposal, alpha, rule):
    """|pi_alpha P - pi_alpha|, summed."""
    step = transitions.kernel(model, proposal, alpha, rule)
    law = np.zeros(len(step.matrix))
    law[: model.num_completions] = np.exp(laws.power(model.log_joint(), alpha))
    return np.abs(law @ step.matrix - law).sum()


@settings(max_examples=30, deadline=None)
@given(drawn.models(), drawn.ALPHAS, st.floats(0.3, 5))
def test_exact_kernel_leaves_pi_alpha_alone(model, alpha, inverse_temperature):
    assert drift(model, model.tempered(inverse_temperature), alpha, "exact") < 1e-12
    step = transitions.kernel(model, model.tempered(alpha), alpha)
    assert step.matrix.min() > -1e-12
    np.testing.assert_allclose(step.matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("rule", ["karan2026", "no_length_terms"])
def test_the_other_rules_do_not(rule):
    for model in drawn.fixed_models()[::2]:
        assert drift(model, model.tempered(3.0), 3.0, rule) > 0.01
    fixed_length = drawn.fixed_models()[1]
    assert drift(fixed_length, fixed_length.tempered(3.0), 3.0, rule) < 1e-12


def test_published_rule_stays_far_away():
    """A 3-token model of length 4: the distance does not shrink with steps."""
    model = drawn.fixed_models()[0]
    start = np.exp(model.tempered(4.0).log_joint())
    target = laws.power(model.log_joint(), 4.0)
    ends = {}
    for rule in ("exact", "karan2026"):
        step = transitions.kernel(model, model.tempered(4.0), 4.0, rule)
        path, _ = transitions.laws_of_chain(step, start, 3000)
        ends[rule] = transitions.distance_to(target, path[-1])
        np.testing.assert_allclose(path.sum(axis=1), 1, atol=1e-10)
    assert ends["exact"] < 1e-6 and ends["karan2026"] > 0.05


@pytest.mark.parametrize("rule", ["exact", "karan2026"])
@pytest.mark.parametrize("temperature", [None, 0.6])
def test_mh_draws_this_law(rule, temperature):
    """`mh.advance` over 20,000 chains, each step's law within chance of the matrix's, and not of
    the other rule's."""
    model, alpha, num_chains, steps = bridge.example_model(), 3.0, 20_000, 10
    proposal = model.tempered(alpha if temperature is None else 1 / temperature)
    start = np.exp(proposal.log_joint())
    strings = chains.run_chains(model, alpha, steps, num_chains, rule, temperature=temperature)
    seen = chains.empirical_laws(model, strings)
    paths = {}
    for name in ("exact", "karan2026"):
        step = transitions.kernel(model, proposal, alpha, name)
        paths[name], _ = transitions.laws_of_chain(step, start, steps)
    for now, law in zip(seen, paths.pop(rule), strict=True):
        chance = learning.expected_distance(laws.log_of(law), laws.log_of(law), num_chains)
        # Changing one chain moves the distance by 1/n: McDiarmid, at odds of 1e-7.
        assert 0.5 * np.abs(now - law).sum() < chance + 2.84 / np.sqrt(num_chains)
    (other,) = paths.values()
    assert 0.5 * np.abs(seen[-1] - other[-1]).sum() > 0.1


def test_tokens_per_step_are_those_drawn():
    """A model without EOS draws (T+1)/2 tokens per step, from any state."""
    model = drawn.fixed_models()[1]
    step = transitions.kernel(model, model, 2.0)
    np.testing.assert_allclose(step.tokens_per_step[: model.num_completions], 2.0)
    _, tokens = transitions.laws_of_chain(step, np.exp(model.log_joint()), 3)
    np.testing.assert_allclose(tokens, [0, 2, 4, 6])


def test_bad_rule():
    model = drawn.fixed_models()[0]
    with pytest.raises(ValueError, match="rule must be one of exact, karan2026"):
        transitions.kernel(model, model, 2.0, "barker")
