r"""Makes one records.jsonl of the files that the processes of a run left, and says what is missing.

    python -m experiments.merge_shards --out=runs/teacher

A run of experiments.sample does so itself when its last process ends; this is for a run of which
one was lost, and for files collected from disks that were not shared. Which completions there have
to be is in the run's manifest.json. Where some are missing, they are named, nothing is written
without --incomplete, and the exit status is 1: the command that made the run makes them.
"""

from pathlib import Path
from typing import Any

from absl import flags

from powerjax import cli, records
from powerjax.records import lock, shards
from powerjax.runs import collect
from powerjax.tasks import registry

_OUT = flags.DEFINE_string("out", None, "The run folder.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the task's published files, if not that of the run."
)
_INCOMPLETE = flags.DEFINE_bool("incomplete", False, "Write what there is.")

_SETTINGS = {
    **dict.fromkeys(("task", "model"), str),
    **dict.fromkeys(("split", "data_dir"), str | None),
    **{"num_samples": int, "limit": int | None},
}

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    folder = Path(_OUT.value)
    settings = _settings(folder)
    if _DATA_DIR.value is not None:
        settings["data_dir"] = _DATA_DIR.value
    problems = collect.problems(registry.get(settings["task"]), settings)
    wanted = [(p.id, i) for p in problems for i in range(settings["num_samples"])]
    with lock.locked(folder):
        found = shards.gather(folder, wanted)
        there = len(wanted) - len(found.missing)
        print(f"{there} of {len(wanted)} completions are in {folder}")
        if extra := len(found.records) - there:
            print(f"{extra} more are of problems or samples beyond the manifest's")
        if found.num_repeated:
            print(f"{found.num_repeated} were in two files, the same in both")
        if found.missing:
            print(f"missing (problem/sample): {_named(found.missing)}")
        if found.missing and not _INCOMPLETE.value:
            raise ValueError(
                f"{len(found.missing)} completions are missing: run the command of {folder}/"
                f"{records.MANIFEST} again to make them, or give --incomplete"
            )
        print(f"{len(found.records)} records are in {shards.write(folder, found)}")


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / records.MANIFEST
    try:
        settings = records.read_manifest(path)["settings"]
        for name, kind in _SETTINGS.items():
            if not isinstance(settings[name], kind):
                raise ValueError
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{path}: no manifest of experiments.sample") from None
    return settings


def _named(missing: list[shards.Chain]) -> str:
    shown = ", ".join(f"{problem}/{sample}" for problem, sample in missing[:8])
    return shown + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")


if __name__ == "__main__":
    cli.run(main)
