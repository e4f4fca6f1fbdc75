"""Times of compiled programs on the default device, and what that device is."""

import statistics
import time
from collections.abc import Callable

import jax


def seconds(call: Callable, *, repeats: int = 10, passes: int = 3) -> float:
    """Seconds per call: the median of several passes, each the mean of `repeats` calls in a row.

    The calls of a pass are given to the device one after the other and waited for once. A first
    call, which compiles, is left out.
    """
    jax.block_until_ready(call())
    means = []
    for _ in range(passes):
        began = time.perf_counter()
        for _ in range(repeats):
            result = call()
        jax.block_until_ready(result)
        means.append((time.perf_counter() - began) / repeats)
    return statistics.median(means)


def device() -> jax.Device:
    """The device that is measured."""
    return jax.devices()[0]


def peak_bytes() -> int | None:
    """The most bytes that were in use on the device so far; None where it does not say."""
    return (device().memory_stats() or {}).get("peak_bytes_in_use")


def add_peak(report, what: str, **more) -> None:
    """Writes `peak_bytes` as a row; `more` are further fields of it."""
    peak = peak_bytes()
    if peak is None:
        report.skip(what, "this device does not report its memory", **more)
    else:
        report.add(what, peak / 2**30, "GiB", **more)
