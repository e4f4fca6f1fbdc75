"""Which kernels a device spent its time in, from a trace of JAX's profiler."""

import collections
from pathlib import Path
from typing import NamedTuple

import jax


class Kernel(NamedTuple):
    """One kernel of a trace: how often it ran, and its share of all kernels' time."""

    name: str
    total_ms: float
    count: int
    share: float


def longest_kernels(folder: Path, most: int) -> list[Kernel]:
    """Returns the `most` kernels that took most time in the trace that is in `folder`.

    A GPU's kernels are the events on its streams. A CPU has no streams, so there the events of
    XLA's threads are taken.
    """
    nanoseconds, count = collections.Counter(), collections.Counter()
    for path in folder.rglob("*.xplane.pb"):
        for name, duration in _events(jax.profiler.ProfileData.from_file(str(path))):
            nanoseconds[name] += duration
            count[name] += 1
    total = sum(nanoseconds.values())
    return [
        Kernel(name, spent / 1e6, count[name], spent / total)
        for name, spent in nanoseconds.most_common(most)
    ]


def _events(profile):
    """Yields (name, nanoseconds) of every kernel of a profile."""
    planes = [plane for plane in profile.planes if plane.name.startswith("/device:GPU")]
    wanted = "Stream"
    if not planes:
        planes = [plane for plane in profile.planes if plane.name.startswith("/host:CPU")]
        wanted = "tf_XLA"
    for plane in planes:
        for line in plane.lines:
            if line.name.startswith(wanted):
                for event in line.events:
                    yield event.name, event.duration_ns
