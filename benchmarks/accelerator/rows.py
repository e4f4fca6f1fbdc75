"""The rows of benchmarks.gpu. Each is on disk once it is measured, and later parts read them.

This file imports neither JAX nor torch, so that the process that starts the parts holds no device.
"""

import json
import os
import subprocess
import time
from pathlib import Path

from powerjax import records

RESULTS = "results.jsonl"


class Report:
    """Appends the rows of one part to OUT/results.jsonl.

    started: when the part's process was started, in seconds since the epoch; None for the process
      that starts the parts.
    """

    def __init__(self, out: Path, part: str, started: float | None = None):
        self.path = out / RESULTS
        self.part = part
        self.started = started

    def begin(self, *, dry_run: bool) -> None:
        """Writes the first row of a run: the machine and the software."""
        self._write(
            what="machine",
            note=("dry run with toy shapes; " if dry_run else "") + _card(),
            dry_run=dry_run,
            command=records.command(),
            git_commit=records.git_commit(),
            versions=records.versions(),
            cpus=os.cpu_count(),
            load=round(os.getloadavg()[0], 2),
        )

    def add(self, what: str, value: float, unit: str, note: str = "", **more) -> None:
        """Writes a measured value and its unit. `more` are further fields of the row."""
        self._write(what=what, value=float(value), unit=unit, note=note, **more)

    def skip(self, what: str, reason: str, **more) -> None:
        """Writes that a value was not measured, and why."""
        self._write(what=what, note=f"not measured: {reason}", **more)

    def fail(self, reason: str) -> None:
        """Writes that the part did not come to its end, and why."""
        self._write(what="the whole part", note=reason, failed=True)

    def row(self, part: str, what: str) -> dict | None:
        """Returns the first row of this name that a part of this run wrote, or None."""
        rows = (row for row in read(self.path.parent) if row["part"] == part)
        return next((row for row in rows if row["what"] == what), None)

    def value(self, part: str, what: str) -> float | None:
        """Returns the value that a part of this run measured; None if it measured none."""
        return (self.row(part, what) or {}).get("value")

    def _write(self, **fields) -> None:
        row = {"part": self.part, **fields, "time": round(time.time(), 2)}
        data = json.dumps(row, ensure_ascii=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        print(_line(row), flush=True)


def read(out: Path) -> list[dict]:
    """Returns the rows of the folder's last run."""
    rows = records.read(out / RESULTS)
    starts = [i for i, row in enumerate(rows) if row["part"] == "run" and row["what"] == "machine"]
    return rows[starts[-1] if starts else 0 :]


def table(out: Path) -> str:
    """Returns all rows of the folder's last run, one per line."""
    return "".join(_line(row) + "\n" for row in read(out))


def failed(out: Path) -> bool:
    """Returns whether a part of the folder's last run did not come to its end."""
    return any(row.get("failed") for row in read(out))


def last_line(log: Path) -> str:
    """Returns the last line of a file that is not blank."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")


def _line(row: dict) -> str:
    value = "-" if row.get("value") is None else f"{row['value']:,.4g} {row['unit']}"
    return f"{row['part']:15}{row['what']:54}{value:>18}  {row['note']}".rstrip()


def _card() -> str:
    """Returns name, driver and memory of the NVIDIA cards that this process may use."""
    query = "--query-gpu=name,driver_version,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "no nvidia-smi here"
    return "; ".join(ran.stdout.strip().splitlines())
