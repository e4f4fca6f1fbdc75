"""Chains in slots.

A chain is the same alone and in a batch, with early rejection and without. The reported cost is
what was counted, and one trace serves all settings.
"""

import math
import re

import chex
import jax
import numpy as np
import pytest

from powerjax import sample
from powerjax.sample import draws, mh, slots
from tests.sample import compiled
from tests.sample.edges import margin, next_logits

LAW = dict(block_size=12, num_mcmc_steps=4, max_new_tokens=30, stop="horizon")
OPTIONS = dict(alpha=2.0, num_samples=2, progress=False, seed=3, **LAW)


def settings_of(lm) -> mh.Settings:
    """Returns OPTIONS as a kernel driven by hand takes them."""
    return mh.settings(OPTIONS["alpha"], stop_ids=lm.stop_ids, **LAW)


@pytest.fixture(scope="module")
def job(tiny_qwen, prompts, names):
    """run(problems, **changes) samples these problems, or all, with OPTIONS and the changes."""

    def run(problems=None, **changes):
        chosen = range(len(prompts)) if problems is None else problems
        options = {"num_slots": 16, **OPTIONS, **changes}
        ids = [names[i] for i in chosen]
        return sample.power(tiny_qwen, [prompts[i] for i in chosen], ids=ids, **options)

    return run


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 97, n).tolist() for n in rng.integers(1, 40, 40)]


@pytest.fixture(scope="module")
def names(prompts):
    return [f"problem {i}" for i in range(len(prompts))]


@pytest.fixture(scope="module")
def reference(job):
    return job()


def same(a, b) -> bool:
    return a.tokens == b.tokens and np.array_equal(a.log_probs, b.log_probs)


def by_chain(completions):
    return {(c.id, c.sample_index): c for c in completions}


def test_results_are_ordered_and_consistent(tiny_qwen, prompts, names, reference):
    chains = [(c.prompt_index, c.sample_index) for c in reference]
    assert chains == [(p, s) for p in range(len(prompts)) for s in range(2)]
    for c in reference:
        assert c.id == names[c.prompt_index]
        ended = c.tokens[-1] in tiny_qwen.stop_ids
        assert c.finish_reason == ("eos" if ended else "length")
        assert not set(c.tokens[:-1]) & set(tiny_qwen.stop_ids)
        assert ended or len(c.tokens) == 30
        assert math.isclose(c.self_reward, c.log_prob / len(c.tokens), rel_tol=1e-12)
    assert {c.finish_reason for c in reference} == {"eos", "length"}


def test_booked_log_probs_are_those_of_a_fresh_forward_pass(
    tiny_qwen, prompts, reference, record_property
):
    """So the cache is right after every accepted and every rejected move."""
    fresh = tiny_qwen.score(
        [prompts[c.prompt_index] for c in reference], [c.tokens for c in reference]
    )
    worst = max(np.abs(a - c.log_probs).max() for a, c in zip(fresh, reference, strict=True))
    record_property("max |booked - fresh log_prob|", float(worst))
    assert worst < 2e-4


def test_other_neighbours_and_order_change_no_bit(job, prompts, reference):
    expected = by_chain(reference)
    shuffled = job(np.random.default_rng(1).permutation(len(prompts)))
    few = job(range(7, 12))
    rest = job(skip=lambda p, s: (p + s) % 3 > 0)
    for out in (shuffled, few, rest):
        for c in out:
            assert same(c, expected[c.id, c.sample_index])
    assert len(rest) < len(reference)


def test_early_rejection_changes_no_token(job, reference):
    off = job(early_rejection=False)
    assert all(same(a, b) for a, b in zip(off, reference, strict=True))
    assert off.stats.moves_accepted == reference.stats.moves_accepted
    assert off.stats.moves_rejected_early == 0 < reference.stats.moves_rejected_early
    assert reference.stats.num_forward_tokens < off.stats.num_forward_tokens


def test_early_rejection_changes_no_token_of_power_inf(tiny_qwen, prompts):
    options = {**LAW, "temperature": 0.5, "stop": "eos", "num_slots": 16, "progress": False}
    on, off = (
        sample.power_inf(tiny_qwen, prompts, early_rejection=early, **options)
        for early in (True, False)
    )
    assert all(same(a, b) for a, b in zip(on, off, strict=True))
    assert on.stats.num_forward_tokens < off.stats.num_forward_tokens


@pytest.mark.parametrize("num_slots", [1, 4, 24, 64])
def test_other_numbers_of_slots_differ_only_at_a_boundary(
    tiny_qwen, job, prompts, reference, num_slots, record_property
):
    out = job(range(6) if num_slots == 1 else None, num_slots=num_slots)
    expected = by_chain(reference)
    different = [c for c in out if c.tokens != expected[c.id, c.sample_index].tokens]
    record_property(f"chains that differ from 16 slots, of {len(out)}", len(different))
    assert len(different) <= 2
    settings = settings_of(tiny_qwen)
    for c in different:
        key = draws.chain_keys(3, [c.id], [c.sample_index])[0]
        assert margin(tiny_qwen, prompts[c.prompt_index], key, settings) < 1


@pytest.mark.full
def test_a_chain_driven_by_hand_is_the_chain_in_the_slots(
    tiny_qwen, job, prompts, names, reference
):
    """Both have the same tokens and the same counts."""
    settings = settings_of(tiny_qwen)
    for problem in (5, 11):
        key = draws.chain_keys(3, [names[problem]], [1])[0]
        chain, steps, proposed, accepted, early = mh.init(settings), 0, 0, 0, 0
        stage_moves, stage_accepted = [0, 0, 0], [0, 0, 0]
        while not chain.done:
            logits = next_logits(tiny_qwen, prompts[problem], chain)
            chain, info = mh.advance(chain, logits, draws.draw(key, chain, settings), settings)
            steps += 1
            if info.is_proposal:
                proposed += 1
                if info.finished:
                    stage_moves[int(info.stage)] += 1
                    stage_accepted[int(info.stage)] += int(info.accepted)
                    early += int(info.rejected_early)
                    accepted += int(info.accepted) * int(info.position + 1 - info.cut)
        expected = by_chain(reference)[names[problem], 1]
        alone = job([problem], num_slots=1, skip=lambda p, s: s == 0)
        for completion in (expected, alone[0]):
            tokens = np.asarray(chain.state.tokens)[: int(chain.length)].tolist()
            assert tokens == completion.tokens
            assert steps == completion.num_forward_tokens
            assert early == completion.num_early_rejections
        stats = alone.stats
        assert stats.model_steps == stats.num_forward_tokens == steps
        assert (stats.tokens_proposed, stats.tokens_accepted) == (proposed, accepted)
        assert (stats.stage_moves, stats.stage_accepted) == (stage_moves, stage_accepted)
        assert stats.moves == sum(stage_moves) and stats.moves_rejected_early == early


def test_cost_is_what_is_counted(reference):
    stats = reference.stats
    assert stats.num_forward_tokens == sum(c.num_forward_tokens for c in reference)
    assert stats.num_forward_tokens <= stats.model_steps * stats.num_slots
    assert stats.moves_rejected_early == sum(c.num_early_rejections for c in reference)
    assert stats.moves == sum(stats.stage_moves) and stats.tokens_accepted <= stats.tokens_proposed
    assert len(stats.acceptance_by_stage) == 3
    extension = stats.num_forward_tokens - stats.tokens_proposed
    assert extension >= len(reference)


def test_slots_stay_busy_while_prompts_wait(tiny_qwen, prompts, record_property):
    """The engine's own count, and one from the chains' forward tokens."""
    out = sample.standard(tiny_qwen, prompts * 5, max_new_tokens=8, num_slots=16, progress=False)
    stats = out.stats
    busy = sum(c.num_forward_tokens for c in out) / (stats.model_steps * stats.slots_an_engine)
    record_property(
        "occupancy while prompts wait, and over the whole run",
        (stats.slot_occupancy, round(busy, 3)),
    )
    assert stats.slot_occupancy > 0.9 and busy > 0.8


def test_a_part_of_a_job_runs_in_the_shapes_of_the_whole(tiny_qwen, prompts, names):
    """The longest prompt sets the cache's length also where skip leaves it out: no bit changes."""
    long = [*prompts[:8], list(range(1, 91)) * 3]
    changed = dict(num_samples=1, seed=0, stop="eos", num_mcmc_steps=2, max_new_tokens=24)
    options = {**OPTIONS, **changed, "num_slots": 8, "ids": [*names[:8], "long"]}
    whole = by_chain(sample.power(tiny_qwen, long, **options))
    part = sample.power(tiny_qwen, long, skip=lambda p, s: p == 8, **options)
    assert len(part) == 8 and all(same(c, whole[c.id, c.sample_index]) for c in part)


def test_longer_caches_change_nothing(job, monkeypatch):
    """A cache that grows under the chains gives the tokens of one that was long from the start."""
    from powerjax.sample import shapes

    changed = dict(num_samples=1, seed=0, stop="eos", num_mcmc_steps=3, max_new_tokens=80)
    changed |= dict(block_size=40, num_slots=8)
    long = job(range(10), **changed)
    monkeypatch.setattr(shapes, "_MIN_WINDOW", 16)
    grown = job(range(10), **changed)
    assert [c.tokens for c in grown] == [c.tokens for c in long]
    for a, b in zip(grown, long, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)


def test_a_cache_as_a_tpu_lays_it_out_changes_nothing(job, reference, monkeypatch):
    """Heads of 8 lie in 128 lanes while moves are kept and undone and prompts are copied."""
    from powerjax.models import cache

    monkeypatch.setattr(cache, "head_width", lambda head_dim, platform: 128)
    padded = job(range(10))
    expected = by_chain(reference)
    assert len(padded) == 20
    for c in padded:
        same_chain = expected[c.id, c.sample_index]
        assert c.tokens == same_chain.tokens
        np.testing.assert_allclose(c.log_probs, same_chain.log_probs, atol=1e-4)


def test_one_trace_per_shape(tiny_qwen, prompts):
    """A sweep over alpha, temperature, steps, blocks, seeds and stop rules compiles nothing new."""
    jax.clear_caches()
    chex.clear_trace_counter()
    original = slots._step
    counted = chex.assert_max_traces(n=1)(lambda *a: original(*a))
    shape = dict(max_new_tokens=16, num_slots=8, progress=False)
    try:
        slots._step = counted
        for alpha, steps, stop in ((1.0, 0, "eos"), (2.0, 2, "horizon"), (4.0, 3, "eos")):
            law = dict(alpha=alpha, num_mcmc_steps=steps, stop=stop, block_size=5 + steps)
            sample.power(tiny_qwen, prompts[:9], seed=steps, **law, **shape)
        sample.standard(tiny_qwen, prompts[:9], **shape)
    finally:
        slots._step = original


def test_greedy_top_k_one_is_the_argmax_path(tiny_qwen, prompts):
    out = sample.standard(tiny_qwen, prompts[:3], top_k=1, max_new_tokens=10, progress=False)
    for c in out:
        row = [*prompts[c.prompt_index], *c.tokens]
        best = np.argmax(tiny_qwen.logits(np.array([row]))[0], -1)
        assert c.tokens == best[len(prompts[c.prompt_index]) - 1 : -1].tolist()


def test_the_loop_copies_no_cache(tiny_qwen):
    """The compiled loop updates both caches in place: the program has no copy of either."""
    settings = mh.settings(
        2.0, block_size=8, num_mcmc_steps=2, max_new_tokens=24, stop_ids=tiny_qwen.stop_ids
    )
    program, state = compiled.slot_loop(tiny_qwen, settings, num_slots=6, window=48)
    shape = ",".join(map(str, state.cache.k[0].shape))
    assert f"f32[{shape}]" in program
    assert not re.findall(rf"= f32\[{shape}\]\S* copy\(", program)
