"""The three roads end where Corollary 1 and Eq. 16 say, and the figure's numbers are theirs."""

import jax.numpy as jnp
import numpy as np
import pytest

from powerjax.theory import TabularModel, bridge, chains, laws, learning
from powerjax.theory import propositions as props
from tests.theory import drawn

ALPHA = 3.0


@pytest.fixture(scope="module")
def curves():
    model = drawn.fixed_models()[0]
    return bridge.measure(ALPHA, model, num_steps=24, num_chains=4000, training_steps=300)


def test_policy_table_is_the_model():
    for model in drawn.fixed_models():
        log_q = np.exp(
            np.asarray(
                learning.policy_log_law(
                    jnp.asarray(learning.stacked_logits(model)), learning.paths(model)
                )
            )
        )
        np.testing.assert_allclose(log_q, np.exp(model.log_joint()), atol=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_gradient_ascent_reaches_pi_alpha(index):
    model = drawn.fixed_models()[index]
    log_p, beta = model.log_joint(), 1 / (ALPHA - 1)
    path = learning.gradient_ascent(model, beta, 400, 0.1)
    np.testing.assert_allclose(np.exp(path[0]), np.exp(log_p), atol=1e-12)
    target = laws.power(log_p, ALPHA)
    assert laws.total_variation(path[-1], target) < 0.02
    # What is left of Eq. 14's gap is beta KL(q || pi_alpha).
    alive = np.isfinite(log_p)
    log_q = laws.normalise(np.where(alive, path[-1], -np.inf))
    gap = beta * laws.log_power_sum(log_p, ALPHA) - props.eq14_reverse_kl(log_q, log_p, beta).left
    assert 0 <= gap < 1e-2 and gap == pytest.approx(beta * laws.kl(log_q, target), abs=1e-10)


def test_reinforce_approaches_and_a_larger_batch_is_closer():
    model = drawn.fixed_models()[0]
    target = laws.power(model.log_joint(), ALPHA)
    ends = []
    for batch in (4, 256):
        path = learning.reinforce(model, 1 / (ALPHA - 1), 400, batch, 0.1)
        ends.append(laws.total_variation(path[-1], target))
    assert ends[1] < ends[0] < laws.total_variation(model.log_joint(), target) / 2
    assert ends[1] < 0.02
    nearest = min(
        (ALPHA - 0.3, ALPHA, ALPHA + 0.3),
        key=lambda a: laws.total_variation(path[-1], laws.power(model.log_joint(), a)),
    )
    assert nearest == ALPHA


def test_leave_one_out_has_no_noise_at_the_optimum():
    """A uniform law is its own power: every return is the same, and the policy stays put."""
    model = TabularModel.from_function(lambda prefix: [0.0, 0.0, 0.0], 3, 3)
    path = learning.reinforce(model, 0.5, 50, 8, 0.1)
    np.testing.assert_allclose(path[-1], path[0], atol=1e-6)


def test_the_fit_is_the_frequencies():
    model = drawn.fixed_models()[2]
    drawn_ = laws.draw(np.random.default_rng(0), model.log_joint(), 500)
    fit = learning.distil(model, drawn_)
    counts = np.bincount(drawn_, minlength=model.num_completions)
    np.testing.assert_allclose(np.exp(fit.log_joint()), counts / 500, atol=1e-12)
    # No other policy gives the data a higher likelihood.
    best = fit.log_joint()[drawn_].sum()
    assert all(
        drawn.policy_like(model, seed).log_joint()[drawn_].sum() < best for seed in range(100)
    )


@pytest.mark.parametrize("n", [1, 9, 200, 5000])
def test_expected_distance(n):
    model = drawn.fixed_models()[0]
    teacher, target = model.log_joint(), laws.power(model.log_joint(), 1.2)
    rng = np.random.default_rng(0)
    seen = rng.multinomial(n, np.exp(laws.normalise(teacher)), 4000) / n
    trials = 0.5 * np.abs(seen - np.exp(target)).sum(axis=1)
    expected = learning.expected_distance(target, teacher, n)
    assert expected == pytest.approx(trials.mean(), abs=5 * trials.std() / 60)


def test_curves(curves):
    model = drawn.fixed_models()[0]
    target = laws.power(model.log_joint(), ALPHA)
    floor = laws.total_variation(model.tempered(ALPHA).log_joint(), target)
    exact = bridge.find(curves, "MH, exact")
    assert exact.distance[0] == pytest.approx(floor)
    assert (np.diff(exact.distance) <= 1e-12).all() and exact.distance[-1] < floor / 3
    published = bridge.find(curves, "MH, published")
    assert published.distance[-1] > exact.distance[-1] + 0.05
    assert bridge.find(curves, "token temperature").distance == pytest.approx(floor)
    assert bridge.find(curves, "SIS, oracle").distance.max() < 1e-12
    for name in ("base", "temperature"):
        curve = bridge.find(curves, f"SIS, {name}")
        assert (np.diff(curve.distance) < 0).all()
    fit = bridge.find(curves, "MLE on exact")
    slope = np.polyfit(np.log(fit.steps[4:]), np.log(fit.distance[4:]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.02)
    taught = bridge.find(curves, "MLE on MH")
    teacher = exact.distance[bridge.TEACHER_STEPS]
    assert taught.distance[-1] == pytest.approx(teacher, rel=0.05)
    for name in ("MH, exact", "MH, published"):
        line, marks = (bridge.find(curves, name, law) for law in (True, False))
        assert np.abs(marks.distance - line.distance[marks.steps]).max() < 0.06
    for name in ("MLE on exact", "MLE on MH"):
        line, marks = (bridge.find(curves, name, law) for law in (True, False))
        reach = 2.84 / np.sqrt(marks.steps)
        assert (np.abs(marks.distance - line.distance[: len(marks.steps)]) < reach).all()


def test_what_it_teaches(curves):
    text = bridge.lessons(curves)
    lines = text.split("\n")
    assert [line.split(":")[0] for line in lines] == ["Sampling", "RL", "Distillation"]
    assert len(bridge.table(curves).split("\n")) == 2 + len(curves)
    with pytest.raises(ValueError, match="no curve named 'barker'"):
        bridge.find(curves, "barker")


def test_bad_input():
    model, no_eos = drawn.fixed_models()[:2]
    with pytest.raises(ValueError, match="needs a model with EOS"):
        chains.run_chains(no_eos, 2.0, 1, 1)
    with pytest.raises(ValueError, match="needs alpha > 1"):
        bridge.rl_curves(model, 1.0, 1)
    with pytest.raises(ValueError, match="batch of at least 2"):
        learning.reinforce(model, 1.0, 1, 1, 0.1)
    with pytest.raises(ValueError, match="nothing to distil"):
        learning.distil(model, np.array([], dtype=int))
    assert jnp.ones(1).dtype == jnp.float32
