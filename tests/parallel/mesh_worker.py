"""Loads checkpoints on a mesh of eight CPU devices; prints, as JSON, what test_mesh.py asserts.

It is a process of its own, because eight host devices would change threading for every other test.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.parallel.mesh_worker DIR...
"""

import json
import logging
import sys

import jax
import numpy as np
from flax import traverse_util

from powerjax import models
from powerjax.models import sharding
from powerjax.models.cache import cache_sharding, init_cache
from powerjax.models.layout import tensors
from powerjax.parallel import mesh
from powerjax.plan import probe


def compare(folder: str, model_axis: int) -> dict:
    """Compares one checkpoint on the mesh with the same one on one device."""
    plain = models.load(folder, dtype="float32")
    grid = mesh.make_mesh(model=model_axis)
    lm = models.load(folder, dtype="float32", mesh=grid)
    tokens = np.arange(40).reshape(4, 10)
    pairs = [[1, 2, 3], [4]] * 4, [[5, 6], [7, 8, 9]] * 4
    scores = zip(lm.score(*pairs), plain.score(*pairs), strict=True)
    shards, equal = {}, True
    flat = traverse_util.flatten_dict(plain.params, sep="/")
    for path, x in traverse_util.flatten_dict(lm.params, sep="/").items():
        shards[path] = x.addressable_shards[0].data.shape
        equal &= np.array_equal(np.asarray(x), np.asarray(flat[path]))
    random, random_plain = (
        models.load(folder, dtype="float32", mesh=m, random_weights=True).params
        for m in (grid, None)
    )
    same = jax.tree.map(
        lambda a, b: a.sharding.mesh == grid and np.array_equal(a, b), random, random_plain
    )
    cache = init_cache(lm.config, 2, 40, lm.dtype, cache_sharding(lm.config, grid))
    shapes = {path: tensor.shape for path, tensor in tensors(lm.config).items()}
    return {
        "axes": dict(grid.shape),
        "equal_params": bool(equal),
        "same_fingerprint": lm.fingerprint == plain.fingerprint,
        "equal_random": all(jax.tree.leaves(same)),
        "logits": float(np.abs(lm.logits(tokens) - plain.logits(tokens)).max()),
        "scores": float(max(np.abs(a - b).max() for a, b in scores)),
        "shards": shards,
        "bytes_device_0": sum(
            x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(lm.params)
        ),
        "bytes_of_caches": sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(cache)),
        "plan": probe.memory(lm, 10, 30)._asdict(),
        "bytes_planned": sharding.num_bytes_per_device(shapes, lm.config, grid, 4),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    print(json.dumps({f"{f} {n}": compare(f, n) for f in sys.argv[1:] for n in (2, 4)}))
