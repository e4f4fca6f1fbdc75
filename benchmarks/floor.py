"""The least time that a decode step can take on this machine."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from powerjax.models import ModelConfig


class Floor:
    """What this machine can do at most, measured when the object is made.

    The bandwidth is the better of an in-place scaling and a matrix-vector product. The matmul rate
    is the best of several shapes.
    """

    def __init__(self):
        rng = np.random.default_rng(0)
        big = jnp.asarray(rng.random((8192, 32_768), np.float32))  # 1 GiB
        vector = jnp.ones(8192)
        product = jax.jit(lambda v, x: v @ x)
        read = big.nbytes / _best(lambda: product(vector, big))
        scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            big = jax.block_until_ready(scale(big))
            times.append(time.perf_counter() - began)
        self.bytes_per_s = max(read, 2 * big.nbytes / min(times))
        self.flops_per_s = max(
            2 * m * k * n / _best(jax.jit(jnp.matmul).lower(a, b).compile(), a, b)
            for m, k, n in ((64, 896, 4864), (256, 896, 4864), (2048, 2048, 2048))
            for a, b in [(jnp.ones((m, k)), jnp.ones((k, n)))]
        )

    def step_s(self, config: ModelConfig, rows: int, length: int, itemsize: int = 4) -> float:
        """Returns the least seconds of a decode step.

        That is the larger of the time to read the weights and the cache of `rows` rows of `length`
        tokens, and the time for the operations at the rate of float32.

        itemsize: bytes of a number of weights and cache.
        """
        c = config
        per_layer = c.hidden_size * c.head_dim * 2 * (c.num_heads + c.num_kv_heads)
        weights = c.num_layers * (per_layer + 3 * c.hidden_size * c.intermediate_size)
        weights += c.vocab_size * c.hidden_size
        cache = rows * length * 2 * c.num_layers * c.num_kv_heads * c.head_dim
        attention = rows * length * 2 * c.num_layers * c.num_heads * c.head_dim
        return max(
            itemsize * (weights + cache) / self.bytes_per_s,
            2 * (rows * weights + attention) / self.flops_per_s,
        )

    def __str__(self):
        return f"{self.bytes_per_s / 1e9:.0f} GB/s, {self.flops_per_s / 1e9:.0f} GFLOP/s"


def _best(run, *args, repeats: int = 15) -> float:
    """Returns the shortest of several calls, in seconds."""
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - began)
    return min(times)
