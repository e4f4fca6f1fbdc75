"""Sampling over a mesh of eight devices draws the chains of one device."""

import json
import subprocess
import sys

import numpy as np
import pytest

from powerjax.sample import draws, mh
from tests.experiments import programs
from tests.sample import mesh_worker
from tests.sample.edges import margin

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Returns what mesh_worker.py drew, and its log.

    The draws are {"model mesh": {(id, sample): (tokens, log_probs)}}.
    """
    path = tmp_path_factory.mktemp("mesh") / "drawn.json"
    env = programs.environment(num_devices=8)
    command = [sys.executable, "-m", "tests.sample.mesh_worker", str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = {
        name: {(i, s): (tokens, log_probs) for i, s, tokens, log_probs in rows}
        for name, rows in json.loads(path.read_text()).items()
    }
    return drawn, done.stderr


def test_one_engine_a_device_gives_the_bits_of_one_device(ran):
    """Each of the eight engines has eight slots, so a device has the shapes of one alone."""
    assert ran[0]["eight_heads 8x1"] == ran[0]["eight_heads one"]


@pytest.mark.parametrize(
    "name, shape",
    [("eight_heads", "1x8"), ("eight_heads", "2x4"), ("tiny", "1x8"), ("tiny", "2x4")],
)
def test_split_models_differ_only_at_a_boundary(ran, name, shape, record_property):
    """Sums are taken in another order, so chains part only where a draw lies on an edge."""
    expected, split = ran[0][f"{name} one"], ran[0][f"{name} {shape}"]
    assert split.keys() == expected.keys()
    different = [chain for chain in expected if split[chain][0] != expected[chain][0]]
    record_property(f"{name} {shape}: chains of {len(expected)} that differ", len(different))
    assert len(different) <= 2
    for chain in expected.keys() - set(different):
        np.testing.assert_allclose(split[chain][1], expected[chain][1], atol=1e-4)
    if not different:
        return
    lm, prompts = mesh_worker.load(name), mesh_worker.prompts(name)
    options = mesh_worker.OPTIONS[name]
    settings = mh.settings(
        options["alpha"],
        block_size=options["block_size"],
        num_mcmc_steps=mesh_worker.COMMON["num_mcmc_steps"],
        max_new_tokens=options["max_new_tokens"],
        stop_ids=lm.stop_ids,
        stop=options.get("stop", "eos"),
    )
    for problem, sample_index in different:
        prompt = prompts[int(problem.split()[1])]
        prompt = lm.encode(prompt) if isinstance(prompt, str) else prompt
        key = draws.chain_keys(mesh_worker.COMMON["seed"], [problem], [sample_index])[0]
        assert margin(lm, prompt, key, settings) < 1


@pytest.mark.parametrize(
    ("job", "shape"),
    [(job, shape) for job, shapes in mesh_worker.PROPOSED.items() for shape in shapes],
)
def test_a_proposal_model_is_split_with_the_model(ran, job, shape, record_property):
    """Chains part from those of one device only where rounding decides, at most 2 of 40."""
    expected, split = ran[0][f"{job} one"], ran[0][f"{job} {shape}"]
    assert split.keys() == expected.keys() and len(split) == 40
    different = [chain for chain in expected if split[chain][0] != expected[chain][0]]
    record_property(f"{job} {shape}: chains of {len(expected)} that differ", len(different))
    assert len(different) <= (0 if shape == "8x1" else 2)
    for chain in expected.keys() - set(different):
        np.testing.assert_allclose(split[chain][1], expected[chain][1], atol=1e-4)


def test_weights_split_over_data_give_the_same_chains(ran):
    """The split weights are gathered for each row's engine, so its programs are those without."""
    assert ran[0]["tiny fsdp"] == ran[0]["tiny 2x4"]


def test_heads_that_do_not_divide_are_said_to_be_replicated(ran):
    log = ran[1]
    assert log.count("the K/V cache is replicated: 4 heads, 2 kv heads do not divide by model") == 2
    assert "layers_*/self_attn is replicated: 4 heads, 2 kv heads" in log
    assert "mlp/up_proj" not in log  # it is split, as everything that divides
