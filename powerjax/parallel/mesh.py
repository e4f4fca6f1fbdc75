"""The device mesh. Axes: "data" carries rows (chains, examples), "model" splits heads, feed-forward
and vocabulary.
"""

import jax
from jax.sharding import AxisType, Mesh


def make_mesh(model: int = 1, data: int | None = None, devices=None) -> Mesh:
    """A ("data", "model") mesh; data=None takes all the devices that are left.

    "model" is the inner axis: it stays within a process where it divides the process's devices.
    Axes are Auto: JAX's default, Explicit, fails in embedding lookups and row scatters.

    Raises ValueError if the numbers do not fit the devices, or leave out one of several processes'.
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
    """This machine's devices as a mesh, `model` of them a row; None for one device.

    rows_divide: take no more rows than divide this number, as a batch of it has to be shared out.
    """
    devices = jax.local_devices()
    data = None
    if rows_divide is not None:
        most = max(1, len(devices) // model)
        data = next(n for n in range(most, 0, -1) if rows_divide % n == 0)
    found = make_mesh(model=model, data=data, devices=devices)
    return found if found.size > 1 else None
