"""Sampling of a task's problems into a file of records."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from powerjax import records, sample
from powerjax.models import LM
from powerjax.records import identity, shards
from powerjax.sample import engine
from powerjax.tasks import Problem, Task, without_text


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
