r"""Merges the files that the processes of a run left into one records.jsonl.

    python -m experiments.merge_shards --out=runs/teacher

A run of experiments.sample on several hosts writes one file of records per process, and its last
process merges them. This program merges the files of a run that lost a process, or files that were
collected from disks that the hosts did not share.

The run's manifest.json says which completions belong to the run. If some are missing, the program
names them; unless --incomplete is given, it then writes nothing and exits with status 1. To draw
the missing completions, give the command that started the run again.
"""

from pathlib import Path
from typing import Any

from absl import flags

from powerjax import cli, records
from powerjax.records import lock, shards
from powerjax.runs import collect
from powerjax.tasks import registry

_OUT = flags.DEFINE_string("out", None, "The folder of the run.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "The folder that holds the task's files as they were published. Default: the --data_dir that"
    " the run was started with.",
)
_INCOMPLETE = flags.DEFINE_bool(
    "incomplete",
    False,
    "Write records.jsonl even if completions are missing, with the records that the run has.",
)

_SETTINGS = {  # those of the manifest that are needed, and their types
    **dict.fromkeys(("task", "model"), str),
    **dict.fromkeys(("split", "data_dir"), str | None),
    **{"num_samples": int, "limit": int | None},
}

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    """Says what is missing, and writes records.jsonl."""
    folder = Path(_OUT.value)
    settings = _settings(folder)
    if _DATA_DIR.value is not None:
        settings["data_dir"] = _DATA_DIR.value
    problems = collect.problems(registry.get(settings["task"]), settings)
    wanted = [(p.id, i) for p in problems for i in range(settings["num_samples"])]
    with lock.locked(folder):
        gathered = shards.gather(folder, wanted)
        num_wanted = len(wanted) - len(gathered.missing)
        print(f"{num_wanted} of {len(wanted)} completions are in {folder}")
        if num_extra := len(gathered.records) - num_wanted:
            print(f"{num_extra} more are of problems or samples beyond the manifest's")
        if gathered.num_repeated:
            print(f"{gathered.num_repeated} were in two files, the same in both")
        if gathered.missing:
            print(f"missing (problem/sample): {_named(gathered.missing)}")
        if gathered.missing and not _INCOMPLETE.value:
            raise ValueError(
                f"{len(gathered.missing)} completions are missing: run the command of {folder}/"
                f"{records.MANIFEST} again to make them, or give --incomplete"
            )
        print(f"{len(gathered.records)} records are in {shards.write(folder, gathered)}")


def _settings(folder: Path) -> dict[str, Any]:
    """Returns the settings in the run's manifest.

    Raises ValueError if there is no manifest of experiments.sample.
    """
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
    """Returns the first eight as `test-0-3/1, test-0-4/0 ...`, and the number of the others."""
    shown = ", ".join(f"{problem}/{sample}" for problem, sample in missing[:8])
    return shown + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")


if __name__ == "__main__":
    cli.run(main)
