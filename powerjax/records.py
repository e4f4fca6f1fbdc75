"""What a run leaves on disk: append-only JSON lines, and a manifest beside them.

A record is one finished completion: one line of JSON, on disk before the run goes on. Its `id` is
task/problem/model/sampler-hash/seed/sample, where the hash is of the settings that decide the law
(`identity.LAW`), so that runs with different settings have different ids. Records made before the
hash was part of the id have task/problem/model/sampler/seed/sample, and are read like any others.
An id is unique in its file, so a run that was killed takes up where it stopped: it reads the
records that are there and makes the others. Whoever reads records gets them checked by `fields`;
fields that a reader does not know pass through.
"""

import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from powerjax import fields, identity, json_lines

Record = dict[str, Any]

MANIFEST = "manifest.json"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
VERSIONS_OF = ("powerjax", "jax", "jaxlib", "flax", "numpy", "transformers", "safetensors")


def record_id(
    *,
    task: str,
    problem_id: str,
    model: str,
    sampler: str,
    seed: int,
    sample_index: int,
    law: Mapping[str, Any] | None = None,
) -> str:
    """The unique name of one completion: task/problem/model/sampler-hash/seed/sample.

    law: the record's settings (`identity.LAW`), whose hash tells apart samplers of one name.
      Without it the id has no hash, and names the chain whatever its settings.
    """
    label = sampler if law is None else f"{sampler}-{identity.law_hash(law)}"
    return f"{task}/{problem_id}/{model}/{label}/{seed}/{sample_index}"


def sampler_label(record: Record) -> str:
    """The sampler's name in a record's id, without the hash; its `sampler` where the id has none.

    It is the name of the row where a run's rows have names of their own.
    """
    parts = str(record.get("id")).rsplit("/", 3)
    if len(parts) < 4:
        return str(record.get("sampler"))
    return _without_hash(record, parts[1])


def chain_name(record: Record) -> str:
    """A record's id without the hash, as records made before the hash have it."""
    parts = str(record.get("id")).rsplit("/", 3)
    if len(parts) == 4:
        parts[1] = _without_hash(record, parts[1])
    return "/".join(parts)


def _without_hash(record: Record, label: str) -> str:
    name, dash, end = label.rpartition("-")
    # Names that users chose may end like a hash: only the record's own is taken away.
    return name if dash and end == identity.law_hash(record) else label


def rows(path: str | os.PathLike) -> Iterator[tuple[int, Record]]:
    """Yields (line number, row) of any file of JSON lines; blank lines are passed over.

    Raises a ValueError of one line, with file and line number, at the first line that is not a JSON
    object, and for a file that is no file of lines.
    """
    yield from json_lines.rows(path, json_lines.read_bytes(path))


def whole_rows(path: str | os.PathLike) -> Iterator[tuple[int, Record]]:
    """`rows` without a last line that a kill cut short. One without its newline alone is whole."""
    text = json_lines.read_bytes(path)
    yield from json_lines.rows(path, text, json_lines.end_of_whole_lines(text))


def is_cut_short(path: str | os.PathLike) -> bool:
    """Whether `whole_rows` leaves out the file's last line."""
    text = json_lines.read_bytes(path)
    return json_lines.end_of_whole_lines(text) < len(text)


def read(path: str | os.PathLike, needs: Iterable[str] = ()) -> list[Record]:
    """The finished records of a file; a last line that a kill cut short is no record.

    needs: fields that each record must have.
    Raises a ValueError of one line, with file and line number, for a line that is no JSON object
    and for a field that is not what `fields` says.
    """
    return [row for _, row in numbered(path, needs)]


def numbered(path: str | os.PathLike, needs: Iterable[str] = ()) -> list[tuple[int, Record]]:
    """(line number, record) of each record that `read` returns."""
    found = list(whole_rows(path))
    for number, row in found:
        fields.check(row, f"{path}, line {number}", needs=needs)
    return found


class RecordFile:
    """An append-only file of records, open in one process at a time.

    Opening it drops a torn last line and reads the rest into `records`; `append` returns when the
    record is on disk. A last record that only lacks its newline stays, and gets it with the next
    record. When the disk is full, `append` leaves the file at its last whole record and raises
    OSError.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.records: list[Record] = []
        self._ids: set[str] = set()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            text = json_lines.read_bytes(self.path)
            self._end = json_lines.end_of_whole_lines(text)
            for number, row in json_lines.rows(self.path, text, self._end):
                fields.check(row, f"{self.path}, line {number}")
                self._admit(row, f"{self.path}, line {number}")
            if self._end < len(text):
                os.ftruncate(self._fd, self._end)
            lacks_newline = self._end > 0 and text[self._end - 1 : self._end] != b"\n"
            self._newline = b"\n" if lacks_newline else b""
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._ids

    def __len__(self) -> int:
        return len(self.records)

    def append(self, record: Record) -> None:
        """Writes one record, and returns when it is on disk."""
        line = encode(record)
        self._admit(json.loads(line), f"{self.path}")
        data = self._newline + line
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
            os.fsync(self._fd)
        except OSError as error:
            self._ids.discard(record["id"])
            self.records.pop()
            os.ftruncate(self._fd, self._end)
            raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from None
        self._end += len(data)
        self._newline = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _admit(self, row: Record, where: str) -> None:
        if not isinstance(row.get("id"), str):
            raise ValueError(f"{where}: a record without an id; mend or delete that line")
        if row["id"] in self._ids:
            raise ValueError(f"{where}: a second record {row['id']!r}; delete one of the two")
        self._ids.add(row["id"])
        self.records.append(row)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.path}: another process is writing to it; wait for that one or choose"
                " another --out"
            ) from None


def encode(record: Record) -> bytes:
    """A record as its line of a file."""
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except RecursionError:
        raise ValueError(f"the record {record.get('id')!r} is nested too deep") from None
    return line.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """A number or array of NumPy or JAX as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def open_run(
    folder: str | os.PathLike, settings: dict[str, Any], *, free: tuple[str, ...] = ()
) -> Path:
    """Makes the folder of a run, or takes up one made before with the same settings.

    Args:
      folder: the run folder.
      settings: flag name -> value, as the command has them.
      free: names that may differ from one start to the next, because they do not change a record.

    Returns the folder. Raises ValueError, naming the flags that differ, if the folder holds records
    of a run with other settings.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    settings = json.loads(json.dumps(settings, default=str))
    start = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command(),
        "git_commit": git_commit(),
        "versions": versions(),
        "device": _device(),
    }
    has_records = _has_records(folder)
    if path.exists():
        manifest = read_manifest(path)
        if has_records:  # a run that failed before its first one binds nobody
            _compare(folder, manifest["settings"], settings, free)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if has_records:
            raise ValueError(
                f"{folder} holds JSONL files but no {MANIFEST}: it is not the folder of a run;"
                " choose another --out"
            )
        manifest = {"starts": []}
    manifest |= {"settings": settings, "starts": [*manifest["starts"], start]}
    _write_manifest(path, manifest)
    return folder


def note_prompts(folder: str | os.PathLike, styles: dict[str, dict[str, str]]) -> None:
    """Writes into a run's manifest how the model is asked each task.

    Args:
      folder: the run folder that `open_run` made.
      styles: task -> {"style": "raw" or "chat", "why": the reason}.

    Raises ValueError where the folder holds records that were asked in the other style.
    """
    folder = Path(folder)
    manifest = read_manifest(folder / MANIFEST)
    before = manifest.get("prompts") or {}
    for task, now in styles.items():
        was = before.get(task, now)
        if was["style"] != now["style"] and _has_records(folder):
            raise ValueError(
                f"{folder} holds a run of {was['style']} prompts ({was['why']}), and this command's"
                f" would be {now['style']} ({now['why']}): choose another --out"
            )
    if before | styles != before:
        _write_manifest(folder / MANIFEST, manifest | {"prompts": before | styles})


def _has_records(folder: Path) -> bool:
    return any(file.stat().st_size for file in folder.rglob("*.jsonl"))


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_manifest(path: Path) -> dict[str, Any]:
    """A run's manifest: "settings", an object, and "starts", a list.

    Raises a ValueError of one line where the file is no such thing.
    """
    try:
        manifest = json_lines.document(path)
        is_manifest = isinstance(manifest["settings"], dict) and isinstance(
            manifest["starts"], list
        )
    except (ValueError, KeyError, TypeError):
        is_manifest = False
    if not is_manifest:
        raise ValueError(f"{path}: not a manifest of this project; choose another --out")
    return manifest


def _compare(
    folder: Path, before: dict[str, Any], now: dict[str, Any], free: tuple[str, ...]
) -> None:
    differing = [k for k in now if k in before and k not in free and before[k] != now[k]]
    if differing:
        was = " ".join(f"--{k}={before[k]}" for k in differing)
        asked = " ".join(f"--{k}={now[k]}" for k in differing)
        raise ValueError(
            f"{folder} holds a run made with {was}, and this command has {asked}: choose another"
            " --out, or give the flags it was made with"
        )


def command() -> str:
    """The shell command that started this program, to be typed in the same folder again."""
    python = os.path.relpath(sys.executable)
    if python.startswith(".."):
        python = "python"
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = [python, "-m", spec.name] if spec else [python, sys.argv[0]]
    return shlex.join([*program, *sys.argv[1:]])


def git_commit() -> str | None:
    """The checkout this program runs from; None where it is not one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(
            asked, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def software() -> dict[str, str | None]:
    """What hosts of one run have to have alike: `versions` but Python's, and the commit."""
    found = {f"{name} version": v for name, v in versions().items() if name != "python"}
    return found | {"git commit": git_commit()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what is computed."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _device() -> dict[str, Any]:
    import jax  # here, so that reading records needs no accelerator

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "host": platform.platform(),
        "cpus": os.cpu_count(),
    }
