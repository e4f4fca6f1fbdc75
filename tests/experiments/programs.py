"""Running the launchers as their users do."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import compiling

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = ROOT / "tests/experiments/without_torch"
QUICK = ("--model=tiny", "--task=arithmetic", "--quick", "--noprogress")  # for reproduce


def environment(num_devices: int = 1, optimized: bool = False) -> dict[str, str]:
    """Returns the environment of a process that makes `num_devices` devices of the CPU.

    torch is hidden from it, which takes two seconds to import and has no part in a launcher.

    optimized: whether XLA optimises what it compiles. Without, compiling takes half as long, so it
      pays only where a program computes for longer than it compiles.
    """
    paths = [str(WITHOUT_TORCH), os.environ.get("PYTHONPATH")]
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(not optimized)),
        "XLA_FLAGS": flags if optimized else f"{flags} {compiling.xla_flags()}",
        # A process that a test kills may leave half an entry in the cache that all tests share.
        "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def start(
    module: str,
    *arguments: str,
    num_devices: int = 1,
    optimized: bool = False,
    env: dict[str, str] | None = None,
    **options,
) -> subprocess.Popen:
    """Starts `python -m module arguments` with its output in pipes.

    env: variables in addition to those of `environment`. options: further ones of Popen.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(num_devices, optimized) | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def end(process: subprocess.Popen, timeout_s: float = 300) -> tuple[int, str, str]:
    """Waits for a process and returns its exit status, standard output and standard error."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


_ENDS = """
import contextlib, importlib, io, json, sys
from absl import flags
from powerjax import cli
main = importlib.import_module(sys.argv[1]).main
name = sys.argv[1].split(".")[-1]
for argv in json.loads(sys.argv[2]):
    sys.argv = [f"{name}.py", *argv]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(main)
        except SystemExit as end:
            code = end.code
    print("END", json.dumps([code or 0, out.getvalue(), err.getvalue()]))
    flags.FLAGS.unparse_flags()
    for name_ in list(flags.FLAGS):
        flags.FLAGS[name_].unparse()
"""


def ends(module: str, argvs: list[list[str]], num_devices: int = 1) -> list[tuple[int, str, str]]:
    """Runs a launcher with each of these arguments, all in one process, which saves time.

    Returns the exit status, standard output and standard error of each.
    """
    return ends_side_by_side(module, [argvs], num_devices)[0]


def ends_side_by_side(
    module: str, processes: list[list[list[str]]], num_devices: int = 1
) -> list[list[tuple[int, str, str]]]:
    """Does what `ends` does in several processes at a time, each with its own list of arguments."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _ENDS, module, json.dumps(argvs)],
            cwd=ROOT,
            env=environment(num_devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argvs in processes
    ]
    everything = []
    for process, argvs in zip(running, processes, strict=True):
        out, err = process.communicate(timeout=300)
        results = [json.loads(line[4:]) for line in out.split("\n") if line.startswith("END ")]
        assert len(results) == len(argvs), err
        everything.append([tuple(result) for result in results])
    return everything
