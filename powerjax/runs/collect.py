"""Sampling of a task's problems into a file of records.

`collect` draws only what the file lacks, so a run that was killed goes on when it is called again.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from powerjax import records, sample
from powerjax.models import LM
from powerjax.records import identity, shards
from powerjax.sample import job, spec
from powerjax.tasks import Problem, Task, without_text

ChainIndex = tuple[int, int]  # index of the problem, sample index


def model_name(lm: LM, random_weights: bool = False) -> str:
    """Returns the model's name in records: a folder's last part, or a Hugging Face id as it is.

    A student is called `base+adapter`. Where its adapter's folder is called just "adapter", the
    parent folder's name stands for it. random_weights adds `-randw`.
    """
    name = Path(lm.name).resolve().name if Path(lm.name).is_dir() else lm.name
    name = f"{name}-randw" if random_weights else name
    if lm.adapter_name is None:
        return name
    folder = Path(lm.adapter_name).resolve()
    return f"{name}+{(folder.parent if folder.name == 'adapter' else folder).name}"


def problems(task: Task, settings: Mapping[str, Any]) -> list[Problem]:
    """Returns the problems that a run is about.

    settings: the run's flags, of which four are used: "model", which decides the wording, and
      "split", "limit" and "data_dir", each None where it was not given.

    Raises ValueError where the task has no such split, and as the task's `load` does.
    """
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
) -> sample.Stats | None:
    """Draws the completions that `file` lacks, and appends each one as its chain finishes.

    Where the task's grader is quick, completions are graded before they are appended. The text of
    secret problems is left out of their records.

    Args:
      problems: the problems, as `prompts.prompted` returns them.
      file: the record file, open.
      model: the model's name in the records (`model_name`).
      sampler, settings: the name of a function of `powerjax.sample`, and its keywords. A proposal
        model is among them.
      label: what record ids call the sampler, such as a table row's name; None: `sampler`.
      share: which chains this process draws, where there are several processes.
      elsewhere: the records that other files of the run hold, which are not drawn again.

    Returns the sampler's stats, or None where nothing was lacking.

    Raises ValueError where a record of one of these chains states another law than this run's.
    """
    drawing, options = job.parse(sampler, settings)
    names = _chain_names(problems, options, task.name, model, label or sampler)
    if not names:
        return None

    # --- which records exist, and whether they have this run's law ---
    laws = _laws(lm, problems, drawing, options, model)
    existing = {records.chain_name(record): record for record in (*elsewhere, *file.records)}
    for (i, _), name in names.items():
        if name in existing:
            _check_law(existing[name], laws[problems[i].style], file.path)

    # --- which of this process's chains have no record ---
    own = {chain for chain, name in names.items() if share.owns(name)}
    lacking = {chain for chain in own if names[chain] not in existing}
    if not lacking:
        return None
    if share.num_processes > 1:
        options = _with_slots(options, lm, problems, drawing, len(own))
    options = dataclasses.replace(
        options,
        ids=[problem.id for problem in problems],
        on_finish=_appender(file, problems, task, laws, label),
        skip=lambda i, j: (i, j) not in lacking,
        progress=progress,
    )
    return job.draw(lm, [problem.prompt for problem in problems], drawing, options).stats


def _with_slots(
    options: job.Options,
    lm: LM,
    problems: Sequence[Problem],
    drawing: spec.Sampler,
    num_chains: int,
) -> job.Options:
    """Returns the options with a number of slots for this process's chains alone.

    With num_slots=None, the sampler would choose it for the chains of all processes.
    """
    if options.num_slots is not None:
        return options
    longest = max(len(lm.encode(problem.prompt)) for problem in problems)
    num_slots = job.pick_num_slots(lm, longest, drawing, num_chains, options.proposal)
    return dataclasses.replace(options, num_slots=num_slots)


def _chain_names(
    problems: Sequence[Problem], options: job.Options, task: str, model: str, label: str
) -> dict[ChainIndex, str]:
    """Returns the chain name of each chain of a run: its record's id without the hash.

    These names, and not ids, say which records are there and which process draws a chain: older
    records have no hash in their ids.
    """
    return {
        (i, j): records.record_id(
            task=task,
            problem_id=problem.id,
            model=model,
            sampler=label,
            seed=options.seed,
            sample_index=j,
        )
        for i, problem in enumerate(problems)
        for j in range(options.num_samples)
    }


def _laws(
    lm: LM, problems: Sequence[Problem], drawing: spec.Sampler, options: job.Options, model: str
) -> dict[str, dict[str, Any]]:
    """Returns {the problems' prompt style: what a record of such a problem states of the run}."""
    return {
        style: job.stated_settings(lm, drawing, options.seed, style, options.proposal)
        | {"model": model}
        for style in {problem.style for problem in problems}
    }


def _appender(
    file: records.RecordFile,
    problems: Sequence[Problem],
    task: Task,
    laws: Mapping[str, dict[str, Any]],
    label: str | None,
) -> Callable[[sample.Completion], None]:
    """Returns a function that appends a completion's record, graded where the task is quick."""

    def append(completion: sample.Completion) -> None:
        problem = problems[completion.prompt_index]
        correct, extracted = None, None
        if completion.text is not None and task.quick:
            correct, extracted = task.grade(problem, completion.text)
        record = {
            **sample.as_record(completion, laws[problem.style], task.name, label),
            "prompt": problem.prompt,
            **({} if problem.messages is None else {"messages": problem.messages}),
            "correct": correct,
            "extracted_answer": extracted,
        }
        file.append(without_text(problem, record))

    return append


def _check_law(record: records.Record, law: dict[str, Any], path: Path) -> None:
    """Raises ValueError where the record states another law than this run's.

    A setting that an older record does not state is not compared.
    """
    differing = identity.differences(record, law)
    if differing:
        old = ", ".join(f"{name} {identity.shown(value)}" for name, value, _ in differing)
        new = ", ".join(f"{name} {identity.shown(value)}" for name, _, value in differing)
        raise ValueError(
            f"the record {record['id']!r} in {path.parent} was drawn with {old}, and this run has"
            f" {new}: choose another --out, or move the records of the other run away"
        )
