"""Running the launchers as their users do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(
    module: str, *arguments: str, cache: Path, num_devices: int = 1, **options
) -> subprocess.Popen:
    """`python -m module arguments`, its output in pipes, with a compilation cache in `cache`.

    num_devices: how many devices the process makes of the CPU.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if num_devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={num_devices}"
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def end(process: subprocess.Popen, timeout_s: float = 300) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err
