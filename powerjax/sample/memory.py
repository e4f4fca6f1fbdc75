"""How much memory is free for a run, and how many slots fit into it.

Free memory is a device's own, or the host's that a CPU computes in.
"""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from powerjax.models.language_model import LM
from powerjax.sample import placement, shapes

log = logging.getLogger(__name__)

_Names = tuple[tuple[str, ...], str, str]
# Names in a cgroup's folder, of versions 2 and 1: the files with limits, the file with the bytes in
# use, and the key in memory.stat of those of them that hold cached files, which Linux can reclaim.
_CGROUP_2: _Names = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_CGROUP_1: _Names = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def pick_num_slots(
    lm: LM,
    longest_prompt: int,
    max_new_tokens: int,
    num_chains: int,
    proposal: LM | None = None,
) -> int:
    """How many slots a run has, over all its engines.

    Each row of the mesh gets as many slots as fit the free memory of the fullest device, but no
    more than its share of the chains, rounded up (`shapes.slots_for`), and no more than pays (64 on
    a CPU, 256 elsewhere). Where a device does not say how much memory it has free, each row gets 8
    at most. On a CPU, several engines may share a row's slots (`workers.count_workers`).

    Args:
      lm: the model, loaded.
      longest_prompt: tokens.
      max_new_tokens: tokens.
      num_chains: of the whole job.
      proposal: the model that decodes beside it in each slot, if one does.
    """
    devices, rows = placement.devices(lm), placement.num_rows(lm)
    lengths, platform = (longest_prompt, max_new_tokens), devices[0].platform
    per_slot = sum(
        shapes.bytes_per_slot(model.config, model.dtype, *lengths, platform, model.mesh)
        for model in (lm, proposal)
        if model is not None
    )
    free = [free_bytes(device) for device in devices]
    known = [count for count in free if count is not None]
    fitting = shapes.STEP
    if len(known) < len(free):
        log.warning(
            "%s does not say how much memory it has free: %d slots", devices[0], shapes.STEP
        )
    else:
        fitting = shapes.count_fitting(min(known), per_slot, devices[0].platform)
    return rows * min(fitting, shapes.slots_for(-(-num_chains // rows)))


def free_bytes(device: jax.Device) -> int | None:
    """Bytes that a device has free for new arrays; None where nothing says how many.

    On a CPU it is the host's free memory. Cached files count as free, so a checkpoint that was just
    read takes nothing away.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_free_bytes() if device.platform == "cpu" else None


def host_free_bytes(root: str = "/") -> int | None:
    """Bytes of the host's memory that this process may still take.

    On Linux it is what the kernel calls available (/proc/meminfo), or less where a container or a
    batch job has a limit of its own (cgroups, versions 1 and 2). On macOS it is the free and the
    inactive pages.

    Args:
      root: the folder that holds proc and sys.

    Returns None where nothing says how many.
    """
    try:
        text = Path(root, "proc/meminfo").read_text()
    except OSError:
        return _macos_free_bytes() if sys.platform == "darwin" else None
    available = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.M)
    rooms = [int(available[1]) * 1024] if available else []
    rooms += _cgroup_rooms(Path(root))
    return max(0, min(rooms)) if rooms else None


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """The bytes left below each limit on this process: of its cgroup, and of all above that one."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, *rest = line.split(":", 2)
        if len(rest) < 2:  # sandboxes that imitate Linux have such lines
            continue
        controllers, path = rest
        if not controllers:
            mount, names = mounts, _CGROUP_2
        elif "memory" in controllers.split(","):
            mount, names = mounts / "memory", _CGROUP_1
        else:
            continue
        inner = Path(path.lstrip("/"))
        # A container may see its own cgroup at the mount's root, while `path` is that of the host.
        for folder in [mount / inner, *(mount / above for above in inner.parents)]:
            yield from _rooms_in(folder, *names)


def _rooms_in(folder: Path, limits: tuple[str, ...], used: str, cached: str) -> Iterator[int]:
    try:
        taken = int((folder / used).read_text())
        stat = (folder / "memory.stat").read_text()
    except (OSError, ValueError):  # no such controller here, or the root of all cgroups
        return
    files = re.search(rf"^{cached} (\d+)$", stat, re.M)
    taken -= int(files[1]) if files else 0
    for limit in limits:
        try:
            yield int((folder / limit).read_text()) - taken
        except (OSError, ValueError):  # "max": none
            continue


def _macos_free_bytes() -> int | None:
    try:
        text = subprocess.run(["vm_stat"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    size = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive):\s+(\d+)", text, re.M)
    return int(size[1]) * sum(map(int, pages)) if size and pages else None
