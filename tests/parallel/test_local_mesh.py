"""The mesh of one machine's devices that share a batch."""

import types

import jax
import pytest

from powerjax.parallel import mesh


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that gives the machine `count` devices, of which meshes are mere sizes."""

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
    grid = mesh.local_mesh(model, rows_divide)
    if data is None:
        assert grid is None
    else:
        assert grid.shape == {"data": data, "model": model}


def test_more_devices_per_row_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"model 1000 does not fit"):
        mesh.local_mesh(1000, 8)
