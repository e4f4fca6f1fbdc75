"""Chains in slots: alone = in a batch, early rejection on = off, cost = counted, one trace."""

import math
import re

import chex
import jax
import numpy as np
import pytest

from powerjax import sample
from powerjax.sample import draws, mh, slots
from tests.sample.edges import margin, next_logits

OPTIONS = dict(
    alpha=2.0,
    block_size=12,
    num_mcmc_steps=4,
    max_new_tokens=30,
    stop="horizon",
    num_samples=2,
    progress=False,
    seed=3,
)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 97, n).tolist() for n in rng.integers(1, 40, 40)]


@pytest.fixture(scope="module")
def names(prompts):
    return [f"problem {i}" for i in range(len(prompts))]


@pytest.fixture(scope="module")
def reference(tiny_qwen, prompts, names):
    return sample.power(tiny_qwen, prompts, ids=names, num_slots=16, **OPTIONS)


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
    """The cache is right after every accept and reject: what was booked is what scoring gives."""
    fresh = tiny_qwen.score(
        [prompts[c.prompt_index] for c in reference], [c.tokens for c in reference]
    )
    worst = max(np.abs(a - c.log_probs).max() for a, c in zip(fresh, reference, strict=True))
    record_property("max |booked - fresh log_prob|", float(worst))
    assert worst < 2e-4


def test_other_neighbours_and_order_change_no_bit(tiny_qwen, prompts, names, reference):
    expected = by_chain(reference)
    order = np.random.default_rng(1).permutation(len(prompts))
    shuffled = sample.power(
        tiny_qwen,
        [prompts[i] for i in order],
        ids=[names[i] for i in order],
        num_slots=16,
        **OPTIONS,
    )
    few = sample.power(tiny_qwen, prompts[7:12], ids=names[7:12], num_slots=16, **OPTIONS)
    rest = sample.power(
        tiny_qwen, prompts, ids=names, num_slots=16, skip=lambda p, s: (p + s) % 3 > 0, **OPTIONS
    )
    for out in (shuffled, few, rest):
        for c in out:
            assert same(c, expected[c.id, c.sample_index])
    assert len(rest) < len(reference)


def test_early_rejection_changes_no_token(tiny_qwen, prompts, names, reference):
    off = sample.power(
        tiny_qwen, prompts, ids=names, num_slots=16, early_rejection=False, **OPTIONS
    )
    assert all(same(a, b) for a, b in zip(off, reference, strict=True))
    assert off.stats.moves_accepted == reference.stats.moves_accepted
    assert off.stats.moves_rejected_early == 0 < reference.stats.moves_rejected_early
    assert reference.stats.num_forward_tokens < off.stats.num_forward_tokens


def test_early_rejection_changes_no_token_of_power_inf(tiny_qwen, prompts):
    options = dict(
        temperature=0.5,
        block_size=12,
        num_mcmc_steps=4,
        max_new_tokens=30,
        num_slots=16,
        progress=False,
    )
    on, off = (
        sample.power_inf(tiny_qwen, prompts, early_rejection=e, **options) for e in (True, False)
    )
    assert all(same(a, b) for a, b in zip(on, off, strict=True))
    assert on.stats.num_forward_tokens < off.stats.num_forward_tokens


@pytest.mark.parametrize("num_slots", [1, 4, 24, 64])
def test_other_numbers_of_slots_differ_only_at_a_boundary(
    tiny_qwen, prompts, names, reference, num_slots, record_property
):
    few = slice(0, 6) if num_slots == 1 else slice(None)
    out = sample.power(tiny_qwen, prompts[few], ids=names[few], num_slots=num_slots, **OPTIONS)
    expected = by_chain(reference)
    different = [c for c in out if c.tokens != expected[c.id, c.sample_index].tokens]
    record_property(f"chains that differ from 16 slots, of {len(out)}", len(different))
    assert len(different) <= 2
    settings = mh.settings(
        2.0,
        block_size=12,
        num_mcmc_steps=4,
        max_new_tokens=30,
        stop_ids=tiny_qwen.stop_ids,
        stop="horizon",
    )
    for c in different:
        key = draws.chain_keys(3, [c.id], [c.sample_index])[0]
        assert margin(tiny_qwen, prompts[c.prompt_index], key, settings) < 1


def test_a_chain_driven_by_hand_is_the_chain_in_the_slots(tiny_qwen, prompts, names, reference):
    """Its tokens, and every count that is reported."""
    settings = mh.settings(
        2.0,
        block_size=12,
        num_mcmc_steps=4,
        max_new_tokens=30,
        stop_ids=tiny_qwen.stop_ids,
        stop="horizon",
    )
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
        alone = sample.power(
            tiny_qwen,
            [prompts[problem]],
            ids=[names[problem]],
            num_slots=1,
            skip=lambda p, s: s == 0,
            **OPTIONS,
        )
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
    """Every slot-step while prompts wait moves a chain; counted against the chains' own tokens."""
    out = sample.standard(tiny_qwen, prompts * 5, max_new_tokens=8, num_slots=16, progress=False)
    stats = out.stats
    busy = sum(c.num_forward_tokens for c in out) / (stats.model_steps * stats.slots_an_engine)
    record_property(
        "occupancy while prompts wait, and over the whole run",
        (stats.slot_occupancy, round(busy, 3)),
    )
    assert stats.slot_occupancy > 0.9 and busy > 0.8


def test_a_part_of_a_job_runs_in_the_shapes_of_the_whole(tiny_qwen, prompts, names):
    """Left out by skip, the longest prompt still sets the cache's length: no bit changes."""
    long = [*prompts[:8], list(range(1, 91)) * 3]
    options = dict(
        alpha=2.0,
        block_size=12,
        num_mcmc_steps=2,
        max_new_tokens=24,
        num_slots=8,
        progress=False,
        ids=[*names[:8], "long"],
    )
    whole = by_chain(sample.power(tiny_qwen, long, **options))
    part = sample.power(tiny_qwen, long, skip=lambda p, s: p == 8, **options)
    assert len(part) == 8 and all(same(c, whole[c.id, c.sample_index]) for c in part)


def test_longer_caches_change_nothing(tiny_qwen, prompts, names, monkeypatch):
    """A cache that grows under the chains gives the tokens of one that was long from the start."""
    from powerjax.sample import shapes

    options = dict(
        alpha=2.0,
        block_size=40,
        num_mcmc_steps=3,
        max_new_tokens=80,
        num_slots=8,
        progress=False,
        ids=names[:10],
    )
    long = sample.power(tiny_qwen, prompts[:10], **options)
    monkeypatch.setattr(shapes, "_MIN_WINDOW", 16)
    grown = sample.power(tiny_qwen, prompts[:10], **options)
    assert [c.tokens for c in grown] == [c.tokens for c in long]
    for a, b in zip(grown, long, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)


def test_a_cache_as_a_tpu_lays_it_out_changes_nothing(
    tiny_qwen, prompts, names, reference, monkeypatch
):
    """Heads of 8 in 128 lanes: the moves, undone and kept, and prompts copied into slots."""
    from powerjax.models import cache

    monkeypatch.setattr(cache, "head_width", lambda head_dim, platform: 128)
    found = sample.power(tiny_qwen, prompts[:10], ids=names[:10], num_slots=16, **OPTIONS)
    expected = by_chain(reference)
    assert len(found) == 20
    for c in found:
        same_chain = expected[c.id, c.sample_index]
        assert c.tokens == same_chain.tokens
        np.testing.assert_allclose(c.log_probs, same_chain.log_probs, atol=1e-4)


def test_one_trace_per_shape(tiny_qwen, prompts):
    """A sweep over alpha, temperature, steps, blocks, seeds and stop rules compiles nothing new."""
    jax.clear_caches()
    chex.clear_trace_counter()
    original = slots._step
    counted = chex.assert_max_traces(n=1)(lambda *a: original(*a))
    try:
        slots._step = counted
        for alpha, steps, stop in ((1.0, 0, "eos"), (2.0, 2, "horizon"), (4.0, 3, "eos")):
            sample.power(
                tiny_qwen,
                prompts[:9],
                alpha=alpha,
                num_mcmc_steps=steps,
                stop=stop,
                block_size=5 + steps,
                max_new_tokens=16,
                num_slots=8,
                seed=steps,
                progress=False,
            )
        sample.standard(tiny_qwen, prompts[:9], max_new_tokens=16, num_slots=8, progress=False)
    finally:
        slots._step = original


def test_greedy_top_k_one_is_the_argmax_path(tiny_qwen, prompts):
    out = sample.standard(tiny_qwen, prompts[:3], top_k=1, max_new_tokens=10, progress=False)
    for c in out:
        row = [*prompts[c.prompt_index], *c.tokens]
        best = np.argmax(tiny_qwen.logits(np.array([row]))[0], -1)
        assert c.tokens == best[len(prompts[c.prompt_index]) - 1 : -1].tolist()


def test_the_loop_copies_no_cache(tiny_qwen):
    """The compiled loop updates both caches in place: no copy of one stands in the program."""
    from powerjax.models.cache import init_cache

    settings = mh.settings(
        2.0, block_size=8, num_mcmc_steps=2, max_new_tokens=24, stop_ids=tiny_qwen.stop_ids
    )
    state = slots.init(tiny_qwen.config, 6, 48, 24, settings, tiny_qwen.dtype)
    one = np.zeros(12, np.int32)
    queue = slots.Queue(
        prefix=init_cache(tiny_qwen.config, 4, 16),
        prefix_row=one,
        prompt_length=one,
        prompt_last=one,
        key=np.zeros((12, 2), np.uint32),
        request=one,
        size=np.int32(0),
    )
    program = (
        slots.run.lower(
            tiny_qwen.model(),
            tiny_qwen.variables,
            state,
            queue,
            settings,
            np.int32(1),
            np.bool_(False),
        )
        .compile()
        .as_text()
    )
    shape = ",".join(map(str, state.cache.k[0].shape))
    assert f"f32[{shape}]" in program
    assert not re.findall(rf"= f32\[{shape}\]\S* copy\(", program)
