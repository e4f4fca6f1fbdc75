"""Random weights of a model's shapes: the paper's RandW."""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from powerjax.models.config import ModelConfig
from powerjax.models.layout import tensors
from powerjax.models.sharding import param_sharding


def random_params(
    config: ModelConfig, dtype, mesh: Mesh | None = None, seed: int = 0, *, fsdp: bool = False
) -> dict[str, Any]:
    """Returns N(0, initializer_range) matrices, norms that multiply by 1, and biases of zeros.

    Each tensor is made on the devices and in the dtype where it stays. Its values depend on the
    seed and its path alone.
    """
    flat = {}
    norm = 0.0 if config.family.norm_offset else None
    for path, tensor in tensors(config).items():
        sharding = None
        if mesh is not None:
            sharding = param_sharding(path, tensor.shape, config, mesh, fsdp=fsdp)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
        scale = {"scale": norm, "bias": 0.0}.get(path.split("/")[-1], config.initializer_range)
        flat[path] = _random_tensor(tensor.shape, jnp.dtype(dtype), scale, sharding)(key)
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def _random_tensor(shape, dtype, scale, sharding):
    """Returns the compiled function that draws one tensor; a scale of None stands for ones."""

    def make(key):
        if scale is None:
            return jnp.ones(shape, dtype)
        if not scale:
            return jnp.zeros(shape, dtype)
        return (scale * jax.random.normal(key, shape, jnp.float32)).astype(dtype)

    return jax.jit(make, out_shardings=sharding)
