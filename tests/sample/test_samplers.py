"""The samplers as a user calls them: results, records, best of n, and mistakes."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest

from powerjax import evaluation, models, sample
from powerjax.models.config import RopeConfig
from tests import tiny
from tests.golden import cases

SMALL = dict(max_new_tokens=12, num_slots=8, progress=False)
STAGED = dict(block_size=6, num_mcmc_steps=2, num_samples=2, ids=["a", "b", "c"], **SMALL)
PROMPTS = [[5, 6, 7], [9], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36]]


@pytest.fixture(scope="module")
def completions(tiny_qwen):
    return sample.power(tiny_qwen, PROMPTS, **STAGED)


def test_completions_behave_as_a_sequence_and_print(completions):
    assert len(completions) == 6 and completions[-1].id == "c"
    assert [c.sample_index for c in completions[:2]] == [0, 1]
    assert "6 completions" in repr(completions) and "<table>" in completions._repr_html_()
    assert "(alpha 4, temperature 0.25, 2 steps" in repr(completions)
    assert completions.stats.model_steps > 0 and completions.stats.wall_s > 0


def test_records_hold_every_field_and_survive_json(completions):
    records = completions.to_records(task="demo")
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    names = (
        "id task problem_id model sampler seed sample_index completion tokens log_probs log_prob"
    )
    names += " log_prob num_tokens self_reward finish_reason acceptance_rate num_forward_tokens"
    names += " num_early_rejections alpha temperature block_size num_mcmc_steps stop kernel top_k"
    names += " max_new_tokens prompt_style dtype adapter weights"
    assert set(names.split()) <= set(records[0])
    assert re.fullmatch(r"demo/b/tiny_qwen/power-[0-9a-f]{8}/0/1", records[3]["id"])
    assert len({r["id"] for r in records}) == 6


def _first(sampler, lm, **changed):
    """The first record of a short run."""
    options = dict(ids=["a"], **SMALL) | changed
    return sampler(lm, [[5, 6, 7]], **options).to_records()[0]


def test_what_changes_the_law_is_in_the_record_and_its_id(tiny_qwen):
    power = functools.partial(sample.power, block_size=6, num_mcmc_steps=2)
    adapter = dict(adapter_name="runs/a/adapter")
    records = [
        _first(power, tiny_qwen),
        _first(power, tiny_qwen, top_k=20),
        _first(power, tiny_qwen, max_new_tokens=9),
        _first(power, tiny_qwen, stop="horizon"),
        _first(power, tiny_qwen, kernel="karan2026"),
        _first(power, tiny_qwen, temperature=0.5),
        _first(power, dataclasses.replace(tiny_qwen, weights="random-3")),
        _first(power, dataclasses.replace(tiny_qwen, **adapter)),
    ]
    assert len({record["id"] for record in records}) == len(records)
    rows = evaluation.rows(records)
    assert [result.summary.num_problems for result in rows] == [1] * len(records)
    assert (records[1]["top_k"], records[0]["top_k"]) == (20, None)
    assert (records[2]["max_new_tokens"], records[0]["max_new_tokens"]) == (9, 12)
    assert records[-1]["adapter"] == "runs/a/adapter" and records[0]["dtype"] == "float32"
    assert records[-2]["weights"] == "random-3" and records[0]["prompt_style"] == "raw"


def test_what_does_not_change_the_law_leaves_the_id_as_it_is(tiny_qwen):
    power = functools.partial(sample.power, block_size=6, num_mcmc_steps=2, alpha=3.0)
    same = [
        _first(power, tiny_qwen),
        _first(power, tiny_qwen, temperature=1 / 3),
        _first(power, tiny_qwen, temperature=float(np.float32(1 / 3))),
        _first(power, tiny_qwen, alpha=3),
        _first(power, tiny_qwen, num_slots=4),
        _first(power, tiny_qwen, early_rejection=False),
        _first(power, dataclasses.replace(tiny_qwen, attention="xla")),
    ]
    assert {record["id"] for record in same} == {same[0]["id"]}
    assert {tuple(record["tokens"]) for record in same} == {tuple(same[0]["tokens"])}


def test_records_of_numpy_settings_are_plain_json(tiny_qwen):
    numbers = dict(block_size=np.int64(6), num_mcmc_steps=np.int32(2), top_k=np.int64(20))
    numbers |= dict(max_new_tokens=np.int64(12), num_slots=8, progress=False)
    record = sample.power(
        tiny_qwen, [[5, 6, 7]], alpha=np.float32(4), ids=[np.int64(7)], **numbers
    ).to_records()[0]
    assert json.loads(json.dumps(record)) == record
    plain = {name: int(value) for name, value in numbers.items() if name != "progress"}
    again = sample.power(tiny_qwen, [[5, 6, 7]], ids=[7], progress=False, **plain).to_records()[0]
    assert record == again


def test_the_same_seed_gives_the_same_and_another_another(tiny_qwen, completions):
    again, other = (sample.power(tiny_qwen, PROMPTS, seed=seed, **STAGED) for seed in (0, 1))
    assert [c.tokens for c in again] == [c.tokens for c in completions]
    assert [c.tokens for c in other] != [c.tokens for c in completions]


def test_best_of_n_keeps_all_and_marks_the_largest_self_reward(tiny_qwen):
    out = sample.best_of_n(
        tiny_qwen, PROMPTS, n=5, sampler=sample.temperature, temperature=0.5, **SMALL
    )
    assert len(out) == 15
    for p in range(3):
        candidates = [c for c in out if c.prompt_index == p]
        chosen = [c for c in candidates if c.chosen]
        assert len(chosen) == 1
        assert chosen[0].self_reward == max(c.self_reward for c in candidates)


def test_finished_chains_are_handed_over_and_skipped_ones_left_out(tiny_qwen, completions):
    seen = []
    out = sample.power(
        tiny_qwen,
        PROMPTS,
        on_finish=seen.append,
        skip=lambda p, s: (p, s) in {(0, 1), (2, 0)},
        **STAGED,
    )
    chains = sorted((c.prompt_index, c.sample_index) for c in seen)
    assert chains == [(0, 0), (1, 0), (1, 1), (2, 1)]
    tokens = {(c.id, c.sample_index): c.tokens for c in completions}
    assert all(tokens[c.id, c.sample_index] == c.tokens for c in out)
    nothing = sample.power(tiny_qwen, PROMPTS, skip=lambda p, s: True, **SMALL)
    assert len(nothing) == 0 and "none" in repr(nothing) and nothing._repr_html_()


def test_power_inf_never_lowers_the_log_likelihood(tiny_qwen):
    start = sample.temperature(tiny_qwen, PROMPTS, temperature=0.5, num_samples=4, **SMALL)
    end = sample.power_inf(
        tiny_qwen, PROMPTS, temperature=0.5, num_mcmc_steps=6, num_samples=4, block_size=12, **SMALL
    )
    # A run of one stage begins with the draws of plain temperature sampling.
    assert all(b.log_prob >= a.log_prob - 1e-5 for a, b in zip(start, end, strict=True))
    assert any(b.log_prob > a.log_prob for a, b in zip(start, end, strict=True))
    assert end.to_records()[0]["alpha"] == "inf"


def test_top_k_restricts_every_token(tiny_qwen):
    law = dict(alpha=1.5, top_k=3, num_mcmc_steps=3, block_size=12)
    out = sample.power(tiny_qwen, PROMPTS, num_samples=3, **law, **SMALL)
    for c in out:
        row = list(PROMPTS[c.prompt_index])
        logits = np.asarray(tiny_qwen.logits(np.array([row + c.tokens])))[0]
        for t, token in enumerate(c.tokens):
            ahead = logits[len(row) + t - 1]
            assert (ahead > ahead[token]).sum() < 3


def test_the_published_rule_runs_and_never_lengthens(tiny_qwen):
    base = sample.temperature(tiny_qwen, PROMPTS, temperature=0.25, num_samples=4, **SMALL)
    law = dict(kernel="karan2026", block_size=12, num_mcmc_steps=4)
    out = sample.power(tiny_qwen, PROMPTS, num_samples=4, **law, **SMALL)
    assert all(b.num_tokens <= a.num_tokens for a, b in zip(base, out, strict=True))
    assert out.stats.moves_rejected_early == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(alpha=0.5), "alpha is 0.5"),
        (dict(alpha=float("inf")), "power_inf"),
        (dict(temperature=0.0), "temperature is 0"),
        (dict(num_samples=2.0), "num_samples is 2.0"),
        (dict(seed=1.5), "seed is 1.5"),
        (dict(ids=["a", "b", ["c"]]), "neither a string"),
        (dict(block_size=0), "block_size is 0"),
        (dict(num_mcmc_steps=-1), "num_mcmc_steps is -1"),
        (dict(num_samples=0), "num_samples is 0"),
        (dict(top_k=0), "top_k is 0"),
        (dict(stop="never"), "stop must be"),
        (dict(kernel="fast"), "kernel must be"),
        (dict(ids=["a", "b"]), "2 ids for 3 prompts"),
        (dict(ids=["a", "b", "a"]), "'a' names two prompts"),
        (dict(max_new_tokens=600), "prompt 0"),
    ],
)
def test_mistakes_get_one_line_that_names_them(tiny_qwen, options, words):
    with pytest.raises(ValueError) as error:
        sample.power(tiny_qwen, PROMPTS, **{**SMALL, **options})
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "prompts is empty"),
        ([[1], []], "prompt 1 is empty"),
        ([[500]], "token id 500"),
        ("one string", "one string"),
        (["text"], "no tokenizer"),
    ],
)
def test_bad_prompts_get_one_line(tiny_qwen, prompts, words):
    with pytest.raises(ValueError) as error:
        sample.standard(tiny_qwen, prompts, **SMALL)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_eos_is_named(tiny_qwen):
    endless = dataclasses.replace(tiny_qwen, stop_ids=())
    with pytest.raises(ValueError, match="names no EOS token"):
        sample.standard(endless, PROMPTS, **SMALL)
    fixed = dataclasses.replace(tiny_qwen, stop_ids=(-1,))
    out = sample.standard(fixed, PROMPTS, **SMALL)
    assert {c.num_tokens for c in out} == {12} and {c.finish_reason for c in out} == {"length"}


def test_any_of_several_stop_ids_ends_a_completion(tiny_qwen):
    several = dataclasses.replace(tiny_qwen, stop_ids=(0, 5, 9, 31, 77))
    out = sample.power(several, PROMPTS, num_mcmc_steps=2, num_samples=16, **SMALL)
    ends = [c.tokens[-1] for c in out if c.finish_reason == "eos"]
    assert len(set(ends)) > 2 and set(ends) <= set(several.stop_ids)
    assert not any(set(c.tokens[:-1]) & set(several.stop_ids) for c in out)


def test_a_model_whose_logits_are_not_finite_is_named(tiny_qwen):
    import jax

    broken = dataclasses.replace(
        tiny_qwen, params=jax.tree.map(lambda x: x * np.float32("nan"), tiny_qwen.params)
    )
    with pytest.raises(ValueError, match="logits are not finite"):
        sample.standard(broken, PROMPTS, **SMALL)


def test_bfloat16_weights_keep_float32_books(tiny_qwen):
    import jax
    import jax.numpy as jnp

    half = dataclasses.replace(
        tiny_qwen,
        dtype=jnp.bfloat16,
        params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny_qwen.params),
    )
    out = sample.power(half, PROMPTS, block_size=6, num_mcmc_steps=3, **SMALL)
    assert all(c.log_probs.dtype == np.float32 for c in out)
    scored = half.score([PROMPTS[c.prompt_index] for c in out], [c.tokens for c in out])
    for c, fresh in zip(out, scored, strict=True):
        np.testing.assert_allclose(c.log_probs, fresh, atol=0.1)  # bfloat16 decode and prefill


@pytest.mark.full
def test_longrope_prompts_choose_their_factors_by_their_own_length():
    rope = RopeConfig(
        kind="longrope",
        short_factor=(1.0, 1.1, 1.2, 1.3),
        long_factor=(1.0, 3.0, 9.0, 20.0),
        original_max_position_embeddings=32,
    )
    sizes = dict(vocab_size=61, intermediate_size=48, num_layers=1, num_kv_heads=4)
    phi3 = dict(architecture="Phi3ForCausalLM", qkv_bias=False, tie_word_embeddings=False)
    lm = tiny.random_lm(tiny.config(rope=rope, **sizes, **phi3), seed=0)
    prompts = [[5] * 4, [7] * 30, [9] * 6, [3] * 40]
    out = sample.power(lm, prompts, num_mcmc_steps=2, block_size=6, **SMALL)
    for c in out:
        long = len(prompts[c.prompt_index]) > 20
        fresh = lm.score([prompts[c.prompt_index]], [c.tokens], long_context=long)[0]
        other = lm.score([prompts[c.prompt_index]], [c.tokens], long_context=not long)[0]
        assert np.abs(fresh - c.log_probs).max() < 2e-4 < np.abs(other - c.log_probs).max()
    alone = sample.power(lm, prompts[:1], num_mcmc_steps=2, block_size=6, **SMALL)
    assert alone[0].tokens == out[0].tokens


@pytest.mark.full
def test_chains_of_a_model_with_windows_have_the_log_probs_of_a_fresh_pass():
    """One layer has a window of 6 and a rotation of its own, one sees everything."""
    gemma = dict(architecture="Gemma3ForCausalLM", qkv_bias=False, sliding_window=6)
    gemma |= dict(tie_word_embeddings=False)  # tied random weights repeat one token
    local = dict(local_rope=RopeConfig(theta=100.0), full_layers=(1,))
    lm = tiny.random_lm(tiny.config(**gemma, **local), seed=0)
    out = sample.power(lm, PROMPTS, num_mcmc_steps=4, block_size=6, **SMALL)
    fresh = lm.score([PROMPTS[c.prompt_index] for c in out], [c.tokens for c in out])
    everything = dataclasses.replace(
        lm, config=tiny.config(**gemma | local | {"full_layers": (0, 1)})
    )
    other = everything.score([PROMPTS[c.prompt_index] for c in out], [c.tokens for c in out])
    assert any(0 < c.acceptance_rate < 1 for c in out)
    for c, same, changed in zip(out, fresh, other, strict=True):
        np.testing.assert_allclose(c.log_probs, same, atol=2e-4)
        assert np.abs(c.log_probs - changed).max() > 1e-2


@pytest.mark.full
@pytest.mark.parametrize("case", ["llama3", "qwen3", "mistral_window", "gemma3", "olmo2"])
def test_chains_of_every_family_have_the_log_probs_of_a_fresh_pass(case, tmp_path):
    lm = models.load(cases.write_checkpoint(case, tmp_path), dtype="float32")
    lm = dataclasses.replace(lm, stop_ids=(0,))
    out = sample.power(lm, PROMPTS, num_mcmc_steps=4, block_size=6, **SMALL)
    assert any(0 < c.acceptance_rate < 1 for c in out)
    fresh = lm.score([PROMPTS[c.prompt_index] for c in out], [c.tokens for c in out])
    for c, same in zip(out, fresh, strict=True):
        np.testing.assert_allclose(c.log_probs, same, atol=2e-4)


def test_slots_are_picked_to_fit_the_memory(tiny_qwen, monkeypatch):
    from powerjax.sample import memory

    monkeypatch.setattr(memory, "free_bytes", lambda device: 4_000_000)
    few = memory.pick_num_slots(tiny_qwen, 100, 400, 1000)
    assert few % 8 == 0
    cache = (
        2 * 2 * 2 * 8 * 4 * (2 * 500 + 2 * 128)
    )  # k and v, layers, kv heads, head dim, bytes per number, then slots
    assert 1 <= few < 64 and few * cache < 4_000_000 < 4 * few * (cache + 3000)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    assert memory.pick_num_slots(tiny_qwen, 100, 400, 1000) == 64
    assert memory.pick_num_slots(tiny_qwen, 100, 400, 3) == 4
    assert memory.pick_num_slots(tiny_qwen, 100, 400, 33) == 40
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert memory.pick_num_slots(tiny_qwen, 100, 400, 1000) == 8


def test_an_error_while_a_record_is_written_stops_the_run_and_loses_no_other(tiny_qwen):
    """What finished is handed over, by one engine (4 slots) and by two in threads (16)."""
    for num_slots in (4, 16):
        seen = []

        def record(completion, seen=seen):
            seen.append(completion)
            if len(seen) == 3:
                raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            options = {**SMALL, "num_slots": num_slots, "num_samples": 400}
            sample.standard(tiny_qwen, PROMPTS, on_finish=record, **options)
        assert 3 <= len(seen) < 1200
