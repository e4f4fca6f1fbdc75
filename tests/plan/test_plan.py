"""The plan of a run: its tokens are those that the sampler spends, its lengths those it draws."""

import dataclasses
import math

import numpy as np
import pytest

from powerjax import models, sample
from powerjax.plan import lines as lines_lib
from powerjax.plan import probe as probe_lib
from powerjax.plan.probe import Probe
from powerjax.plan.workload import Workload
from powerjax.sample import spec
from powerjax.tasks import arithmetic

PROMPTS = [[5, 6, 7], [8, 9]]


@pytest.mark.parametrize("horizon", [False, True])
def test_expected_tokens_are_those_the_sampler_spends(tiny_qwen, horizon):
    lm = dataclasses.replace(tiny_qwen, stop_ids=(-1,))  # every completion has 24 tokens
    settings = {"alpha": 2.0, "block_size": 10, "num_mcmc_steps": 4, "max_new_tokens": 24}
    settings |= {"stop": "horizon" if horizon else "eos", "temperature": 1.0}
    options = {"num_samples": 64, "early_rejection": False, "progress": False}
    out, power = sample.power(lm, PROMPTS, **settings, **options), spec.Power(**settings)
    spent = out.stats.num_forward_tokens
    assert Workload("", power, 128).forward_tokens(24) == pytest.approx(spent, rel=0.03)
    plain = Workload("", spec.Standard(max_new_tokens=24), 128)
    assert plain.forward_tokens(7.5) == 128 * 7.5


def test_a_proposal_models_tokens_are_planned_too():
    """One restart move: two draws, each read by both models. A suffix is half as long."""
    restart, suffix = (
        spec.of("power", {"move": move, "max_new_tokens": 24}) for move in ("restart", "suffix")
    )
    assert Workload("", restart, 10).forward_tokens(24) == 10 * 2 * (24 + 24)
    assert Workload("", suffix, 10).forward_tokens(24) == 10 * 2 * (24 + 12.5)


def test_the_horizon_makes_moves_on_short_completions_too():
    short, whole = (
        spec.Power(block_size=10, num_mcmc_steps=2, max_new_tokens=40, stop=stop).forward_tokens(10)
        for stop in ("eos", "horizon")
    )
    assert short == 10 + 2 * 5.5 and whole == 10 + 4 * 2 * 5.5


def test_lengths_of_completions_that_are_cut_off():
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / 50, 20_000)
    for most in (20, 100, 1000):
        cut = np.minimum(lengths, most)
        mean = cut.sum() / (lengths <= most).sum()  # what the probe estimates
        assert mean == pytest.approx(50, rel=0.1)
        assert Probe(1, 1, 1, 1, mean).length_within(most) == pytest.approx(cut.mean(), rel=0.05)
    assert Probe(1, 1, 1, 1, math.inf).length_within(300) == 300


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny", dtype="float32")


def test_the_probe_sees_how_long_completions_are(tiny):
    prompts = [problem.prompt for problem in arithmetic.problems(num=40)]
    probe = probe_lib.probe_sampling(
        tiny, prompts, num_samples=4, max_new_tokens=64, num_slots=32, seconds=0.2
    )
    assert probe.tokens_per_s > 100 and probe.seconds < 30
    out = sample.standard(tiny, prompts, max_new_tokens=64, num_samples=4, progress=False)
    mean = np.mean([completion.num_tokens for completion in out])
    assert probe.length_within(64) == pytest.approx(mean, rel=0.3)


@pytest.mark.full
def test_a_training_step_is_timed(tiny):
    seconds = probe_lib.probe_training(tiny, 40, max_length=64, batch_size=2, remat=False)
    assert 0 < seconds < 30


def test_memory_counts_weights_two_caches_the_queue_and_logits(tiny_qwen):
    memory = probe_lib.memory(tiny_qwen, 10, 30)
    assert memory.weights == 4 * tiny_qwen.num_parameters
    caches = (2 * 40 + 2 * 16) * 2 * 2 * 2 * 8 * 4  # prompts of 10 in the bucket of 16
    assert memory.slot == caches + 6 * 4 * 97 and memory.positions == 40
    assert memory.free is None or memory.free > 0


def test_the_plan_adds_up():
    stages = [
        Workload("a", spec.Standard(max_new_tokens=100), 10),
        Workload("b", spec.Power(block_size=50, num_mcmc_steps=3, max_new_tokens=100), 2),
        Workload("c", spec.Standard(max_new_tokens=30), 1, is_endless=True),
    ]
    probe = Probe(10.0, 500, 5.0, 8, 20.0)
    memory = probe_lib.Memory(2**30, 2**20, 40, None)
    lines = lines_lib.describe(stages, probe, memory, steps=7, step_s=60.0)
    assert "at most 1.01 GiB" in lines[0] and "20 tokens" in lines[1]
    assert lines_lib.describe(stages, probe, memory._replace(rows=4))[0].count(" of 2 slots") == 1
    table = {line[:28].strip(): line[28:].split() for line in lines[3:]}
    length = probe.length_within(100)
    assert table["a"][1:3] == [f"{10 * length:,.0f}", "1,000"]
    assert table["c"][1] == table["c"][2] == "30"
    assert table["student"] == ["7", "steps", "60", "s", "each", "7", "min"]
    total = sum(stage.forward_tokens(length) for stage in stages[:2]) + 30
    assert float(table["in all"][0].replace(",", "")) == pytest.approx(total, abs=1)
    assert table["in all"][-2:] == [f"{(total / 10 + 420) / 60:.0f}", "min"]
