"""The manifest of a run folder: with which flags the run is made, and who started it when.

    {
      "settings": {"model": ..., "alpha": 4.0, ...},            each flag as the last start had it
      "starts": [{"time", "command", "git_commit", "versions", "device"}, ...],
      "prompts": {"math500": {"style": "chat", "why": ...}}     added by `note_prompts`
    }

A run that was stopped is started again by the same command. Its flags are compared with the
manifest first, so that a folder never mixes the records of two different runs.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from powerjax.records import json_lines, lock

MANIFEST = "manifest.json"
# The packages that decide what is computed.
VERSIONS_OF = ("powerjax", "jax", "jaxlib", "flax", "numpy", "transformers", "safetensors")


def open_run(
    folder: str | os.PathLike, settings: dict[str, Any], *, free: tuple[str, ...] = ()
) -> Path:
    """Writes this start of a run into the folder's manifest; makes a missing folder or manifest.

    The flags of this start become the manifest's "settings", and an entry is added to its "starts".
    The records are not read; only whether there are any is looked up. No lock is taken: where
    several processes start one run, the caller holds `lock.locked(folder)`.

    Args:
      folder: the run folder.
      settings: flag name -> value; a value that JSON cannot say is written as its text.
      free: names of flags that may differ from the earlier start, because they change no record.

    Returns the folder. Raises ValueError where the folder holds JSONL files that are not empty and
    either no manifest, or one with another value of a flag that is not free; then the message names
    these flags, and the manifest stays as it was. A flag that only one of the two starts has is not
    compared. Raises ValueError, too, where manifest.json is not a manifest.
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
        if has_records:  # a run that failed before its first record may be made anew
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
    """Writes given prompt styles, one per task, into a run's manifest.

    `runs.note_prompts`, which a launcher calls, finds the styles out and passes them here.

    Args:
      folder: the run folder that `open_run` made.
      styles: task name -> {"style": "raw" or "chat", "why": the reason, for readers}. Tasks that
        the manifest has and `styles` has not stay in the manifest.

    Raises ValueError where the folder holds records and its manifest has the other style for a
    task; OSError where the folder has no manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder / MANIFEST)
    before = manifest.get("prompts") or {}
    for task, new in styles.items():
        old = before.get(task, new)
        if old["style"] != new["style"] and _has_records(folder):
            raise ValueError(
                f"{folder} holds a run of {old['style']} prompts ({old['why']}), and this command's"
                f" would be {new['style']} ({new['why']}): choose another --out"
            )
    if before | styles != before:
        _write_manifest(folder / MANIFEST, manifest | {"prompts": before | styles})


def _has_records(folder: Path) -> bool:
    return any(file.stat().st_size for file in folder.rglob("*.jsonl"))


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    lock.replace_file(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns a run's manifest, in which "settings" is an object and "starts" a list.

    Raises ValueError where the file holds no such thing, OSError where there is no file.
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
    """Raises ValueError where a flag that both starts have, and that is not free, differs."""
    differing = [k for k in now if k in before and k not in free and before[k] != now[k]]
    if differing:
        flags_before = " ".join(f"--{k}={before[k]}" for k in differing)
        flags_now = " ".join(f"--{k}={now[k]}" for k in differing)
        raise ValueError(
            f"{folder} holds a run made with {flags_before}, and this command has {flags_now}:"
            " choose another --out, or give the flags it was made with"
        )


def command() -> str:
    """Returns the shell command that started this program, to be typed in the same folder again."""
    python = os.path.relpath(sys.executable)
    if python.startswith(".."):
        python = "python"
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = [python, "-m", spec.name] if spec else [python, sys.argv[0]]
    return shlex.join([*program, *sys.argv[1:]])


def git_commit() -> str | None:
    """Returns the git commit that this program's source is from, as `git describe` names it.

    That is 40 hexadecimal digits, or a tag and digits, with "-dirty" behind it where files were
    changed since. None where the source is in no git checkout, or git cannot be run.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(
            describe, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def software() -> dict[str, str | None]:
    """Returns what has to be the same on all hosts of one run.

    These are the versions of the packages (not that of Python) and the git commit, each under a
    name for messages: {"jax version": "0.7.0", ..., "git commit": "..."}.
    """
    alike = {f"{name} version": v for name, v in versions().items() if name != "python"}
    return alike | {"git commit": git_commit()}


def versions() -> dict[str, str]:
    """Returns {"python": version, package: version, ...} for the installed ones of VERSIONS_OF."""
    installed = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _device() -> dict[str, Any]:
    """Returns what this start runs on. `count` is that of the devices of all processes."""
    import jax  # here, so that reading records needs no accelerator

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "host": platform.platform(),
        "cpus": os.cpu_count(),
    }
