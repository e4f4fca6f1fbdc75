"""What traced records say of their chains, and weighed records of their student."""

import json
import math

import numpy as np
import pytest

from powerjax import evaluation
from powerjax.evaluation import diagnostics
from powerjax.evaluation.nearness import nearness
from powerjax.sample import diagnostics as of_arrays
from powerjax.sample.log_weights import LogWeights


def record(problem, sample, log_p=None, **fields):
    """A record of `power` with 100 moves per stage."""
    trace = None
    if log_p is not None:
        n = len(log_p)
        trace = {"log_p": list(log_p), "length": [5] * n, "accepted": [1] * n}
        trace["kind"] = ["base"] * n
    return {
        "id": f"{problem}/{sample}",
        "problem_id": problem,
        "model": "m",
        "sampler": "power",
        "seed": 0,
        "sample_index": sample,
        "self_reward": -1.0,
        "num_tokens": 5,
        "finish_reason": "eos",
        "num_mcmc_steps": 100,
        "trace": trace,
        **fields,
    }


@pytest.fixture(scope="module")
def chains():
    """Of each problem, log p of 16 chains: mixed, half of them elsewhere, and constant."""
    noise = np.random.default_rng(0).normal(size=(16, 100))
    apart = noise + 6 * (np.arange(16) % 2)[:, None]
    return {"mixed": noise, "apart": apart, "constant": np.full((16, 100), -2.0)}


def records_of(chains):
    return [record(name, i, row) for name, rows in chains.items() for i, row in enumerate(rows)]


def test_the_worst_problem_of_a_row(chains):
    (row,) = evaluation.rows(records_of(chains))
    mixing = row.mixing
    assert mixing.rhat["constant"] == 1 and mixing.bulk_ess["constant"] == 1600
    for name in ("mixed", "apart"):
        tied = of_arrays.tied(chains[name])
        assert mixing.rhat[name] == of_arrays.rhat(tied)
        assert mixing.bulk_ess[name] == of_arrays.bulk_ess(tied)
    assert mixing.rhat["mixed"] < 1.05 < mixing.rhat["apart"] == mixing.worst_rhat
    assert mixing.least_bulk_ess == mixing.bulk_ess["apart"] < 100 < mixing.bulk_ess["mixed"]
    assert (mixing.num_known, mixing.num_above) == (3, 1)
    assert json.loads(json.dumps(mixing.numbers()))["rhat"]["constant"] == 1


def test_all_is_within_the_last_stage_that_the_chains_of_a_problem_reached(chains):
    """The first stage of each chain is elsewhere; some chains of one problem go on to a third."""
    moved = {
        name: [[*(row - 50), *row, *([9.0] * 100 if i % 3 == 0 else [])] for i, row in enumerate(x)]
        for name, x in chains.items()
    }
    assert diagnostics.mixing(records_of(moved)).rhat == diagnostics.mixing(records_of(chains)).rhat


def test_few_chains_or_moves_have_no_r_hat_and_no_trace_no_mixing(chains):
    few = diagnostics.mixing(records_of({"mixed": chains["mixed"][:15]}))
    short = [record("a", i, row[:99], num_mcmc_steps=99) for i, row in enumerate(chains["mixed"])]
    for mixing in (few, diagnostics.mixing(short)):
        assert mixing.worst_rhat is None and mixing.least_bulk_ess is None
        assert mixing.num_known == mixing.num_above == 0
    bare = [record("a", 0), record("a", 1, [], num_mcmc_steps=0)]
    assert diagnostics.mixing(bare) is None
    assert evaluation.rows(bare[:1])[0].mixing is None


def test_bands_are_means_over_problems():
    mixing = diagnostics.mixing(
        [record(name, i, [i, 10 * i], num_mcmc_steps=2) for name in "ab" for i in range(21)]
        + [record("c", i, [4.0], num_mcmc_steps=1) for i in range(2)]
    )
    low, median, high = diagnostics.bands(mixing)
    assert low.tolist() == pytest.approx([(1 + 1 + 4) / 3, 10])
    assert median.tolist() == pytest.approx([(10 + 10 + 4) / 3, 100])
    assert high.tolist() == pytest.approx([(19 + 19 + 4) / 3, 190])


@pytest.mark.parametrize("trace", [5, {}, {"log_p": "x"}, {"log_p": [1.0, None]}, {"log_p": 3.0}])
def test_a_trace_that_is_none_names_its_record(trace):
    with pytest.raises(ValueError, match="the record 'a/0': its trace has no list"):
        diagnostics.mixing([record("a", 0, trace=trace)])


def test_a_trace_that_ends_within_a_stage_names_its_problem():
    with pytest.raises(ValueError, match="problem 'a': a chain has 7 moves, and a stage 100"):
        diagnostics.mixing([record("a", 0, [1.0] * 7)])


def weighed(problem, sample, log_p, log_q, tokens=None):
    return record(
        problem,
        sample,
        evaluated_log_prob=log_p,
        log_probs=[log_q / 2, log_q / 2],
        tokens=tokens or [sample, 1],
    )


def test_nearness_is_the_weights_of_each_problem():
    rng = np.random.default_rng(0)
    log_p, log_q = -rng.exponential(size=(2, 50)), -rng.exponential(size=(2, 50))
    records = [
        weighed(name, i, log_p[j, i], log_q[j, i]) for j, name in enumerate("ab") for i in range(50)
    ]
    near = nearness([*records, weighed("single", 0, -1.0, -1.0)], 2.0)
    of_problem = [LogWeights(2 * p - q) for p, q in zip(log_p, log_q, strict=True)]
    assert list(near.weights) == ["a", "b"] and near.fewest == 50
    assert near.ess_fraction == pytest.approx(np.mean([w.ess_fraction for w in of_problem]))
    assert near.kl == pytest.approx(np.mean([w.kl for w in of_problem]))
    assert near.k_hats == pytest.approx([w.k_hat for w in of_problem])
    normalised = np.exp(near.normalised.reshape(2, 50))
    assert normalised.mean(axis=1) == pytest.approx([1, 1])
    numbers = json.loads(json.dumps(near.numbers()))
    assert numbers["problems"]["b"]["n"] == 50
    assert numbers["problems"]["b"]["log_z"] == pytest.approx(of_problem[1].log_z)


def test_a_completion_that_was_drawn_again_has_one_weight():
    """Else rounding would give k-hat five weights to fit where there is one completion."""
    records = [weighed("a", i, -1 + 1e-3 * i, -2.0, tokens=[4, 1]) for i in range(40)]
    near = nearness(records, 4.0)
    assert near.num_without == 1 and near.num_above == 0 and near.ess_fraction == 1
    spread = [weighed("a", i, -1 + 1e-3 * i, -2.0) for i in range(40)]
    assert nearness(spread, 4.0).num_without == 0


def test_what_has_no_weights_ends_in_one_line():
    with pytest.raises(ValueError, match="one completion per problem"):
        nearness([weighed("a", 0, -1.0, -1.0), weighed("b", 0, -1.0, -1.0)], 4.0)
    with pytest.raises(ValueError, match="'a/0' has no finite weight"):
        nearness([weighed("a", 0, -math.inf, -1.0)], 4.0)
