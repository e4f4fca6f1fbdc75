"""The mesh and the parameter table: rules, and a real load over eight CPU devices."""

import json
import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from powerjax import mesh, models
from powerjax.models.layout import tensors
from tests.golden import cases

FOUR_WAYS = AbstractMesh((1, 4), ("data", "model"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What mesh_worker.py prints for a Qwen2 and a Phi3 checkpoint, and what it logged."""
    root = tmp_path_factory.mktemp("mesh")
    folders = {c: cases.write_checkpoint(c, root / c) for c in ("qwen2_untied", "phi3_partial")}
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-m", "tests.mesh_worker", *map(str, folders.values())]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {(c, n): found[f"{f} {n}"] for c, f in folders.items() for n in (2, 4)}, done.stderr


@pytest.mark.parametrize("model_axis", [2, 4])
@pytest.mark.parametrize("case", ["qwen2_untied", "phi3_partial"])
def test_load_on_a_mesh(case, model_axis, loaded):
    found = loaded[0][case, model_axis]
    assert found["axes"] == {"data": 8 // model_axis, "model": model_axis}
    assert found["equal_params"] and found["equal_random"]
    assert found["logits"] <= 1e-4 and found["scores"] <= 1e-4
    assert found["bytes_device_0"] == found["bytes_planned"]
    shards = found["shards"]
    hf = cases.CASES[case]
    hidden, ffw = hf["hidden_size"], hf["intermediate_size"]
    assert shards["layers_1/mlp/up_proj/kernel"] == [hidden, ffw // model_axis]
    assert shards["layers_1/mlp/down_proj/kernel"] == [ffw // model_axis, hidden]
    # Two kv heads do not divide by four: attention is then replicated.
    parts = 1 if hf["num_key_value_heads"] % model_axis else model_axis
    assert shards["layers_0/self_attn/q_proj/kernel"] == [hidden, hidden // parts]
    assert shards["layers_0/self_attn/o_proj/kernel"] == [hidden // parts, hidden]
    assert shards["embed_tokens/embedding"] == [61, hidden]  # 61 divides by nothing


def test_replication_is_logged(loaded):
    said = "layers_*/self_attn/q_proj/kernel is replicated: 4 heads, 2 kv heads"
    assert loaded[1].count(said) == 1
    assert "embed_tokens/embedding is replicated: dimension 61" in loaded[1]


def test_seven_b_is_split_four_ways():
    config = models.ModelConfig(152_064, 3584, 18_944, 28, 28, 4, 128)
    specs = {
        path: mesh.param_spec(path, tensor.shape, config, FOUR_WAYS)
        for path, tensor in tensors(config).items()
    }
    assert specs["layers_27/self_attn/k_proj/bias"] == P("model")
    assert specs["lm_head/kernel"] == P(None, "model")
    unsplit = {path.split("/", 1)[-1] for path, spec in specs.items() if "model" not in spec}
    assert unsplit == {"scale", "input_layernorm/scale", "post_attention_layernorm/scale"}


def test_unknown_parameter():
    with pytest.raises(ValueError, match="PARAM_SPECS"):
        mesh.param_spec("layers_0/router/kernel", (4, 4), None, FOUR_WAYS)


def test_axes_are_auto():
    grid = mesh.make_mesh(devices=jax.devices()[:1])
    assert grid.axis_names == ("data", "model")
    assert set(grid.axis_types) == {AxisType.Auto}


def test_mesh_too_large():
    with pytest.raises(ValueError, match="does not fit 1 devices"):
        mesh.make_mesh(model=2, devices=jax.devices()[:1])
