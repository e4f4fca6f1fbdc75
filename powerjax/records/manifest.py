"""The manifest of a run folder: flags, versions, commit and device of every start."""

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
VERSIONS_OF = ("powerjax", "jax", "jaxlib", "flax", "numpy", "transformers", "safetensors")


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
    lock.replace_file(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


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
    root = Path(__file__).resolve().parents[2]
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
