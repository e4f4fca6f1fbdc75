"""What launchers share: the mesh of one machine's devices."""

import types

import jax
import pytest

from powerjax import launch, mesh


@pytest.fixture
def machine(monkeypatch):
    """Makes the machine have so many devices, and meshes of them mere numbers."""

    def have(count):
        monkeypatch.setattr(jax, "local_devices", lambda: list(range(count)))

    def make_mesh(model, data, devices):
        data = len(devices) // model if data is None else data
        return types.SimpleNamespace(size=data * model, shape={"data": data, "model": model})

    monkeypatch.setattr(mesh, "make_mesh", make_mesh)
    return have


@pytest.mark.parametrize(
    "devices, model, rows_divide, data",
    [(1, 1, 8, None), (8, 1, 8, 8), (6, 1, 8, 4), (16, 1, 8, 8), (8, 4, 8, 2), (6, 1, None, 6)],
)
def test_all_devices_are_used_that_share_a_batch(machine, devices, model, rows_divide, data):
    machine(devices)
    found = launch.grid(model, rows_divide)
    if data is None:
        assert found is None
    else:
        assert found.shape == {"data": data, "model": model}


def test_more_devices_a_row_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"model 1000 does not fit"):
        launch.grid(1000, 8)
