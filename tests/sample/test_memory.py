"""Free memory of a host: what is available, and the limits of containers and batch jobs."""

import os
import types

import jax
import pytest

from powerjax.plan import probe
from powerjax.sample import memory

GIB = 2**30
_MEMINFO = "MemTotal: 33554432 kB\nMemFree: 1048576 kB\nMemAvailable: 20971520 kB\n"  # 32, 1, 20


def host(root, files):
    """A folder with these files, and a /proc/meminfo in which 20 GiB are available, 1 is free."""
    for name, text in {"proc/meminfo": _MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(root)


def version_2(folder, limit, used, cached=0, high="max"):
    return {
        f"sys/fs/cgroup/{folder}memory.max": limit,
        f"sys/fs/cgroup/{folder}memory.high": high,
        f"sys/fs/cgroup/{folder}memory.current": used,
        f"sys/fs/cgroup/{folder}memory.stat": f"anon 5\ninactive_file {cached}\nslab 1",
    }


def version_1(folder, limit, used, cached=0):
    stat = f"inactive_file 7\ntotal_inactive_file {cached}"
    return {
        f"sys/fs/cgroup/memory/{folder}memory.limit_in_bytes": limit,
        f"sys/fs/cgroup/memory/{folder}memory.usage_in_bytes": used,
        f"sys/fs/cgroup/memory/{folder}memory.stat": stat,
    }


def test_memory_that_only_caches_files_is_free(tmp_path):
    assert memory.host_free_bytes(host(tmp_path, {})) == 20 * GIB


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        # A container: its own cgroup at the root of the mount, whatever path the host knows it by.
        ("0::/", version_2("", 8 * GIB, 5 * GIB, 3 * GIB), 6 * GIB),
        ("0::/docker/abc", version_2("", 8 * GIB, 5 * GIB), 3 * GIB),
        # A batch job: the step has no limit, the job above it has.
        (
            "0::/slurm/job_7/step_0",
            version_2("slurm/job_7/", 16 * GIB, 4 * GIB, GIB)
            | version_2("slurm/job_7/step_0/", "max", 4 * GIB),
            13 * GIB,
        ),
        ("0::/a", version_2("a/", "max", GIB, high=3 * GIB), 2 * GIB),
        ("0::/a", version_2("a/", 64 * GIB, GIB), 20 * GIB),
        ("0::/a", version_2("a/", GIB, 2 * GIB), 0),
        ("0::/a", {}, 20 * GIB),
        ("5:cpu:/x\n4:memory:/x\n0::/", version_1("x/", 4 * GIB, 2 * GIB, GIB), 3 * GIB),
        ("4:hugetlb,memory:/kubepods/x", version_1("", 4 * GIB, GIB), 3 * GIB),
        ("4:memory:/", version_1("", 0x7FFFFFFFFFFFF000, GIB), 20 * GIB),
        ("0::/../../x", {}, 20 * GIB),
        ("\nmemory\n0::/a", version_2("a/", 3 * GIB, GIB), 2 * GIB),
    ],
)
def test_the_limit_of_a_container_or_a_job_counts_where_it_is_smaller(
    tmp_path, cgroup, files, expected
):
    root = host(tmp_path, {"proc/self/cgroup": cgroup, **files})
    assert memory.host_free_bytes(root) == expected


def test_nothing_is_claimed_where_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    assert memory.host_free_bytes(str(tmp_path)) is None
    silent = types.SimpleNamespace(memory_stats=lambda: None, platform="gpu")
    assert memory.free_bytes(silent) is None
    told = {"bytes_limit": 100, "bytes_in_use": 30}
    assert memory.free_bytes(types.SimpleNamespace(memory_stats=lambda: told, platform="gpu")) == 70


def test_on_macos_free_and_inactive_pages_count(tmp_path, monkeypatch):
    text = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            200000.
Pages inactive:                           30000.
Pages wired down:                         90000.
"""
    said = types.SimpleNamespace(stdout=text)
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: said)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.host_free_bytes(str(tmp_path)) == 40_000 * 16_384


def test_the_plan_and_the_engine_read_the_same_memory(tiny_qwen):
    device = jax.devices("cpu")[0]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert probe.memory_lib is memory
    assert 0 < memory.free_bytes(device) <= pages
    assert probe.memory(tiny_qwen, 10, 30).free == pytest.approx(memory.free_bytes(device), rel=0.2)
