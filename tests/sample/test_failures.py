"""Chains whose logits are not finite are named at the end. All others are as if alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import sample
from powerjax.sample import ChainsFailed, draws, mh, workers
from tests import tiny

pytestmark = pytest.mark.full

BAD = 13  # a token whose embedding is damaged
OPTIONS = dict(alpha=2.0, block_size=12, num_mcmc_steps=3, max_new_tokens=24, progress=False)


@pytest.fixture(scope="module")
def healthy():
    """The small model with a head of its own: a token's embedding is no other token's logit."""
    return tiny.random_lm(tiny.config(tie_word_embeddings=False))


def damaged(lm, token, value=np.nan, dtype=None):
    """Returns the model with one number of a token's embedding replaced. dtype: None keeps it."""
    params = jax.tree.map(lambda x: x.astype(dtype or x.dtype), lm.params)
    table = params["embed_tokens"]["embedding"]
    embed = {"embedding": table.at[token, 3].set(value)}
    params = {**params, "embed_tokens": embed}
    return dataclasses.replace(lm, params=params, dtype=dtype or lm.dtype)


@pytest.fixture(scope="module")
def prompts():
    """40 prompts of 1 to 40 tokens. Five hold the bad token: first, last, in between, or alone."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(14, 97, n).tolist() for n in rng.integers(1, 40, 40)]
    rows[3][0] = rows[4][-1] = rows[20][len(rows[20]) // 2] = BAD
    rows[9] = [BAD]
    rows[30] = [BAD, *range(20, 59)]
    return rows


BAD_PROMPTS = {3, 4, 9, 20, 30}


def by_chain(completions):
    return {(c.prompt_index, c.sample_index): c for c in completions}


def same(a, b) -> bool:
    return a.tokens == b.tokens and np.array_equal(a.log_probs, b.log_probs)


def run(sampler, *args, **options):
    """Returns the completions and the failed chains."""
    try:
        return sampler(*args, **options), []
    except ChainsFailed as error:
        return error.completions, error.failed


@pytest.mark.parametrize("num_slots", [2, 16])
def test_plain_chains_fail_where_they_feed_the_bad_token_and_nowhere_else(
    healthy, prompts, num_slots
):
    options = dict(max_new_tokens=24, num_slots=num_slots, num_samples=4, progress=False)
    expected = by_chain(sample.standard(healthy, prompts, **options))
    seen = []
    completions, failed = run(
        sample.standard, damaged(healthy, BAD), prompts, on_finish=seen.append, **options
    )
    feeds = {
        chain for chain, c in expected.items() if chain[0] in BAD_PROMPTS or BAD in c.tokens[:-1]
    }
    assert set(failed) == feeds and len(feeds) > 4 * len(BAD_PROMPTS)
    assert set(by_chain(completions)) == set(by_chain(seen)) == set(expected) - feeds
    assert all(same(c, expected[c.prompt_index, c.sample_index]) for c in completions)
    assert completions.stats.num_failed == len(failed)


def test_a_failed_chain_leaves_nothing_in_its_slot(healthy):
    """With short prompts and long completions, where no prompt overwrites a chain's last tokens."""
    options = dict(max_new_tokens=48, num_slots=2, num_samples=24, progress=False)
    prompts = [[20], [21, 22]]
    expected = by_chain(sample.standard(healthy, prompts, **options))
    completions, failed = run(sample.standard, damaged(healthy, BAD), prompts, **options)
    assert set(failed) == {chain for chain, c in expected.items() if BAD in c.tokens[:-1]}
    assert 3 < len(failed) < 40
    assert all(same(c, expected[c.prompt_index, c.sample_index]) for c in completions)


@pytest.mark.parametrize(
    ("sampler", "extra", "value"),
    [
        (sample.power, dict(alpha=2.0), np.nan),
        (sample.power, dict(alpha=2.0, temperature=1.0, stop="horizon", top_k=30), np.inf),
        (sample.power_inf, dict(temperature=0.5), -np.inf),
    ],
)
def test_a_proposal_that_feeds_the_bad_token_fails_its_chain_and_no_other(
    healthy, prompts, sampler, extra, value
):
    options = {**OPTIONS, **extra, "num_slots": 8, "num_samples": 2}
    if sampler is sample.power_inf:
        del options["alpha"]
    expected = by_chain(sampler(healthy, prompts, **options))
    completions, failed = run(sampler, damaged(healthy, BAD, value), prompts, **options)
    assert len(completions) + len(failed) == len(expected)
    assert all(same(c, expected[c.prompt_index, c.sample_index]) for c in completions)
    assert {p for p, _ in failed} > BAD_PROMPTS
    assert not any(BAD in c.tokens[:-1] for c in completions)


def test_a_token_that_only_pads_is_never_seen(healthy, prompts):
    """Token 0 pads rows, and it is the stop id, which is drawn but never fed."""
    options = {**OPTIONS, "num_slots": 8}
    expected = sample.power(healthy, prompts, **options)
    out = sample.power(damaged(healthy, 0), prompts, **options)
    assert all(same(a, b) for a, b in zip(out, expected, strict=True))
    assert out.stats.num_failed == 0
    completions = [c.tokens for c in expected]
    scores = (lm.score(prompts, completions) for lm in (healthy, damaged(healthy, 0)))
    assert all(np.array_equal(a, b) for a, b in zip(*scores, strict=True))


def test_weights_that_overflow_in_float16_fail_the_chains_that_use_them(healthy, prompts):
    """In float32 the same weights are sound, as the message says."""
    wide = damaged(healthy, BAD, 1e5)
    with pytest.raises(ValueError, match="are not finite in") as error:
        sample.power(damaged(healthy, BAD, 1e5, jnp.float16), prompts, num_slots=8, **OPTIONS)
    message = str(error.value)
    assert "bfloat16 or float32" in message and "\n" not in message
    assert "3 sample 0; 4 sample 0; 9 sample 0" in message
    assert len(sample.power(wide, prompts, num_slots=8, **OPTIONS)) == len(prompts)


def test_the_error_names_ids_and_is_short_for_many(healthy):
    with pytest.raises(ChainsFailed) as error:
        sample.standard(
            damaged(healthy, BAD),
            [[20, BAD]] * 30 + [[21]],
            ids=[f"p{i}" for i in range(31)],
            num_samples=2,
            max_new_tokens=1,
            progress=False,
        )
    assert error.value.failed == [(f"p{i // 2}", i % 2) for i in range(60)]
    assert "in 60 of 62 chains" in str(error.value)
    assert "'p19' samples 0, 1; 10 more ids; the checkpoint" in str(error.value)
    assert [c.id for c in error.value.completions] == ["p30"] * 2


def test_several_engines_name_their_chains_together(healthy, prompts, monkeypatch):
    options = {**OPTIONS, "num_samples": 2}
    one, failed = run(sample.power, damaged(healthy, BAD), prompts, num_slots=8, **options)
    monkeypatch.setattr(workers, "count_workers", lambda lm, num_slots: 2)
    two, also = run(sample.power, damaged(healthy, BAD), prompts, num_slots=16, **options)
    assert failed == also and len(one) == len(two)
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert two.stats.num_failed == len(failed)


def logits_of(*values):
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize(
    ("logits", "fails"),
    [
        (logits_of(0, 1, 2, 3), False),
        (logits_of(0, -np.inf, 2, -np.inf), False),
        (logits_of(-np.inf, -np.inf, 2, -np.inf), False),
        (logits_of(0, np.nan, 2, 3), True),
        (logits_of(0, 1, 2, np.inf), True),
        (logits_of(-np.inf, -np.inf, -np.inf, -np.inf), True),
        (logits_of(*[np.nan] * 4), True),
    ],
)
@pytest.mark.parametrize("kernel", ["exact", "power_inf", "karan2026"])
def test_a_failed_chain_is_done_and_its_state_is_as_it_was(logits, fails, kernel):
    settings = mh.settings(
        2.0, block_size=4, num_mcmc_steps=2, max_new_tokens=8, stop_ids=(-1,), kernel=kernel
    )
    key = draws.chain_keys(0, ["x"], [0])[0]
    advance = jax.jit(
        lambda chain, x: mh.advance(chain, x, draws.draw(key, chain, settings), settings)
    )
    chain = mh.init(settings)
    for _ in range(6):  # in the middle of a move
        chain, info = advance(chain, logits_of(0, 1, 2, 3))
        assert not info.failed
    after, info = advance(chain, logits)
    assert bool(info.failed) == bool(after.done) == fails
    if fails:
        assert not info.finished and not info.accepted
        jax.tree.map(np.testing.assert_array_equal, after.state, chain.state)
        assert after.length == chain.length
        again, info = advance(after, logits)
        assert again.done and not info.failed  # it is counted once
