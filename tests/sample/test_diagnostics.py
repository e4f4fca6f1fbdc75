"""R-hat, ESS and k-hat against ArviZ, what is said of too few draws, and traces for ArviZ."""

import sys

import numpy as np
import pytest
from arviz_stats.base import array_stats

from powerjax.sample import Stats, diagnostics
from powerjax.sample.completions import Completion, Completions
from powerjax.sample.log_weights import LogWeights
from powerjax.sample.traces import Trace


def walks(num_chains, num_moves, shift=0.0):
    """Chains of an AR(1) process, [chains, moves]; the first chain is shifted."""
    rng = np.random.default_rng(1)
    chains = np.zeros((num_chains, num_moves))
    for i in range(1, num_moves):
        chains[:, i] = 0.8 * chains[:, i - 1] + rng.normal(size=num_chains)
    chains[0] += shift
    return chains


@pytest.mark.parametrize("shift", [0.0, 20.0])
def test_rhat_and_bulk_ess_are_arviz_s(shift):
    chains = walks(16, 400, shift)
    assert diagnostics.rhat(chains) == array_stats.rhat(chains)
    assert diagnostics.bulk_ess(chains) == array_stats.ess(chains, method="bulk")
    is_above = diagnostics.rhat(chains) > diagnostics.RHAT_THRESHOLD
    assert is_above == (shift > 0)


@pytest.mark.filterwarnings("error")
def test_chains_that_stand_on_two_values_have_not_mixed():
    stuck = np.repeat(np.arange(16.0)[:, None] % 2, 100, axis=1)
    assert diagnostics.rhat(stuck) > 100 and diagnostics.bulk_ess(stuck) < 100


def test_equal_numbers_count_as_mixed_and_few_say_nothing():
    assert diagnostics.rhat(np.full((16, 100), -3.5)) == 1
    assert diagnostics.bulk_ess(np.full((16, 100), -3.5)) == 1600
    for shape in ((15, 100), (16, 99)):
        assert diagnostics.rhat(walks(*shape)) is None
        assert diagnostics.bulk_ess(walks(*shape)) is None


def test_one_completion_scored_by_two_programs_is_a_tie():
    """Rounding, different in each chain, would look like chains that stand on different values."""
    rounding = 1e-6 * np.random.default_rng(0).normal(size=(16, 1))
    chains = np.where(np.arange(100) % 25 == 7, -5.0, -2.0) + rounding
    assert diagnostics.rhat(chains) > 1.2
    tied = diagnostics.tied(chains)
    assert len(np.unique(tied)) == 2 and np.abs(tied - chains).max() < 1e-5
    assert diagnostics.rhat(tied) < 1.01
    assert diagnostics.tied(np.array([[-1.0, -1.0002, -1.00001]])).tolist() == [
        [-1.00001, -1.0002, -1.00001]
    ]


def test_many_different_numbers_are_not_made_equal():
    dense = np.random.default_rng(0).normal(size=(16, 10_000))  # neighbours are within 1e-4
    assert np.abs(diagnostics.tied(dense) - dense).max() <= 1e-4
    rhat = [diagnostics.rhat(chains) for chains in (dense, diagnostics.tied(dense))]
    assert rhat[0] == pytest.approx(rhat[1], abs=1e-4)


def test_the_last_stage_that_all_chains_reached():
    assert diagnostics.common_stage([30, 20, 40], 10) == slice(10, 20)
    assert diagnostics.common_stage([7], 7) == slice(0, 7)
    for broken in ([10, 25], [10, 5]):
        with pytest.raises(ValueError, match=f"a chain has {broken[1]} moves, and a stage 10"):
            diagnostics.common_stage(broken, 10)


def test_log_weights_by_hand():
    weights = LogWeights(np.log([1.0, 3.0]))
    assert weights.weights.tolist() == pytest.approx([0.25, 0.75])
    assert weights.log_z == pytest.approx(np.log(2))
    assert weights.ess_fraction == pytest.approx(16 / 20)
    assert weights.chi2 == pytest.approx(0.25)
    assert weights.kl == pytest.approx(np.log(2) - np.log(3) / 2)
    assert weights.k_hat is None  # two weights have no tail
    even = LogWeights(np.full(100, -700.0))
    assert even.ess_fraction == 1 and even.kl == 0 and even.k_hat is None
    rounded = LogWeights(1e-6 * np.random.default_rng(0).normal(size=100))
    assert rounded.k_hat is None and rounded.ess_fraction == pytest.approx(1)
    heavy = 3 * np.random.default_rng(0).normal(size=400)
    assert LogWeights(heavy).k_hat == pytest.approx(array_stats.psislw(-heavy)[1], abs=0.05)
    assert LogWeights(heavy).k_hat > 0.7 > LogWeights(heavy / 30).k_hat


def completion(prompt, sample, log_p, kind=2):
    """A traced completion whose trace is numbered by its moves."""
    moves = np.arange(len(log_p))
    trace = Trace(np.array(log_p, np.float32), moves + 1, moves % 2 == 0, np.full(len(moves), kind))
    fields = {"text": None, "tokens": [1], "log_probs": np.zeros(1), "log_prob": -1.0}
    fields |= {"self_reward": -1.0, "finish_reason": "eos", "acceptance_rate": 0.5}
    fields |= {"num_forward_tokens": 1, "num_early_rejections": 0, "id": f"p{prompt}"}
    return Completion(**fields, prompt_index=prompt, sample_index=sample, trace=trace)


def run(moves_of, num_mcmc_steps=3):
    """A run; moves_of: (prompt, sample) -> the number of moves of that chain."""
    items = [
        completion(*chain, [-100 * chain[0] - 10 * chain[1] - i for i in range(n)])
        for chain, n in moves_of.items()
    ]
    settings = {"num_mcmc_steps": num_mcmc_steps, "model": "m", "sampler": "power"}
    return Completions(items, Stats(), settings)


def test_traces_are_chains_and_moves_of_arviz():
    pytest.importorskip("arviz_base", reason="pip install 'powerjax[arviz]'")
    out = run({(0, 0): 6, (0, 1): 9, (1, 0): 6, (1, 1): 6})
    last = out.to_arviz()
    log_p = last["posterior"]["log_p"]
    assert log_p.dims == ("chain", "draw", "prompt") and log_p.shape == (2, 3, 2)
    assert log_p.coords["prompt"].values.tolist() == ["p0", "p1"]
    assert log_p.sel(prompt="p1", chain=1).values.tolist() == [-113, -114, -115]
    assert last["posterior"]["length"].sel(prompt="p0", chain=0).values.tolist() == [4, 5, 6]
    accepted = last["sample_stats"]["accepted"].sel(prompt="p0", chain=1)
    assert accepted.values.tolist() == [False, True, False]
    assert set(last["sample_stats"]["kind"].values.ravel()) == {"base"}
    first = out.to_arviz(stage=0)["posterior"]["log_p"]
    assert first.sel(prompt="p1", chain=1).values.tolist() == [-110, -111, -112]


def test_traces_that_arviz_cannot_have_end_in_one_line(monkeypatch):
    out = run({(0, 0): 6, (0, 1): 6})
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"pip install 'powerjax\[arviz\]'"):
        out.to_arviz()
    monkeypatch.undo()
    pytest.importorskip("arviz_base", reason="pip install 'powerjax[arviz]'")
    for stage in (2, -1):
        with pytest.raises(ValueError, match=f"from 0 to 1.*not {stage}"):
            out.to_arviz(stage=stage)
    with pytest.raises(ValueError, match="1 of 'p0' and 2 of 'p1'"):
        run({(0, 0): 6, (1, 0): 6, (1, 1): 6}).to_arviz()
    with pytest.raises(ValueError, match="there are none"):
        run({}).to_arviz()
    out[0].trace = None
    with pytest.raises(ValueError, match="sample with trace=True"):
        out.to_arviz()
