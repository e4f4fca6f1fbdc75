"""One process of two, each with four CPU devices; writes, as JSON, what test_mesh.py asserts.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 \
      python -m tests.parallel.process_worker FOLDER ADDRESS PROCESS_ID FILE

It writes to a file because gloo prints to standard output.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from powerjax import models
from powerjax.models import sharding
from powerjax.models.layout import tensors
from powerjax.parallel import mesh, processes


def main(folder: str, address: str, process_id: str) -> dict:
    processes.start(address, 2, int(process_id), timeout_s=30)
    grid = mesh.make_mesh(model=2)
    lm = models.load(folder, dtype="float32", mesh=grid, fsdp=True)
    alone = models.load(folder, dtype="float32")  # on one device of this process
    plain = traverse_util.flatten_dict(alone.params, sep="/")
    params = traverse_util.flatten_dict(lm.params, sep="/")
    equal = all(
        np.array_equal(shard.data, np.asarray(plain[path])[shard.index])
        for path, x in params.items()
        for shard in x.addressable_shards
    )
    table = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    rows = jax.make_array_from_callback(
        table.shape, NamedSharding(grid, P("data")), table.__getitem__
    )
    total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(grid, P()))(rows)
    same_fingerprint = lm.fingerprint == alone.fingerprint
    processes.barrier("end")
    shapes = {path: tensor.shape for path, tensor in tensors(lm.config).items()}
    held = {sum(x.addressable_shards[i].data.nbytes for x in params.values()) for i in range(4)}
    return {
        "is_main": processes.is_main(),
        "num_devices": jax.device_count(),
        "model_within_a_process": all(
            len({device.process_index for device in row}) == 1 for row in grid.devices
        ),
        "equal": equal,
        "same_fingerprint": same_fingerprint,
        "total": np.asarray(total.addressable_data(0)).tolist(),
        "bytes": held.pop() if len(held) == 1 else None,
        "planned": sharding.num_bytes_per_device(shapes, lm.config, grid, 4, fsdp=True),
        "planned_without": sharding.num_bytes_per_device(shapes, lm.config, grid, 4),
    }


if __name__ == "__main__":
    Path(sys.argv[4]).write_text(json.dumps(main(*sys.argv[1:4])))
