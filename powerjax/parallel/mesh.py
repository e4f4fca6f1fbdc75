"""The device mesh and its two axes.

"data" splits the rows of a batch, which are chains or examples. "model" splits each layer's weights
by heads, feed-forward and vocabulary.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh


def make_mesh(
    model: int = 1, data: int | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns a ("data", "model") mesh.

    "model" is the inner axis, so it stays within a process if it divides the process's devices.
    The axes are Auto, because JAX's default, Explicit, fails in embedding lookups and row scatters.

    Args:
      model: devices that share each layer's weights.
      data: copies of the model; None makes as many as the devices hold, and then `model` has to
        divide the number of devices.
      devices: None takes all devices of all processes.

    Raises ValueError if model and data do not fit the devices. Where data is given and the devices
    are those of one process, data * model may be fewer, and the rest stay unused. On the devices of
    several processes, data * model has to be all of them.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if data is None:
        data = count // model if model > 0 else 0
        if model < 1 or count % model:
            raise ValueError(
                f"a mesh of model {model} does not fit {count} devices: take a divisor of {count}, "
                "or give data as well"
            )
    several = len({device.process_index for device in devices}) > 1
    if data < 1 or model < 1 or data * model > count or (several and data * model < count):
        raise ValueError(
            f"a mesh of data {data} x model {model} does not fit {count} devices: their product "
            f"must be {count if several else f'at most {count}'}"
        )
    return jax.make_mesh(
        (data, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: data * model],
    )


def local_mesh(model: int = 1, rows_divide: int | None = None) -> Mesh | None:
    """Returns a mesh of this process's devices, or None if that mesh has one device.

    Args:
      model: devices that share each layer's weights.
      rows_divide: the size of a batch. The "data" axis gets the largest length that divides this
        size, so that each row of the mesh computes equally many rows of the batch. None makes the
        axis as long as the devices allow.
    """
    devices = jax.local_devices()
    data = None
    if rows_divide is not None:
        most = max(1, len(devices) // model)
        data = next(n for n in range(most, 0, -1) if rows_divide % n == 0)
    mesh = make_mesh(model=model, data=data, devices=devices)
    return mesh if mesh.size > 1 else None
