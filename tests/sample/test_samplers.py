"""The samplers as a user calls them: results, records, best of n, mistakes."""

import dataclasses
import json

import numpy as np
import pytest

from powerjax import sample

SMALL = dict(max_new_tokens=12, num_slots=8, progress=False)
PROMPTS = [[5, 6, 7], [9], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36]]


@pytest.fixture(scope="module")
def completions(tiny_qwen):
    return sample.power(
        tiny_qwen,
        PROMPTS,
        block_size=6,
        num_mcmc_steps=2,
        num_samples=2,
        ids=["a", "b", "c"],
        **SMALL,
    )


def test_completions_behave_as_a_sequence_and_print(completions):
    assert len(completions) == 6 and completions[-1].id == "c"
    assert [c.sample_index for c in completions[:2]] == [0, 1]
    assert "6 completions" in repr(completions) and "<table>" in completions._repr_html_()
    assert completions.stats.model_steps > 0 and completions.stats.wall_s > 0


def test_records_hold_every_field_and_survive_json(completions):
    records = completions.to_records(task="demo")
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    wanted = {
        "id",
        "task",
        "problem_id",
        "model",
        "sampler",
        "alpha",
        "temperature",
        "seed",
        "sample_index",
        "completion",
        "tokens",
        "log_probs",
        "log_prob",
        "num_tokens",
        "self_reward",
        "finish_reason",
        "block_size",
        "num_mcmc_steps",
        "stop",
        "kernel",
        "acceptance_rate",
        "num_forward_tokens",
        "num_early_rejections",
    }
    assert wanted <= set(records[0])
    assert records[3]["id"] == "demo/b/tiny_qwen/power/0/1"
    assert len({r["id"] for r in records}) == 6


def test_the_same_seed_gives_the_same_and_another_another(tiny_qwen, completions):
    again, other = (
        sample.power(
            tiny_qwen,
            PROMPTS,
            block_size=6,
            num_mcmc_steps=2,
            num_samples=2,
            ids=["a", "b", "c"],
            seed=s,
            **SMALL,
        )
        for s in (0, 1)
    )
    assert [c.tokens for c in again] == [c.tokens for c in completions]
    assert [c.tokens for c in other] != [c.tokens for c in completions]


def test_best_of_n_keeps_all_and_marks_the_largest_self_reward(tiny_qwen):
    out = sample.best_of_n(
        tiny_qwen, PROMPTS, n=5, sampler=sample.temperature, temperature=0.5, **SMALL
    )
    assert len(out) == 15
    for p in range(3):
        mine = [c for c in out if c.prompt_index == p]
        chosen = [c for c in mine if c.chosen]
        assert len(chosen) == 1
        assert chosen[0].self_reward == max(c.self_reward for c in mine)


def test_finished_chains_are_handed_over_and_skipped_ones_left_out(tiny_qwen, completions):
    seen = []
    out = sample.power(
        tiny_qwen,
        PROMPTS,
        block_size=6,
        num_mcmc_steps=2,
        num_samples=2,
        ids=["a", "b", "c"],
        on_finish=seen.append,
        skip=lambda p, s: (p, s) in {(0, 1), (2, 0)},
        **SMALL,
    )
    assert sorted((c.prompt_index, c.sample_index) for c in seen) == [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 1),
    ]
    kept = {(c.id, c.sample_index): c.tokens for c in completions}
    assert all(kept[c.id, c.sample_index] == c.tokens for c in out)
    nothing = sample.power(tiny_qwen, PROMPTS, skip=lambda p, s: True, **SMALL)
    assert len(nothing) == 0 and "none" in repr(nothing) and nothing._repr_html_()


def test_power_inf_never_lowers_the_log_likelihood(tiny_qwen):
    start = sample.temperature(tiny_qwen, PROMPTS, temperature=0.5, num_samples=4, **SMALL)
    end = sample.power_inf(
        tiny_qwen, PROMPTS, temperature=0.5, num_mcmc_steps=6, num_samples=4, block_size=12, **SMALL
    )
    # one stage begins with the very draws of plain temperature sampling
    assert all(b.log_prob >= a.log_prob - 1e-5 for a, b in zip(start, end, strict=True))
    assert any(b.log_prob > a.log_prob for a, b in zip(start, end, strict=True))
    assert end.to_records()[0]["alpha"] == "inf"


def test_top_k_restricts_every_token(tiny_qwen):
    out = sample.power(
        tiny_qwen,
        PROMPTS,
        alpha=1.5,
        top_k=3,
        num_mcmc_steps=3,
        block_size=12,
        num_samples=3,
        **SMALL,
    )
    for c in out:
        row = list(PROMPTS[c.prompt_index])
        logits = np.asarray(tiny_qwen.logits(np.array([row + c.tokens])))[0]
        for t, token in enumerate(c.tokens):
            ahead = logits[len(row) + t - 1]
            assert (ahead > ahead[token]).sum() < 3


def test_the_published_rule_runs_and_never_lengthens(tiny_qwen):
    base = sample.temperature(tiny_qwen, PROMPTS, temperature=0.25, num_samples=4, **SMALL)
    out = sample.power(
        tiny_qwen,
        PROMPTS,
        kernel="karan2026",
        block_size=12,
        num_samples=4,
        num_mcmc_steps=4,
        **SMALL,
    )
    assert all(b.num_tokens <= a.num_tokens for a, b in zip(base, out, strict=True))
    assert out.stats.moves_rejected_early == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(alpha=0.5), "alpha is 0.5"),
        (dict(alpha=float("inf")), "power_inf"),
        (dict(temperature=0.0), "temperature is 0"),
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
