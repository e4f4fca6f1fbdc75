"""Start-up of several processes, the mesh, and parameters on eight CPU devices."""

import json
import math
import os
import subprocess
import sys
import types

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from powerjax import models
from powerjax.models import sharding
from powerjax.models.layout import tensors
from powerjax.parallel import mesh
from powerjax.parallel import processes as processes_lib
from powerjax.sample import shapes
from tests.experiments import programs
from tests.golden import cases
from tests.parallel.test_rendezvous import free_port

pytestmark = pytest.mark.full

SEVEN_B = models.ModelConfig(152_064, 3584, 18_944, 28, 28, 4, 128)
# One of each family, with biases, norms of q and k, and windows where it has them.
LOADED = (
    "qwen2_untied",
    "phi3_partial",
    "llama3",
    "qwen3_bias",
    "mistral_window",
    "gemma3",
    "olmo2",
)
FOUR_WAYS = AbstractMesh((1, 4), ("data", "model"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What mesh_worker.py prints for a checkpoint of each family, and what it logged."""
    root = tmp_path_factory.mktemp("mesh")
    folders = {c: cases.write_checkpoint(c, root / c) for c in LOADED}
    env = programs.environment(num_devices=8)
    command = [sys.executable, "-m", "tests.parallel.mesh_worker", *map(str, folders.values())]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    return {(c, n): result[f"{f} {n}"] for c, f in folders.items() for n in (2, 4)}, done.stderr


@pytest.mark.parametrize("model_axis", [2, 4])
@pytest.mark.parametrize("case", LOADED)
def test_load_on_a_mesh(case, model_axis, loaded):
    result = loaded[0][case, model_axis]
    assert result["axes"] == {"data": 8 // model_axis, "model": model_axis}
    assert result["equal_params"] and result["equal_random"] and result["same_fingerprint"]
    assert result["logits"] <= 1e-4 and result["scores"] <= 1e-4
    assert result["bytes_device_0"] == result["bytes_planned"]
    plan = result["plan"]
    assert plan["weights"] == result["bytes_planned"]
    # Beside its two caches of 40 positions, a slot has two prompts in the queue, 16 positions each.
    caches, vocab_size = result["bytes_of_caches"], cases.CASES[case]["vocab_size"]
    logits = 4 * shapes.LOGIT_ROWS * vocab_size
    assert plan["slot"] == caches + caches // (2 * 40) * 2 * 16 + logits
    assert plan["rows"] == 8 // model_axis
    shards = result["shards"]
    hf = cases.CASES[case]
    hidden, ffw = hf["hidden_size"], hf["intermediate_size"]
    q_size = hf["num_attention_heads"] * hf["head_dim"] if "head_dim" in hf else hidden
    assert shards["layers_1/mlp/up_proj/kernel"] == [hidden, ffw // model_axis]
    assert shards["layers_1/mlp/down_proj/kernel"] == [ffw // model_axis, hidden]
    # Four devices cannot share two kv heads: attention is then replicated.
    parts = 1 if hf["num_key_value_heads"] % model_axis else model_axis
    assert shards["layers_0/self_attn/q_proj/kernel"] == [hidden, q_size // parts]
    assert shards["layers_0/self_attn/o_proj/kernel"] == [q_size // parts, hidden]
    assert shards["embed_tokens/embedding"] == [61, hidden]  # no axis divides 61


def test_replication_is_logged(loaded):
    message = "layers_*/self_attn is replicated: 4 heads, 2 kv heads"
    assert loaded[1].count(message) == 1
    assert "embed_tokens/embedding is replicated: dimension 61" in loaded[1]


def test_seven_b_is_split_four_ways():
    specs = {
        path: sharding.param_spec(path, tensor.shape, SEVEN_B, FOUR_WAYS)
        for path, tensor in tensors(SEVEN_B).items()
    }
    assert specs["layers_27/self_attn/k_proj/bias"] == P("model")
    assert specs["lm_head/kernel"] == P(None, "model")
    unsplit = {path.split("/", 1)[-1] for path, spec in specs.items() if "model" not in spec}
    assert unsplit == {"scale", "input_layernorm/scale", "post_attention_layernorm/scale"}


def test_unknown_parameter():
    with pytest.raises(ValueError, match="PARAM_SPECS"):
        sharding.param_spec("layers_0/router/kernel", (4, 4), None, FOUR_WAYS)


def test_axes_are_auto():
    grid = mesh.make_mesh(devices=jax.devices()[:1])
    assert grid.axis_names == ("data", "model")
    assert set(grid.axis_types) == {AxisType.Auto}


def test_mesh_too_large():
    with pytest.raises(ValueError, match=r"does not fit 1 devices.*at most 1"):
        mesh.make_mesh(model=2, data=1, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="model 2 does not fit 1 devices"):
        mesh.make_mesh(model=2, devices=jax.devices()[:1])


def test_a_mesh_does_not_silently_leave_devices_out():
    eight = [types.SimpleNamespace(process_index=i // 4) for i in range(8)]
    with pytest.raises(ValueError, match="model 3 does not fit 8 devices: take a divisor"):
        mesh.make_mesh(model=3, devices=eight[:4] * 2)
    with pytest.raises(ValueError, match=r"data 1 x model 4 does not fit 8 .* must be 8"):
        mesh.make_mesh(model=4, data=1, devices=eight)  # the second process would hold nothing


@pytest.mark.parametrize(("data", "model"), [(8, 1), (2, 4), (4, 2), (1, 4)])
def test_fsdp_leaves_each_device_its_share_of_seven_b(data, model):
    grid = AbstractMesh((data, model), ("data", "model"))
    shapes = {path: tensor.shape for path, tensor in tensors(SEVEN_B).items()}
    total = sum(math.prod(shape) for shape in shapes.values())
    matrices = sum(math.prod(shape) for shape in shapes.values() if len(shape) > 1)
    held = sharding.num_bytes_per_device(shapes, SEVEN_B, grid, 1, fsdp=True)
    assert matrices / (data * model) <= held <= matrices / (data * model) + total - matrices
    for path, shape in shapes.items():
        spec = sharding.param_spec(path, shape, SEVEN_B, grid, fsdp=True)
        plain = sharding.param_spec(path, shape, SEVEN_B, grid)
        if len(shape) == 1 or data == 1:
            assert spec == plain
        elif model > 1:  # split over both axes, by "model" where it was before
            assert set(spec) == {"data", "model"}
            assert spec.index("model") == plain.index("model")


def test_fsdp_of_what_model_does_not_divide():
    config = models.ModelConfig(97, 64, 96, 2, 6, 3, 8)
    grid = AbstractMesh((2, 4), ("data", "model"))
    # Attention is replicated over "model": the larger dimension goes to "data".
    assert sharding.param_spec(
        "layers_0/self_attn/k_proj/kernel", (64, 24), config, grid, fsdp=True
    ) == P("data", None)
    # The axes divide neither 97 nor 63, and divide 64.
    assert sharding.param_spec("embed_tokens/embedding", (97, 64), config, grid, fsdp=True) == P(
        None, "data"
    )
    assert sharding.param_spec("embed_tokens/embedding", (97, 63), config, grid, fsdp=True) == P()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What process_worker.py finds in each of two processes with four CPU devices."""
    root = tmp_path_factory.mktemp("processes")
    folder = cases.write_checkpoint("qwen2_untied", root / "qwen2")
    files = [root / "0.json", root / "1.json"]
    env = programs.environment(num_devices=4)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "tests.parallel.process_worker", str(folder), address]
    running = [
        subprocess.Popen([*command, str(i), str(file)], env=env, stderr=subprocess.PIPE, text=True)
        for i, file in enumerate(files)
    ]
    errors = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    return [json.loads(file.read_text()) for file in files]


def test_two_processes_are_one_mesh(processes):
    assert [result["is_main"] for result in processes] == [True, False]
    for result in processes:
        assert result["num_devices"] == 8
        assert result["model_within_a_process"]
        assert result["total"] == [18.0, 22.0, 26.0]


def test_two_processes_load_each_their_shards(processes):
    for result in processes:
        assert result["equal"] and result["same_fingerprint"]
        assert result["bytes"] == result["planned"] < result["planned_without"] / 2


def start(*arguments, **environment):
    """Returns exit status and standard error of a new process that calls `start`."""
    program = (
        "import sys; from powerjax.parallel import processes;"
        " processes.start(*eval(sys.argv[1]), timeout_s=1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, repr(arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_an_unreachable_coordinator_is_an_error_of_python_not_an_abort():
    status, message = start(f"127.0.0.1:{free_port()}", 2, 1)
    assert status == 1
    assert message.splitlines()[-1].startswith("OSError: no coordinator at 127.0.0.1:")


def test_a_lone_process_zero_is_an_error_of_python_not_an_abort():
    status, message = start(f"127.0.0.1:{free_port()}", 2, 0)
    assert status == 1
    assert message.splitlines()[-1].startswith("OSError: process 1 of 2 did not come")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("localhost:1234", None, None), "go together"),
        ((None, 2, 0), "go together"),
        (("localhost:1234", 2, 2), "process_id 2 of num_processes 2"),
        (("localhost:1234", 2, -1), "process_id -1 of num_processes 2"),
        (("localhost:1234", 0, 0), "process_id 0 of num_processes 0"),
        (("localhost", 2, 0), "give host:port"),
    ],
)
def test_flags_that_do_not_fit_together(arguments, line):
    with pytest.raises(ValueError, match=line):
        processes_lib.start(*arguments, timeout_s=1)


def test_start_comes_first():
    jax.devices()
    with pytest.raises(RuntimeError, match="must be called before"):
        processes_lib.start(f"127.0.0.1:{free_port()}", 1, 0, timeout_s=1)


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("changed", "result"),
    [
        ({}, ("gpu03:61517", 2, 1, None)),  # one task per node: all of the node's devices
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "1"}, ("gpu03:61517", 2, 1, [1])),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": None}, None),  # in the batch script, without srun
    ],
)
def test_a_run_is_found_in_slurm(changed, result, monkeypatch):
    for name, value in (SLURM | changed).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    assert processes_lib._find_run(1.0) == result


def test_no_run_is_found_on_one_machine():
    assert processes_lib._find_run(1.0) is None
    processes_lib.start()
    assert not jax.distributed.is_initialized()
    assert processes_lib.is_main()
    processes_lib.barrier("alone")


def test_two_slurm_tasks_wait_for_each_other_only_so_long():
    status, message = start(**SLURM | {"SLURM_STEP_NODELIST": "localhost"})
    assert status == 1
    assert "OSError: no coordinator at localhost:61517 within 1 s" in message
