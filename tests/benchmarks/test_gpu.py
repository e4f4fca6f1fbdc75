"""benchmarks.gpu end to end with toy shapes, as its user runs it."""

import json
import subprocess
import sys

import pytest

from benchmarks.accelerator import kernels, memory
from benchmarks.accelerator.parts import PARTS
from tests.experiments import programs


def run_gpu(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=programs.ROOT,
        env=programs.environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=600,
    )


def rows(folder) -> list[dict]:
    """Returns the rows of a run."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def bare(tmp_path):
    """An environment in which packages that a rented machine may lack cannot be imported."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("datasets", "math_verify", "tensorboardX"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    return {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


@pytest.mark.full
def test_dry_run_writes_a_row_of_every_part_in_four_minutes(tmp_path, bare, record_property):
    ran = run_gpu(f"--out={tmp_path}", "--dry_run", env=bare)
    results = rows(tmp_path)
    assert ran.returncode == 0, ran.stdout + (tmp_path / "log.txt").read_text()
    assert {row["part"] for row in results} == {"run", *PARTS}
    assert not any(row.get("failed") for row in results)
    for row in results:
        if row["what"] != "machine" and row.get("value") is None:
            assert row["note"].startswith("not measured: "), row
    values = {(row["part"], row["what"]): row.get("value") for row in results}
    measured = {part for (part, _), value in values.items() if value is not None}
    assert {name for name, part in PARTS.items() if not part.on_host} <= measured
    signed = {key: value for key, value in values.items() if value and "rest" not in key[1]}
    assert {key: value for key, value in signed.items() if not value > 0} == {}
    seconds = values["run", "everything"]
    record_property("dry run of benchmarks.gpu, seconds", round(seconds))
    assert seconds < 240
    assert (tmp_path / "table.txt").read_text() in ran.stdout


def test_a_part_killed_at_its_limit_stops_no_other(tmp_path):
    chosen = ("--only=top_k,card,memory", "--limits=top_k=0.3")
    ran = run_gpu(f"--out={tmp_path}", "--dry_run", *chosen)
    results = rows(tmp_path)
    assert ran.returncode == 1
    assert [row["part"] for row in results if row.get("failed")] == ["top_k"]
    assert "killed at its limit of 0.3 s" in (tmp_path / "table.txt").read_text()
    assert {row["part"] for row in results if row.get("value")} == {"run", "card", "memory"}


def test_parts_that_have_no_time_left_say_so(tmp_path):
    ran = run_gpu(f"--out={tmp_path}", "--dry_run", "--only=card,top_k", "--limit_s=1")
    notes = {row["part"]: row["note"] for row in rows(tmp_path) if row.get("failed")}
    assert ran.returncode == 1
    assert notes["top_k"] == "not begun: the time for everything is over"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--out is missing"),
        (["--out=OUT", "--only=card,gpu"], "--only=gpu: the parts are card, decode"),
        (["--out=OUT", "--limits=decode=soon"], "--limits=decode=soon: write PART=SECONDS"),
        (["--out=/dev/null/gpu"], "--out=/dev/null/gpu: Not a directory"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, line):
    ran = run_gpu(*(argument.replace("OUT", str(tmp_path)) for argument in arguments))
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1 and line in ran.stderr


@pytest.mark.parametrize(
    ("kind", "gib", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", 75, "h100-80gb"),
        ("NVIDIA H200", 130, "h200"),
        ("NVIDIA A100-SXM4-40GB", 37, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 75, "a100-80gb"),
        ("TPU v5e", None, "v5e"),
    ],
)
def test_a_device_is_found_among_the_chips_of_the_plan(kind, gib, chip):
    assert memory.find_chip(kind, gib and gib << 30).name == chip


def test_a_device_that_the_plan_does_not_know_is_no_chip():
    assert memory.find_chip("NVIDIA GeForce RTX 4090", 24 << 30) is None


def test_kernels_of_a_trace_are_counted_by_time(tmp_path):
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((256, 256))
    product(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        product(x).block_until_ready()
    longest = kernels.longest_kernels(tmp_path, 3)
    assert 0 < len(longest) <= 3
    times = [kernel.total_ms for kernel in longest]
    assert times == sorted(times, reverse=True)
