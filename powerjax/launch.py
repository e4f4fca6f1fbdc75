"""What launchers share: sampling problems into a file of records, and how a command ends.

A launcher has an `--out` folder. `run(main)` turns the user's mistakes, a full disk and Ctrl-C into
one line that says what to do, and how many records are safe.
"""

import os
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh

from powerjax import identity, mesh, records, sample, shards
from powerjax.models import LM
from powerjax.sample import engine
from powerjax.tasks import Problem, Task, without_text

_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "On an error, show Python's traceback instead of one line."
)


def define_dtype(default: str) -> None:
    """Adds --dtype to a launcher that loads a model."""
    flags.DEFINE_enum(
        "dtype",
        default,
        ["auto", "float32", "bfloat16", "float16"],
        "Of weights and cache; auto is float32 on a CPU and bfloat16 elsewhere.",
    )


def dtype() -> str:
    """What --dtype means on this machine."""
    if flags.FLAGS.dtype != "auto":
        return flags.FLAGS.dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def grid(model: int = 1, rows_divide: int | None = None) -> Mesh | None:
    """This machine's devices as a mesh, `model` of them a row; None for one device.

    rows_divide: take no more rows than divide this number, as a batch of it has to be shared out.
    """
    devices = jax.local_devices()
    data = None
    if rows_divide is not None:
        most = max(1, len(devices) // model)
        data = next(n for n in range(most, 0, -1) if rows_divide % n == 0)
    found = mesh.make_mesh(model=model, data=data, devices=devices)
    return found if found.size > 1 else None


def model_name(lm: LM, random_weights: bool = False) -> str:
    """The model's name in records: a folder's last part, a Hugging Face id as it is.

    A student is `base+adapter`; an adapter's folder called just adapter goes by its parent's name.
    """
    name = Path(lm.name).resolve().name if Path(lm.name).is_dir() else lm.name
    name = f"{name}-randw" if random_weights else name
    if lm.adapter_name is None:
        return name
    folder = Path(lm.adapter_name).resolve()
    return f"{name}+{(folder.parent if folder.name == 'adapter' else folder).name}"


def speed(stats) -> str:
    """`5,432 tokens/s (151,234 forward tokens in 27.8 s)`."""
    tokens = stats.num_forward_tokens
    return f"{stats.tokens_per_s:,.0f} tokens/s ({tokens:,} forward tokens in {stats.wall_s:.1f} s)"


def problems(task: Task, settings: Mapping[str, Any]) -> list[Problem]:
    """The problems a run is about, by its flags: model, split, limit, data_dir."""
    options = {"data_dir": settings["data_dir"], "limit": settings["limit"]}
    if (split := settings["split"]) is not None:
        if split not in task.splits:
            has = f"has {', '.join(task.splits)}" if task.splits else "has no splits"
            raise ValueError(f"--split={split}: {task.name} {has}")
        options["split"] = split
    return task.load_for(settings["model"], **options)


def collect(
    lm: LM,
    problems: Sequence[Problem],
    file: records.RecordFile,
    *,
    task: Task,
    model: str,
    sampler: str,
    settings: dict[str, Any],
    label: str | None = None,
    share: shards.Share = shards.Share(),  # noqa: B008, immutable
    elsewhere: Collection[records.Record] = (),
    progress: bool = True,
):
    """Draws the completions that `file` lacks, each appended as its chain finishes.

    They are graded where the task's grader is quick; the text of secret problems is left out.

    Args:
      model: the model's name in the records.
      sampler: the name of a function of `powerjax.sample`.
      settings: that function's keywords.
      label: the sampler's name in the record's id, where one file's samplers differ in settings.
      share: this process's part, if there are several.
      elsewhere: the records that other files of the run hold.

    Returns the sampler's stats, or None if nothing was lacking.

    Raises ValueError where a record of one of these chains was drawn from another law.
    """
    chains = [(i, j) for i in range(len(problems)) for j in range(settings["num_samples"])]
    if not chains:
        return None
    stated = {**_stated_settings(lm, problems[0], sampler, settings), "model": model}

    def name(problem: Problem, sample_index: int) -> str:
        return records.record_id(
            task=task.name,
            problem_id=problem.id,
            model=model,
            sampler=label or sampler,
            seed=settings["seed"],
            sample_index=sample_index,
        )

    def law(problem: Problem) -> dict[str, Any]:
        return stated | {"prompt_style": problem.style}

    # A chain goes by its id without the hash: records made before ids had one are found by it, and
    # it decides which process makes the record, as it did then.
    names = {(i, j): name(problems[i], j) for i, j in chains}
    made = {records.chain_name(record): record for record in (*elsewhere, *file.records)}
    mine = {chain for chain in chains if share.owns(names[chain])}
    for i, j in chains:
        if (record := made.get(names[i, j])) is not None:
            _check_law(record, law(problems[i]), file.path)
            mine.discard((i, j))

    def keep(completion: sample.Completion) -> None:
        problem = problems[completion.prompt_index]
        correct, extracted = None, None
        if completion.text is not None and task.quick:
            correct, extracted = task.grade(problem, completion.text)
        record = {
            **sample.as_record(completion, law(problem), task.name, label),
            "prompt": problem.prompt,
            "correct": correct,
            "extracted_answer": extracted,
        }
        file.append(without_text(problem, record))

    if not mine:
        return None
    if share.num_processes > 1 and settings.get("num_slots") is None:
        own = sum(map(share.owns, names.values()))
        settings = settings | {"num_slots": _num_slots(lm, problems, settings, own)}
    return getattr(sample, sampler)(
        lm,
        [problem.prompt for problem in problems],
        ids=[problem.id for problem in problems],
        on_finish=keep,
        skip=lambda i, j: (i, j) not in mine,
        progress=progress,
        **settings,
    ).stats


def _num_slots(lm: LM, problems: Sequence[Problem], settings: dict[str, Any], own: int) -> int:
    """Those that the sampler would choose if the process's own chains were the whole job."""
    longest = max(len(lm.encode(problem.prompt)) for problem in problems)
    return engine.pick_num_slots(lm, longest, settings["max_new_tokens"], own)


def _stated_settings(
    lm: LM, problem: Problem, sampler: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """What the sampler itself says of a run with these keywords, found by drawing nothing."""
    return getattr(sample, sampler)(
        lm, [problem.prompt], skip=lambda *_: True, progress=False, **settings
    ).settings


def _check_law(record: records.Record, law: dict[str, Any], path: Path) -> None:
    """Raises ValueError where the record states another law than that of the run."""
    differing = identity.differences(record, law)
    if differing:
        was = ", ".join(f"{name} {identity.shown(value)}" for name, value, _ in differing)
        now = ", ".join(f"{name} {identity.shown(value)}" for name, _, value in differing)
        raise ValueError(
            f"the record {record['id']!r} in {path.parent} was drawn with {was}, and this run has"
            f" {now}: choose another --out, or move the records of the other run away"
        )


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`app.run`, where a mistake ends in one line and status 1, and Ctrl-C in status 130."""
    app.run(lambda argv: _guarded(main, argv))


def _guarded(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # app.run would show every backend JAX looks for
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected argument {argv[1]!r}: flags begin with --")
        main(argv)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after the terminal's ^C
        _end(f"interrupted; {_kept()}to go on: {records.command()}", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = _one_line(error)
        if message is None or _TRACEBACK.value:
            raise
        _end(message, 1)


def _one_line(error: Exception) -> str | None:
    """The line for a user's mistake or a machine's limit; None for what must be a fault of ours."""
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in records.DISK_FULL:
            return f"the disk is full{where}; {_kept()}make room, then: {records.command()}"
        return f"{error.strerror}{where}"
    if isinstance(error, ValueError | OSError) and _raised_here(error):
        return str(error).strip().split("\n")[0] or None
    if "RESOURCE_EXHAUSTED" in str(error):
        return f"out of device memory; {_kept()}try a smaller --num_slots"
    return None


def _raised_here(error: Exception) -> bool:
    """Whether this project raised it, as it does for a user's mistake, rather than a library."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    package = Path(__file__).resolve().parent
    return any(last.is_relative_to(home) for home in (package, package.parent / "experiments"))


def _end(line: str, status: int) -> None:
    sys.stdout.flush()
    print(f"{Path(sys.argv[0]).stem}: {line}", file=sys.stderr)
    sys.exit(status)


def _kept() -> str:
    if "out" not in flags.FLAGS:
        return ""
    folder = Path(flags.FLAGS.out)
    files = [path for path in folder.rglob("*.jsonl") if path.name != "metrics.jsonl"]
    count = sum(path.read_bytes().count(b"\n") for path in files)
    return f"{count} records are safe in {folder}; " if count else ""
