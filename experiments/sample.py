r"""Samples completions of a task's problems and records them.

    python -m experiments.sample --model=tiny --task=arithmetic --sampler=power --out=runs/power

writes runs/power/records.jsonl, one line per finished completion, as it finishes, and
runs/power/manifest.json (flags, versions, device). Killed, or stopped with Ctrl-C, the same command
takes up where it stopped. At the end it prints accuracy (where answers are known), self-reward
(mean log-likelihood per token), acceptance and cost.

On a model of your own, with prompts of your own:

    python -m experiments.sample --model=Qwen/Qwen2.5-Math-7B --task=prompts.jsonl \
      --sampler=power --alpha=4 --num_samples=4 --out=runs/mine

A student of experiments.distill is its base model with --adapter=runs/student/adapter.

All devices of the machine are used: each holds the model and serves chains of its own, or
--model_axis=M of them share it. On several hosts every process runs the same command; Slurm, TPU
pods and Kubernetes (with its Python package) need no flag, elsewhere --coordinator=HOST:PORT
--num_processes=N --process_id=I. --out is on a disk they share. Processes meet at the start and are
on their own from there: each makes its share of the records, in a file of its own, and the last one
to end makes records.jsonl of them. One that was lost is started again alone, by the same command
without --coordinator; or all of them, in any number. experiments.merge_shards says what is missing.
"""

import contextlib
from pathlib import Path
from typing import Any

import jax
from absl import flags

from powerjax import cli, evaluation, models, records, report, runs
from powerjax.parallel import mesh, processes
from powerjax.records import lock, shards
from powerjax.report import cells
from powerjax.runs import collect
from powerjax.sample import spec
from powerjax.tasks import Task, registry

cli.define_dtype("auto")
_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the project), a Hugging Face id, or a folder."
)
_RANDOM_WEIGHTS = flags.DEFINE_bool(
    "random_weights", False, "The model's architecture with random weights: the paper's RandW."
)
_ADAPTER = flags.DEFINE_string(
    "adapter", None, "A PEFT LoRA folder to sample with, such as experiments.distill leaves."
)
_MERGE_ADAPTER = flags.DEFINE_bool(
    "merge_adapter", False, "Add the adapter to the weights first: no cost in sampling."
)
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a Hugging Face id.")
_TASK = flags.DEFINE_string(
    "task",
    "arithmetic",
    f"{', '.join(registry.NAMES)}, or a JSONL file of rows with a prompt and maybe an answer.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the task's published files; else the hub is asked."
)
_SPLIT = flags.DEFINE_string("split", None, "Which split of a task that has several.")
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many problems.", lower_bound=1)
_CHAT_TEMPLATE = flags.DEFINE_enum(
    "chat_template",
    "auto",
    ["auto", "on", "off"],
    "Ask through the model's chat template; auto does so as the paper does: if it has one and its"
    " name, or its folder's, says instruct, chat or -it, and not on code and GPQA.",
)
_OUT = flags.DEFINE_string("out", "runs/sample", "The run folder.")
_SAMPLER = flags.DEFINE_enum(
    "sampler",
    "power",
    list(spec.SAMPLERS),
    "power: from pi^alpha by Metropolis-Hastings; power_inf: its moves taken only if likelier;"
    " standard: from pi; temperature: each token from pi^(1/temperature).",
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Completions a problem.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of every draw; a completion is a function of its id.")
_PROGRESS = flags.DEFINE_bool("progress", True, "Show a progress bar.")
_NUM_SLOTS = flags.DEFINE_integer(
    "num_slots",
    None,
    "Chains at a time, in each process; by free device memory if not given.",
    lower_bound=1,
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "The longest completion; 3072, for arithmetic 64.", lower_bound=1
)
_BLOCK_SIZE = flags.DEFINE_integer(
    "block_size",
    None,
    "Tokens a stage adds; 192, for arithmetic 64. From max_new_tokens up there is one stage, and"
    " --stop makes no difference.",
    lower_bound=1,
)
_ALPHA = flags.DEFINE_float("alpha", 4.0, "The power's exponent.", lower_bound=1.0)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "Of temperature sampling or the proposal; 0.25, for power 1/alpha."
)
_NUM_MCMC_STEPS = flags.DEFINE_integer(
    "num_mcmc_steps", 10, "Metropolis-Hastings moves a stage.", lower_bound=0
)
_TOP_K = flags.DEFINE_integer(
    "top_k", None, "Draw among so many likeliest tokens; changes the target.", lower_bound=1
)
_STOP = flags.DEFINE_enum(
    "stop",
    "eos",
    ["eos", "horizon"],
    "eos: a chain is done at the first stage that ends in EOS (the published schedule: cheap, not"
    " pi^alpha in the limit); horizon: every stage runs (exact in the limit).",
)
_KERNEL = flags.DEFINE_enum(
    "kernel",
    "exact",
    ["exact", "karan2026"],
    "karan2026 is the published code's acceptance rule, which does not leave pi^alpha invariant.",
)
_EARLY_REJECTION = flags.DEFINE_bool(
    "early_rejection", True, "Stop a proposal once it is sure to be rejected; changes no draw."
)
_DATA_AXIS = flags.DEFINE_integer(
    "data_axis",
    None,
    "Copies of the model, over all processes; as many as the devices hold.",
    lower_bound=1,
)
_MODEL_AXIS = flags.DEFINE_integer(
    "model_axis", 1, "Devices of one process that share each layer's weights.", lower_bound=1
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of this run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_WAIT_S = flags.DEFINE_float(
    "wait_s", 300, "Seconds to wait for the other processes at the start.", lower_bound=0
)

_OF_THE_RUN = (
    *(_MODEL, _RANDOM_WEIGHTS, _ADAPTER, _MERGE_ADAPTER, _REVISION, _TASK),
    *(_DATA_DIR, _SPLIT, _LIMIT, _CHAT_TEMPLATE, _SAMPLER),
)
_OPTIONS = (_NUM_SAMPLES, _SEED, _NUM_SLOTS)  # of every sampler, beside its settings
_SETTINGS = {  # of one sampler or another, see spec.settings_of
    flag.name: flag
    for flag in (
        *(_MAX_NEW_TOKENS, _TOP_K, _BLOCK_SIZE, _NUM_MCMC_STEPS, _ALPHA, _TEMPERATURE),
        *(_STOP, _KERNEL, _EARLY_REJECTION),
    )
}
_FREE = ("num_slots", "num_samples", "limit", "data_dir")  # may change when a run is taken up again

flags.adopt_module_key_flags(cli)


@flags.validator("temperature", message="must be above 0")
def _is_positive(temperature: float | None) -> bool:
    return temperature is None or temperature > 0


def main(_) -> None:
    task = registry.get(_TASK.value)
    settings = _settings(task)
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN} | settings
    share = _meet(made_with)
    made_with |= {"dtype": cli.dtype()}
    problems = collect.problems(task, made_with)
    lm = models.load(
        _MODEL.value,
        dtype=cli.dtype(),
        mesh=_mesh(share),
        random_weights=_RANDOM_WEIGHTS.value,
        adapter=_ADAPTER.value,
        revision=_REVISION.value,
    )
    if _MERGE_ADAPTER.value:
        lm = lm.merged(donate=True)
    print(lm)
    problems = runs.asked(lm, task, problems, _CHAT_TEMPLATE.value)
    folder = _open_run(share, made_with, lm, task)
    with records.RecordFile(share.path(folder)) as file:
        elsewhere = shards.elsewhere(folder, file.path)
        if there := len(file) + len(elsewhere):
            where = file.path if not elsewhere else folder
            print(f"{there} records are in {where}: going on from there")
        stats = collect.collect(
            lm,
            problems,
            file,
            task=task,
            model=collect.model_name(lm, _RANDOM_WEIGHTS.value),
            sampler=_SAMPLER.value,
            settings=settings,
            share=share,
            elsewhere=elsewhere,
            progress=_PROGRESS.value,
        )
        found, path = file.records, file.path
    if share.num_processes > 1 or shards.parts(folder):
        wanted = [(p.id, i) for p in problems for i in range(settings["num_samples"])]
        found, path = _merge(folder, wanted, stats)
        if path is None:
            return
    show(evaluation.summarize(found), stats, settings, path)
    if not task.quick:
        print(f"\nTo grade them: python -m experiments.evaluate --records={path}")


def _meet(made_with: dict[str, Any]) -> shards.Share:
    """This process's share, after the processes have met and compared what they were given."""
    num_processes, process_id = _NUM_PROCESSES.value, _PROCESS_ID.value
    if _COORDINATOR.value is None and None not in (num_processes, process_id):
        processes.check_id(num_processes, process_id)  # started again, alone
        return shards.Share(process_id, num_processes)
    place = processes.find(_COORDINATOR.value, num_processes, process_id, timeout_s=_WAIT_S.value)
    if place is None:
        return shards.Share()
    processes.take_devices(place)
    alike = {flag.name: flag.value for flag in (_LIMIT, _OUT, _DATA_AXIS, _MODEL_AXIS)} | made_with
    alike |= {"dtype flag": flags.FLAGS.dtype}
    if (
        not processes.is_tpu_pod()
    ):  # where the first touch of a device waits for every host, unasked
        alike |= {"dtype": cli.dtype(), "platform": jax.default_backend()}
    processes.meet(place, timeout_s=_WAIT_S.value, must_agree=alike | records.software())
    return shards.Share(place.process_id, place.num_processes)


def _mesh(share: shards.Share):
    """This process's devices as a mesh; None for one device."""
    devices, data, model = jax.local_devices(), _DATA_AXIS.value, _MODEL_AXIS.value
    count = share.num_processes
    if count > 1 and model > len(devices):
        raise ValueError(
            f"--model_axis={model} does not fit the {len(devices)} devices of process "
            f"{share.process_id}: a model is split within a process"
        )
    if data is not None:
        if data % count:
            raise ValueError(f"--data_axis={data} does not divide by the {count} processes")
        data //= count
    grid = mesh.make_mesh(model=model, data=data, devices=devices)
    return grid if grid.size > 1 else None


def _open_run(share: shards.Share, made_with: dict[str, Any], lm: models.LM, task: Task) -> Path:
    folder = Path(_OUT.value)
    several = share.num_processes > 1
    with lock.locked(folder) if several else contextlib.nullcontext():
        records.open_run(folder, made_with, free=_FREE)
        runs.note_prompts(folder, lm, [task], _CHAT_TEMPLATE.value)
    return folder


def _merge(folder: Path, wanted: list[shards.Chain], stats) -> tuple[list, Path | None]:
    """All processes' records, and records.jsonl made of them; no path while some are missing."""
    with lock.locked(folder):
        found = shards.gather(folder, wanted)
        if not found.missing:
            return found.records, shards.write(folder, found)
    if stats is not None:
        print(cells.speed(stats))
    print(
        f"this share is done; {len(found.missing)} of {len(wanted)} completions are other"
        f" processes', and the last to end makes {folder / shards.WHOLE}"
    )
    return found.records, None


def show(summary: evaluation.Summary, stats, settings: dict[str, Any], path: Path) -> None:
    """Prints what the records show and what this run of the program cost."""
    n = summary.num_passes
    lines = {
        "records": path,
        "completions": f"{summary.num_problems} problems x {n}",
        "accuracy": report.percent(summary.accuracy),
        "self-reward": f"{report.nats(summary.self_reward)} nats a token",
    }
    if n > 1:
        lines[f"best of {n}: accuracy"] = report.percent(summary.best_of_n_accuracy)
        lines[f"best of {n}: self-reward"] = report.nats(summary.best_of_n_self_reward)
    if summary.acceptance_rate is not None:
        lines["acceptance"] = f"{summary.acceptance_rate:.3f}"
    lines["length"] = f"{summary.num_tokens:.1f} tokens, {summary.finished:.0%} ended in EOS"
    lines["forward tokens"] = f"{summary.forward_tokens:.1f} a completion"
    if stats is not None:
        lines["speed"] = cells.speed(stats)
    lines["law"] = report.law(_SAMPLER.value, settings)
    print()
    for name, value in lines.items():
        if value is not None:
            print(f"{name:>22}  {value}")


def _settings(task: Task) -> dict[str, Any]:
    """The sampler's keywords: its settings and the options of every sampler.

    Raises ValueError for a flag that the sampler does not take.
    """
    names = spec.settings_of(_SAMPLER.value)
    for name, flag in _SETTINGS.items():
        if flag.present and name not in names:
            raise ValueError(f"--sampler={_SAMPLER.value} does not take --{name}")
    keywords = {flag.name: flag.value for flag in _OPTIONS}
    keywords |= {name: flag.value for name, flag in _SETTINGS.items() if name in names}
    defaults = {
        "max_new_tokens": task.max_new_tokens,
        "block_size": task.block_size,
        "temperature": None if _SAMPLER.value == "power" else 0.25,
    }
    return {k: defaults.get(k) if v is None else v for k, v in keywords.items()}


if __name__ == "__main__":
    cli.run(main)
