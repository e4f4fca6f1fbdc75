"""Records to numbers: means and spreads, Best-of-n, votes, pass@k, prices, rows."""

import itertools

import numpy as np
import pytest

from powerjax import evaluation
from powerjax.evaluation import estimates


def _record(problem, sample, reward, correct=None, **fields):
    sampler, seed = fields.get("sampler", "power"), fields.get("seed", 0)
    return {
        "id": f"math500/{problem}/m/{sampler}/{seed}/{sample}",
        "problem_id": problem,
        "model": "m",
        "sampler": "power",
        "seed": 0,
        "sample_index": sample,
        "self_reward": reward,
        "correct": correct,
        "num_tokens": 4,
        "num_forward_tokens": 8,
        "finish_reason": "eos",
        **fields,
    }


def _records(correct):
    """{problem: [verdicts]} as records."""
    return [
        _record(name, i, -1.0 - i, right)
        for name, verdicts in correct.items()
        for i, right in enumerate(verdicts)
    ]


def test_a_paired_difference_is_over_problems_both_have():
    ours = _records({"a": [True, True], "b": [True, False], "c": [True], "d": [None]})
    theirs = _records({"a": [False, True], "b": [False, False, False], "e": [True], "d": [True]})
    gap = evaluation.paired_difference(ours, theirs)
    assert gap.mean == pytest.approx(0.5) and gap.low == gap.high == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no problem in common"):
        evaluation.paired_difference(ours, _records({"f": [True]}))


def test_pairing_takes_out_what_the_problems_share():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    theirs = _records({str(i): [bool(h > 0.5)] for i, h in enumerate(hard)})
    ours = _records({str(i): [bool(h > 0.45)] for i, h in enumerate(hard)})
    gap = evaluation.paired_difference(ours, theirs)
    expected = np.mean((hard > 0.45) & (hard <= 0.5))
    assert gap.mean == pytest.approx(expected)
    se = np.sqrt(expected * (1 - expected) / 400)
    assert gap.low == pytest.approx(expected - 1.96 * se, abs=0.3 * se)
    assert gap.high == pytest.approx(expected + 1.96 * se, abs=0.3 * se)


@pytest.mark.parametrize("n, num_right", [(1, 0), (4, 1), (5, 3), (6, 6)])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_one(n, num_right):
    verdicts = [True] * num_right + [False] * (n - num_right)
    for k in range(1, n + 1):
        choices = [any(choice) for choice in itertools.combinations(verdicts, k)]
        assert estimates.pass_at_k(n, num_right, k) == pytest.approx(np.mean(choices))
    summary = evaluation.summarize(
        _records({"a": verdicts, "b": verdicts}), pass_at=range(1, n + 2)
    )
    assert list(summary.pass_at) == list(range(1, n + 1))
    assert summary.pass_at[1].mean == pytest.approx(summary.accuracy.mean)
    assert summary.pass_at[n].mean == bool(num_right)


def test_pass_at_k_leaves_out_problems_with_fewer_completions():
    summary = evaluation.summarize(_records({"a": [True, False, False, False], "b": [True, True]}))
    assert set(summary.pass_at) == {1, 2}
    assert summary.pass_at[2].mean == pytest.approx((0.5 + 1) / 2)
    summary = evaluation.summarize(_records({"a": [True, False, False], "b": [True]}), pass_at=[3])
    assert summary.pass_at[3].mean == 1.0


def test_best_of_n_is_the_mean_over_choices_of_n():
    rng = np.random.default_rng(1)
    rewards, right = rng.normal(size=(3, 5)), rng.random((3, 5)) < 0.5
    records = [
        _record(f"p{i}", j, rewards[i, j], bool(right[i, j])) for i in range(3) for j in range(5)
    ]
    priced = evaluation.best_of(records)
    assert [each.n for each in priced] == [1, 2, 3, 4, 5]
    for each in priced:
        choices = list(itertools.combinations(range(5), each.n))
        best = [
            max(choice, key=lambda j, i=i: rewards[i, j]) for i in range(3) for choice in choices
        ]
        rows = np.repeat(np.arange(3), len(choices))
        assert each.accuracy.mean == pytest.approx(right[rows, best].mean())
        assert each.self_reward.mean == pytest.approx(rewards[rows, best].mean())
        assert each.forward_tokens == 8 * each.n
    summary = evaluation.summarize(records)
    assert priced[0].accuracy.mean == pytest.approx(summary.accuracy.mean)
    assert priced[-1].accuracy.mean == pytest.approx(summary.best_of_n_accuracy.mean)
    assert evaluation.within(priced, 7.9) is None
    assert [evaluation.within(priced, price).n for price in (8, 23, 24, 1000)] == [1, 2, 3, 5]


def test_the_majority_is_of_answers_that_mean_the_same():
    half = [r"\frac{1}{2}", r"\dfrac12", "1/2"]
    by_problem = {
        "same": [(a, True) for a in half] + [("3", False)] * 2,
        "wrong": [("7", True), ("3", False), ("3", False)],
        "tied": [("7", True), ("8", False)],
        "silent": [(None, False), ("7", True), (None, False)],
        "mute": [(None, False)],
    }
    for name, answers in by_problem.items():
        records = [
            _record(name, i, -1.0, right, extracted_answer=answer)
            for i, (answer, right) in enumerate(answers)
        ]
        expected = {"same": 1, "wrong": 0, "tied": 0.5, "silent": 1, "mute": 0}[name]
        assert evaluation.summarize(records).majority_accuracy.mean == expected
    programs = [{**record, "grade_detail": {"isolation": "bubblewrap"}} for record in records]
    assert evaluation.summarize(programs).majority_accuracy is None


def test_seeds_and_samples_are_passes():
    right = {(0, 0): [1, 1, 0], (0, 1): [1, 0, 0], (3, 0): [0, 1, 0], (3, 1): [1, 1, 1]}
    records = [
        _record(f"p{i}", sample, -1.0, bool(verdict), seed=seed)
        for (seed, sample), verdicts in right.items()
        for i, verdict in enumerate(verdicts)
    ]
    summary = evaluation.summarize(records)
    assert summary.num_passes == 4
    by_pass = [np.mean(verdicts) for verdicts in right.values()]
    assert summary.accuracy.mean == pytest.approx(np.mean(by_pass))
    assert summary.accuracy.std == pytest.approx(np.std(by_pass, ddof=1))
    assert summary.accuracy.low < summary.accuracy.mean < summary.accuracy.high
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    assert evaluation.summarize(shuffled) == summary


def test_an_interval_is_of_the_problems_that_are_known():
    """Two problems of three are graded, so it is that of a table of these two."""
    rng = np.random.default_rng(3)
    right = {f"p{i:02}": [bool(x)] for i, x in enumerate(rng.random(60) < 0.3)}
    some = dict(list(right.items())[:40])
    ungraded = {name: [None] for name in list(right)[40:]}
    summary = evaluation.summarize(_records({**some, **ungraded}), num_resamples=500)
    assert summary.accuracy == evaluation.summarize(_records(some), num_resamples=500).accuracy


def test_the_evaluated_model_chooses_by_its_own_likelihood():
    records = [
        _record("a", 0, -1.0, False, evaluated_self_reward=-3.0),
        _record("a", 1, -2.0, True, evaluated_self_reward=-1.0),
    ]
    summary = evaluation.summarize(records)
    assert summary.evaluated_self_reward.mean == -2.0
    assert summary.best_of_n_accuracy.mean == 0 and summary.evaluated_best_of_n_accuracy.mean == 1
    plain = evaluation.summarize(_records({"a": [True]}))
    assert plain.evaluated_self_reward is None and plain.evaluated_best_of_n_accuracy is None


def test_rows_are_told_apart_by_what_differs():
    def record(sampler, seed=0, **fields):
        fields = {"alpha": 4.0, "num_mcmc_steps": 10, "sampler": sampler, **fields}
        return _record("a", 0, -1.0, True, seed=seed, **fields)

    records = [
        record("standard"),
        record("power"),
        record("power", seed=1),
        record("power", num_mcmc_steps=30),
        {**record("power"), "id": "math500/a/Qwen/m/power_long/0/0"},
        {**record("power"), "model": "Qwen/m", "id": "math500/a/Qwen/m/power/0/0"},
    ]
    rows = [(r.model, r.sampler, r.summary.num_passes) for r in evaluation.rows(records)]
    assert rows == [
        ("m", "Standard", 1),
        ("m", "Power, N=10", 2),
        ("m", "Power, N=30", 1),
        ("m", "Power long", 1),
        ("Qwen/m", "Power", 1),
    ]


def _names(*settings):
    """The rows' names of records with these settings, each with two seeds."""
    records = [
        _record("a", 0, -1.0, True, seed=seed, **fields) for fields in settings for seed in (0, 1)
    ]
    results = evaluation.rows(records)
    assert all(result.summary.num_passes == 2 for result in results)
    return [result.sampler for result in results]


@pytest.mark.parametrize(
    "field, values, names",
    [
        ("top_k", (None, 20), ["Power, no top_k", "Power, top_k 20"]),
        ("max_new_tokens", (64, 512), ["Power, 64 tokens", "Power, 512 tokens"]),
        ("stop", ("eos", "horizon"), ["Power, stop=eos", "Power, stop=horizon"]),
        ("kernel", ("exact", "karan2026"), ["Power, kernel=exact", "Power, kernel=karan2026"]),
        ("temperature", (0.25, 0.5), ["Power, tau=0.25", "Power, tau=0.5"]),
        ("adapter", ("a/adapter", "b/adapter"), ["Power, adapter a/adapter", None]),
        ("prompt_style", ("raw", "chat"), ["Power, raw prompt", "Power, chat template"]),
        ("dtype", ("float32", "bfloat16"), ["Power, float32", "Power, bfloat16"]),
        ("weights", ("random-0", "random-1"), ["Power, weights random-0", None]),
    ],
)
def test_records_of_two_laws_are_two_rows(field, values, names):
    row_names = _names(*({field: value} for value in values))
    assert len(set(row_names)) == 2
    assert all(name in (None, row) for name, row in zip(names, row_names, strict=True))


def test_records_of_one_law_are_one_row_however_its_numbers_are_written():
    assert _names({"alpha": 4, "temperature": 0.1, "top_k": 20.0}) == ["Power"]
    records = [
        _record("a", 0, -1.0, alpha=4, temperature=0.1),
        _record("a", 0, -1.0, alpha=np.float32(4), temperature=np.float32(0.1), seed=1),
    ]
    assert [result.sampler for result in evaluation.rows(records)] == ["Power"]


def test_records_that_do_not_state_a_setting_are_a_row_of_their_own():
    assert _names({}, {"top_k": None}, {"top_k": 5}) == [
        "Power, settings not recorded",
        "Power, no top_k",
        "Power, top_k 5",
    ]
    assert _names({}, {"top_k": None}) == ["Power, settings not recorded", "Power"]


def test_records_that_make_no_table_are_named():
    with pytest.raises(ValueError, match="no records"):
        evaluation.summarize([])
    lame = _record("a", 0, None, True)
    with pytest.raises(ValueError, match="'math500/a/m/power/0/0' has no self_reward"):
        evaluation.summarize([lame])
    twice = [_record("a", 0, -1.0), {**_record("a", 0, -2.0), "id": "other"}]
    with pytest.raises(ValueError, match="of the same problem, seed and sample"):
        evaluation.summarize(twice)
