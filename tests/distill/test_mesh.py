"""The same student on every mesh: one device, eight, and two processes of four.

A mesh changes only the order in which sums are taken. In float32 that is some 1e-7 per sum, and a
step has a hundred sums one after the other, so losses agree to 1e-5. Adapters are compared tensor
by tensor: the distance of the two, over how far the tensor has come from its start. They agree to
1e-4, because AdamW's division by the root of the second moment carries the rounding of near-zero
gradients along. Dropout by another key moves both by 1e-2 and more.
"""

import subprocess
import sys

import numpy as np
import pytest

from tests.distill import mesh_worker
from tests.experiments import programs
from tests.parallel.test_rendezvous import free_port

pytestmark = pytest.mark.full

LOSS_RTOL, ADAPTER_RTOL = 1e-5, 1e-4


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """What mesh_worker.py wrote: {file name: {array name: array}}."""
    out = tmp_path_factory.mktemp("meshes")
    address = f"127.0.0.1:{free_port()}"
    _run(8, [str(out)])
    _run(4, *([str(out), address, str(i)] for i in range(2)))
    return {path.stem: dict(np.load(path)) for path in out.glob("*.npz")}


def _run(num_devices: int, *processes: list[str]) -> None:
    """Runs mesh_worker.py once for each list of arguments, all at the same time."""
    env = programs.environment(num_devices)
    command = [sys.executable, "-m", "tests.distill.mesh_worker"]
    running = [
        subprocess.Popen([*command, *arguments], env=env, stderr=subprocess.PIPE, text=True)
        for arguments in processes
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), errors


def _distance(adapter, other, start) -> float:
    """Returns the largest distance of a tensor from the other's, over how far that has come."""
    return max(
        float(
            np.linalg.norm(adapter[path] - other[path]) / np.linalg.norm(other[path] - start[path])
        )
        for path in start
    )


def _check(run, name: str, arrays, record_property) -> None:
    one, start = arrays[f"{name} one"], arrays[f"{name} start"]
    loss = float(np.abs(run["losses"] / one["losses"] - 1).max())
    adapter = _distance(run, one, start)
    record_property("loss, adapter", f"{loss:.1e}, {adapter:.1e}")
    assert loss <= LOSS_RTOL and adapter <= ADAPTER_RTOL


@pytest.mark.parametrize("name", mesh_worker.RUNS)
def test_eight_devices_train_as_one(name, arrays, record_property):
    _check(arrays[name], name.split()[0], arrays, record_property)


@pytest.mark.parametrize("name", mesh_worker.OF_TWO_PROCESSES)
def test_two_processes_train_as_one_device(name, arrays, record_property):
    _check(arrays[f"{name} process 0"], name.split()[0], arrays, record_property)
    for path, x in arrays[f"{name} process 0"].items():
        np.testing.assert_array_equal(x, arrays[f"{name} process 1"][path], err_msg=path)


def test_a_checkpoint_goes_on_on_another_mesh(arrays, record_property):
    start = arrays["even start"]
    for name in mesh_worker.RESUMED:
        distance = _distance(arrays[f"resumed {name}"], arrays["even one"], start)
        record_property(name, f"{distance:.1e}")
        assert distance <= ADAPTER_RTOL


def test_the_runs_learn_and_are_not_alike(arrays):
    """What the comparisons rest on: steps that change the adapter, by more than rounding."""
    for name in ("even", "odd"):
        one, start = arrays[f"{name} one"], arrays[f"{name} start"]
        moved = [np.linalg.norm(one[p] - x) / np.linalg.norm(one[p]) for p, x in start.items()]
        assert min(moved) > 0.01
        assert len(set(one["losses"])) == mesh_worker.NUM_STEPS
