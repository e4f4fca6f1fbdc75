"""What this card can do at most: bytes copied per second, and operations of bfloat16 products."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.accelerator import timing

COPY = "copy bandwidth"
MATMUL = "bfloat16 matmul rate"


def measure(report, dry_run: bool) -> None:
    """Writes the copy bandwidth (read and written bytes) and the rate of large products."""
    device = timing.device()
    count = 1 << (20 if dry_run else 30)  # bfloat16 numbers: 2 GiB read, 2 GiB written
    source = jax.random.normal(jax.random.key(0), (count,), jnp.bfloat16)
    took = timing.seconds(functools.partial(jax.jit(jnp.negative), source))
    where = f"{device.device_kind}, {device.platform}"
    report.add(COPY, 2 * source.nbytes / took / 1e9, "GB/s", where, device=device.device_kind)
    for size in (256,) if dry_run else (8192, 4096):
        a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in range(2))
        took = timing.seconds(functools.partial(jax.jit(jnp.matmul), a, b), repeats=20)
        note = f"{size} x {size} x {size}, random numbers"
        report.add(MATMUL, 2 * size**3 / took / 1e12, "TFLOP/s", note, size=size)
