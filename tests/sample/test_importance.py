"""Importance weights of a proposal model's draws, against enumerated laws."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import sample
from powerjax.sample import restart
from tests import tiny
from tests.sample import tabular

HALF = 200  # answers of a mode
VOCAB = (
    2 * HALF + 1
)  # token 0 is EOS; 1..200 are answers of the first mode, the others of the second
ALPHA = 2.0


def markov(transitions: np.ndarray, name: str):
    """Returns a model of VOCAB tokens whose next token depends on the last one alone.

    transitions: logits [VOCAB, VOCAB]. The layer adds nothing: its output matrices are zero. So a
    hidden state is the embedding of the last token, which is its one-hot vector times a constant.
    """
    width = 404
    sizes = dict(vocab_size=VOCAB, hidden_size=width, intermediate_size=8, num_layers=1)
    heads = dict(num_heads=2, num_kv_heads=1, max_position_embeddings=64)
    lm = tiny.random_lm(
        tiny.config(**sizes, **heads, tie_word_embeddings=False), stop_ids=(0,), name=name
    )
    layer = lm.params["layers_0"]
    silent = {
        "self_attn": layer["self_attn"]
        | {"o_proj": {"kernel": jnp.zeros_like(layer["self_attn"]["o_proj"]["kernel"])}},
        "mlp": layer["mlp"]
        | {"down_proj": {"kernel": jnp.zeros_like(layer["mlp"]["down_proj"]["kernel"])}},
    }
    head = np.zeros((width, VOCAB), np.float32)
    head[:VOCAB] = transitions / np.sqrt(width)  # the norm scales one-hot vectors to sqrt(width)
    params = lm.params | {
        "embed_tokens": {"embedding": jnp.eye(VOCAB, width) * 10},
        "layers_0": layer | silent,
        "lm_head": {"kernel": jnp.asarray(head)},
    }
    return dataclasses.replace(lm, params=params)


def two_modes(mass: float, seed: int):
    """A model that answers with one token and EOS; `mass` is the second mode's, seed its noise."""
    rng = np.random.default_rng(seed)
    logits = np.full((VOCAB, VOCAB), -30.0)
    logits[:, 0] = 0  # after an answer's token comes EOS
    first = np.concatenate([[0], rng.normal(scale=0.3, size=VOCAB - 1)])
    law = np.exp(first)
    law[0] = 0
    law[1 : HALF + 1] *= (1 - mass) / law[1 : HALF + 1].sum()
    law[HALF + 1 :] *= mass / law[HALF + 1 :].sum()
    logits[0] = np.log(np.maximum(law, 1e-30))  # the prompt is token 0
    return markov(logits, f"two modes {mass:g}")


def enumerated(lm):
    """Returns (log p of the first token [VOCAB], log Z_alpha) after the prompt."""
    rows = np.asarray(lm.logits([[0]]), np.float64)[0, 0]
    log_p = tabular.log_softmax(rows)
    return log_p, float(np.log(np.sum(np.exp(ALPHA * log_p[1:]))))


@pytest.fixture(scope="module")
def base():
    return two_modes(0.5, seed=0)


JOB = {"alpha": ALPHA, "max_new_tokens": 2, "progress": False, "num_slots": 256}


def test_the_interval_of_log_z_covers(base, record_property):
    """The 95 % interval covers the enumerated log Z in 180 to 198 of 200 repetitions."""
    proposal, (_, log_z) = two_modes(0.35, seed=1), enumerated(base)
    out = sample.importance(
        base, [[0]] * 200, proposal, num_samples=60, ids=list(range(200)), **JOB
    )
    assert min(result.ess_fraction for result in out) >= 0.3
    covers = sum(abs(r.log_z - log_z) <= 1.96 * r.log_z_stderr for r in out)
    record_property("intervals that cover log Z, of 200", covers)
    assert 180 <= covers <= 198


def test_weights_are_those_of_the_laws(base):
    """log W of each draw, and with defensive draws the density of the mixture."""
    proposal, (log_p, _) = two_modes(0.2, seed=2), enumerated(base)
    log_q, _ = enumerated(proposal)
    cold = tabular.log_softmax(ALPHA * log_p)
    for defensive, share in ((0.0, 0.0), (0.1, 0.1), (1.0, 1.0)):
        (out,) = sample.importance(
            base, [[0]], proposal, num_samples=40, defensive=defensive, **JOB
        )
        first = np.array([item.tokens[0] for item in out.completions])
        density = (1 - share) * np.exp(log_q) + share * np.exp(cold)
        np.testing.assert_allclose(
            out.log_weights, (ALPHA * log_p - np.log(density))[first], atol=2e-4
        )
        np.testing.assert_allclose(
            [item.log_prob for item in out.completions], log_p[first], atol=2e-4
        )


def test_top_k_masks_the_proposal_to_the_base_s_tokens(base):
    (out,) = sample.importance(base, [[0]], two_modes(0.3, seed=3), num_samples=64, top_k=5, **JOB)
    log_p, _ = enumerated(base)
    likeliest = set(np.argsort(-log_p)[:5].tolist())
    assert {item.tokens[0] for item in out.completions} <= likeliest
    kept = np.array(sorted(likeliest))
    log_q = enumerated(two_modes(0.3, seed=3))[0]
    log_q = log_q - np.log(np.exp(log_q[kept]).sum())
    first = np.array([item.tokens[0] for item in out.completions])
    np.testing.assert_allclose(out.log_weights, (ALPHA * log_p - log_q)[first], atol=2e-4)


def test_k_hat_sees_a_mode_that_is_visited_too_rarely(base, record_property):
    (out,) = sample.importance(base, [[0]], two_modes(0.01, seed=4), num_samples=2000, **JOB)
    record_property("k-hat where a mode of half the mass has 1 % of q", out.k_hat)
    assert out.k_hat > 0.7


def test_k_hat_is_blind_to_a_mode_that_is_never_visited(base, record_property):
    """log Z is then too low by log 2, with a small standard error; defensive draws mend it."""
    (_, log_z), proposal = enumerated(base), two_modes(1e-9, seed=4)
    (blind,) = sample.importance(base, [[0]], proposal, num_samples=1000, **JOB)
    (seen,) = sample.importance(base, [[0]], proposal, num_samples=1000, defensive=0.1, **JOB)
    errors = [result.log_z - log_z for result in (blind, seen)]
    record_property("k-hat, and log Z's error without and with defensive", (blind.k_hat, *errors))
    assert blind.k_hat is None or blind.k_hat < 0.7
    assert errors[0] < -0.5 and blind.log_z_stderr < 0.05
    assert abs(errors[1]) < 4 * seen.log_z_stderr < 0.5


def test_the_statistics_are_their_formulas(base):
    (out,) = sample.importance(base, [[0]], two_modes(0.3, seed=5), num_samples=200, **JOB)
    w = np.exp(out.log_weights)
    ess = w.sum() ** 2 / (w**2).sum()
    assert out.log_z == pytest.approx(np.log(w.mean()))
    assert out.ess_fraction == pytest.approx(ess / 200)
    assert out.chi2 == pytest.approx(200 / ess - 1)
    assert out.kl == pytest.approx(np.log(w.mean()) - np.log(w).mean())
    assert out.log_z_stderr == pytest.approx(w.std(ddof=1) / w.mean() / np.sqrt(200))
    is_second = np.array([item.tokens[0] > HALF for item in out.completions], float)
    mean, stderr = out.expect(lambda item: float(item.tokens[0] > HALF))
    assert mean == pytest.approx((w * is_second).sum() / w.sum())
    spread = np.sqrt(np.sum((w / w.sum()) ** 2 * (is_second - mean) ** 2))
    assert stderr == pytest.approx(spread * np.sqrt(200 / 199))
    log_p, log_z = enumerated(base)
    truth = np.exp(ALPHA * log_p[HALF + 1 :]).sum() / np.exp(log_z)
    assert abs(mean - truth) < 4 * stderr
    again = out.resample(5000, seed=3)
    assert [a is b for a, b in zip(again, out.resample(5000, seed=3), strict=True)] == [True] * 5000
    drawn = np.mean([item.tokens[0] > HALF for item in again])
    assert abs(drawn - mean) < 5 * np.sqrt(mean * (1 - mean) / 5000)


def test_a_draw_is_the_proposal_s_own_completion(base):
    """Of the same seed, id and sample index; a chain of restarts begins with it as well."""
    proposal = two_modes(0.4, seed=6)
    job = {"max_new_tokens": 2, "progress": False, "num_slots": 256, "ids": ["a"]}
    (out,) = sample.importance(base, [[0]], proposal, num_samples=20, alpha=ALPHA, **job)
    plain = sample.standard(proposal, [[0]], num_samples=20, **job)
    chains = sample.power(
        base, [[0]], proposal=proposal, num_mcmc_steps=0, num_samples=20, alpha=ALPHA, **job
    )
    tokens = [[item.tokens for item in items] for items in (out.completions, plain, chains)]
    assert tokens[0] == tokens[1] == tokens[2]


def test_a_pass_accepts_as_the_kernel_does():
    log_weights = np.array([0.0, -1.0, 2.0, 1.5])
    log_u = np.array([-0.5, -0.1, -0.4])
    np.testing.assert_array_equal(restart.accepted(log_weights, log_u), [False, True, False])
    np.testing.assert_array_equal(restart.accepted(log_weights, log_u - 0.6), [True, True, True])
    assert restart.accepted(np.array([3.0]), np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defensive": 1.5}, "defensive"),
        ({"alpha": 0.5}, "alpha"),
        ({"num_samples": 0}, "num_samples"),
        ({"proposal_temperature": 0}, "temperature"),
    ],
)
def test_bad_arguments_are_refused(base, change, message):
    with pytest.raises(ValueError, match=message):
        sample.importance(base, [[0]], base, **{**JOB, "num_samples": 4} | change)
