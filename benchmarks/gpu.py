"""All measurements on one accelerator, in one command of at most eight minutes.

    python -m benchmarks.gpu --out=runs/gpu
    python -m benchmarks.gpu --out=runs/gpu --dry_run        # toy shapes, also on a CPU

Each part runs in a process of its own, which is killed at its time limit; the others go on. A row
is appended to OUT/results.jsonl as soon as it is measured. The table of all rows is printed at the
end and written to OUT/table.txt. Standard error of the processes goes to OUT/log.txt. The exit
status is 1 if a part failed.

The parts, the most important first (`--only=card,decode` runs some of them):

    card            copy bandwidth and bfloat16 matmul rate of this card
    decode          one model step of the Qwen2.5-7B shape: 16 and 64 slots, short and long contexts
    generate        Hugging Face `generate` of the same shape (needs torch)
    chains          whole power-sampling chains of the Qwen2.5-0.5B shape
    chains_torch    the same chains by one `generate` call per proposal (needs torch)
    training_cublas the LoRA step of the 7B shape, 8 rows of 1,024 tokens, by cuBLAS's products
    training_torch  the same step by PEFT (needs torch and peft)
    training        the same with XLA's own products too, with cudnn's attention and XLA's
    top_k           the draw over a vocabulary of 152,064 with top_k 20 and without
    start           seconds to the first completion with a warm compilation cache
    memory          peak memory and slots against what experiments.plan says of this card

It needs neither `datasets` nor `math-verify` nor the network. All weights are random.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from benchmarks.accelerator import rows
from benchmarks.accelerator.parts import PARTS

_OUT = flags.DEFINE_string("out", None, "Folder for results.jsonl, table.txt and log.txt.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Go through every part with toy shapes.")
_ONLY = flags.DEFINE_list("only", None, "Parts to run; all of them if not given.")
_LIMIT_S = flags.DEFINE_float(
    "limit_s", 480, "Seconds for everything, compile time included.", lower_bound=1
)
_LIMITS = flags.DEFINE_list(
    "limits", [], "Seconds for single parts in place of the built-in limits: decode=100,start=20."
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Keep compiled programs in this folder, so that a second run compiles less. By default each run"
    " compiles everything and removes its programs.",
)
_PART = flags.DEFINE_string("part", None, "Run one part in this process (the command's own use).")
_STARTED = flags.DEFINE_float("started", None, "When the part's process was started (own use).")


class Mistake(SystemExit):
    """A mistake of the user. absl ends the program with this line and status 1."""

    def __init__(self, line: str):
        super().__init__(f"benchmarks.gpu: {line}")


NO_TIME = "not begun: the time for everything is over"


def main(_) -> None:
    if _OUT.value is None:
        raise Mistake("--out is missing: name a folder for the rows")
    out = Path(_OUT.value)
    if _PART.value is not None:
        run_here(_PART.value, out)
        return
    chosen, limits = choose()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / rows.RESULTS).open("a").close()
    except OSError as error:
        raise Mistake(f"--out={out}: {error.strerror}") from None
    compiled = Path(_CACHE_DIR.value or tempfile.mkdtemp(prefix="powerjax-gpu-"))
    report = rows.Report(out, "run")
    report.begin(dry_run=_DRY_RUN.value)
    deadline = time.monotonic() + _LIMIT_S.value
    try:
        for name in chosen:
            run_part(name, limits[name], deadline, out, compiled)
    finally:
        if _CACHE_DIR.value is None:
            shutil.rmtree(compiled, ignore_errors=True)
        took = _LIMIT_S.value - (deadline - time.monotonic())
        report.add("everything", took, "s", f"{len(chosen)} parts")
        table = rows.table(out)
        (out / "table.txt").write_text(table)
        print(f"\n{table}", end="")
    if rows.failed(out):
        sys.exit(1)


def choose() -> tuple[list[str], dict[str, float]]:
    """Returns the chosen parts, in the order of PARTS, and every part's time limit in seconds.

    In a dry run only --limits sets limits below --limit_s, because its machine may be slow.
    """
    limits = {n: _LIMIT_S.value if _DRY_RUN.value else p.limit_s for n, p in PARTS.items()}
    for text in _LIMITS.value:
        name, _, seconds = text.partition("=")
        try:
            limits[_known(name, "limits")] = float(seconds)
        except ValueError:
            raise Mistake(f"--limits={text}: write PART=SECONDS") from None
    chosen = {_known(name, "only") for name in _ONLY.value or PARTS}
    return [name for name in PARTS if name in chosen], limits


def _known(name: str, flag: str) -> str:
    """Returns the name of a part. Raises Mistake where there is no such part."""
    if name not in PARTS:
        raise Mistake(f"--{flag}={name}: the parts are {', '.join(PARTS)}")
    return name


def run_part(name: str, limit_s: float, deadline: float, out: Path, compiled: Path) -> None:
    """Runs a part in its process, and writes a row if it fails or is killed at its limit.

    deadline: when all parts must have ended, by time.monotonic().
    compiled: the folder for compiled programs.
    """
    report = rows.Report(out, name)
    left = deadline - time.monotonic()
    if left <= 0:
        report.fail(NO_TIME)
        return
    command = [sys.executable, "-m", "benchmarks.gpu", f"--part={name}", f"--out={out}"]
    command += [f"--dry_run={_DRY_RUN.value}", f"--started={time.time()}"]
    with (out / "log.txt").open("a") as log:
        print(f"--- {name} ---", file=log, flush=True)
        process = subprocess.Popen(
            command, stderr=log, env=environment(name, compiled), start_new_session=True
        )
        try:
            code = process.wait(min(limit_s, left))
        except subprocess.TimeoutExpired:
            report.fail(f"killed at its limit of {min(limit_s, left):.3g} s")
            return
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        report.fail(f"exit status {code}: {rows.last_line(out / 'log.txt')}")


def environment(name: str, compiled: Path) -> dict[str, str]:
    """Returns the environment of a part's process.

    It says where compiled programs go and which share of the memory JAX may take.
    """
    variables = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    variables.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # as in launch/a100.sh
    if PARTS[name].on_host:
        variables["JAX_PLATFORMS"] = "cpu"
    if PARTS[name].xla_flags:
        flags = (os.environ.get("XLA_FLAGS", ""), PARTS[name].xla_flags)
        variables["XLA_FLAGS"] = " ".join(flags).strip()
    return variables


def run_here(name: str, out: Path) -> None:
    """Runs one part in this process."""
    part = PARTS[name]
    module = importlib.import_module(f"benchmarks.accelerator.{part.module}")
    measure = getattr(module, part.function)
    measure(rows.Report(out, name, _STARTED.value), _DRY_RUN.value)


if __name__ == "__main__":
    app.run(main)
