"""Times of compiled programs on the default device, and what that device is."""

import statistics
import time
from collections.abc import Callable

import jax


def seconds(call: Callable, *, repeats: int = 10, passes: int = 3) -> float:
    """Returns the seconds per call: the median of `passes` means of `repeats` calls each.

    The calls of a pass are queued one after the other, and the host waits once for all. A first
    call, which compiles, is not counted.
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
    """Returns the device that is measured."""
    return jax.devices()[0]


def peak_bytes() -> int | None:
    """Returns the most bytes in use on the device so far; None if the device does not report it."""
    return (device().memory_stats() or {}).get("peak_bytes_in_use")


def add_peak(report, what: str, **more) -> None:
    """Writes `peak_bytes` as a row, in GiB. `more` are further fields of the row."""
    peak = peak_bytes()
    if peak is None:
        report.skip(what, "this device does not report its memory", **more)
    else:
        report.add(what, peak / 2**30, "GiB", **more)
