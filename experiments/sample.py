r"""Samples completions of a task's problems and records them.

    python -m experiments.sample --model=tiny --task=arithmetic --sampler=power --out=runs/power

The program writes a line to runs/power/records.jsonl as soon as a completion is finished, and notes
flags, versions and device in runs/power/manifest.json. If it is killed, or stopped with Ctrl-C, the
same command goes on where it stopped. At the end it prints accuracy (if answers are known),
self-reward (mean log-likelihood per token), acceptance rate and cost.

With a model and prompts of your own:

    python -m experiments.sample --model=Qwen/Qwen2.5-Math-7B --task=prompts.jsonl \
      --sampler=power --alpha=4 --num_samples=4 --out=runs/mine

To sample a student that experiments.distill trained, give its base model and
--adapter=runs/student/adapter.

To draw power samples of the base model by moves that the student proposes, which takes one move
where the base model's own proposals take many:

    python -m experiments.sample --model=tiny --task=arithmetic --sampler=power --alpha=4 \
      --proposal_adapter=runs/student/adapter --out=runs/power

All devices of the machine are used. Each device holds a copy of the model and samples completions
of its own; with --model_axis=M each group of M devices holds a copy.

On several hosts every process runs the same command, and --out is on a disk that all of them share.
Slurm, TPU pods and Kubernetes (with its Python package) need no further flag; elsewhere give
--coordinator=HOST:PORT --num_processes=N --process_id=I. The processes meet at the start and then
work independently: each writes its share of the records to a file of its own, and the last process
to end merges these files into records.jsonl.

A process that was lost can be started again alone, by its command without --coordinator. All
processes can be started again too, and their number may differ from before.
experiments.merge_shards says which completions are missing.
"""

import contextlib
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import chat_flags, proposal_flags
from experiments import flags as shared
from powerjax import cli, evaluation, models, records, runs
from powerjax.parallel import mesh, processes
from powerjax.records import lock, shards
from powerjax.report import endings
from powerjax.report.cells import speed
from powerjax.runs import collect
from powerjax.sample import spec
from powerjax.tasks import Task, registry

cli.define_dtype("auto")
_MODEL = shared.define_model()
_RANDOM_WEIGHTS = shared.define_random_weights()
_ADAPTER = shared.define_adapter("The model is sampled with this adapter.")
_MERGE_ADAPTER = flags.DEFINE_bool(
    "merge_adapter",
    False,
    "Add the adapter to the weights once, before sampling. Sampling then costs no more than without"
    " an adapter; otherwise every forward pass computes the adapter too.",
)
_REVISION = shared.define_revision()
_PROPOSAL = proposal_flags.define()
_TASK = shared.define_task("a prompt and, if it is known, an answer")
_DATA_DIR = shared.define_data_dir()
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "The split of the task to sample; only for tasks that have several. arithmetic and gsm8k, for"
    " example, have test and train. Default: the task's first, which is test for these two.",
)
_LIMIT = shared.define_limit(
    "How many problems to sample, counted from the task's first. Default: all, or 200 for the"
    " arithmetic task, which has no end."
)
_CHAT = chat_flags.define()
_OUT = shared.define_out("runs/sample")
_SAMPLER = flags.DEFINE_enum(
    "sampler",
    "power",
    list(spec.SAMPLERS),
    "How completions are drawn; pi is the model's own distribution of completions. power: from"
    " pi^alpha, by Metropolis-Hastings (MH) moves. power_inf: by MH moves that are accepted if and"
    " only if they make the completion likelier. standard: from pi. temperature: token by token,"
    " from the model's next-token probabilities to the power 1/temperature, renormalised.",
)
_NUM_SAMPLES = shared.define_num_samples(1)
_SEED = shared.define_seed(
    "all random draws. A completion's random numbers depend on the seed, its problem and its number"
    " among the problem's completions, and on nothing else"
)
_PROGRESS, _NUM_SLOTS = shared.define_progress(), shared.define_num_slots()
_MAX_NEW_TOKENS, _BLOCK_SIZE = (
    shared.define_max_new_tokens(),
    shared.define_block_size(" With a proposal model: --max_new_tokens."),
)
_ALPHA = shared.define_alpha()
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    None,
    "With --sampler=temperature: its temperature. With power and power_inf: the temperature of the"
    " proposal, which is the distribution that their stages and MH moves draw new tokens from."
    " Default: 1/alpha for power, 0.25 for power_inf and temperature.",
)
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(
    10,
    " With 0, completions are plain samples at --temperature. With a proposal model the default"
    " is 1.",
    lower_bound=0,
)
_TOP_K = flags.DEFINE_integer(
    "top_k",
    None,
    "Draw each token from the k likeliest next tokens only, where k is this number. A completion"
    " with any other token then has probability 0 in the distribution that is sampled. Default: all"
    " tokens of the vocabulary.",
    lower_bound=1,
)
_STOP = shared.define_stop()
_KERNEL = flags.DEFINE_enum(
    "kernel",
    "exact",
    ["exact", "karan2026"],
    "The rule by which power sampling accepts MH moves. exact: the Metropolis-Hastings rule; more"
    " moves bring the samples closer to pi^alpha (but see --stop). karan2026: the rule of the"
    " published code (Karan and Du, arXiv 2510.14901); its samples do not come from pi^alpha,"
    " however many moves are made.",
)
_EARLY_REJECTION = flags.DEFINE_bool(
    "early_rejection",
    True,
    "Stop drawing the new end of a completion as soon as it is certain that the MH move will be"
    " rejected. The samples stay the same and cost less.",
)
_TRACE = flags.DEFINE_bool(
    "trace",
    False,
    "Keep in each record what its chain did: the log-probability and the length of its state after"
    " every MH move, whether the move was accepted, and its kind. Diagnostics such as R-hat are"
    " computed from it.",
)
_DATA_AXIS = shared.define_data_axis("Each copy samples completions of its own.")
_MODEL_AXIS = shared.define_model_axis(" They have to belong to one process.")
_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID = shared.define_processes(
    " To start a lost process again alone, give only those two, with its values."
)
_WAIT_S = flags.DEFINE_float(
    "wait_s",
    300,
    "How many seconds a process waits at the start for the other processes.",
    lower_bound=0,
)

_OF_THE_RUN = (
    *(_MODEL, _RANDOM_WEIGHTS, _ADAPTER, _MERGE_ADAPTER, _REVISION, _TASK),
    *(_DATA_DIR, _SPLIT, _LIMIT, *_CHAT, _SAMPLER),
    *(_PROPOSAL.adapter, _PROPOSAL.model),
)
_OPTIONS = (_NUM_SAMPLES, _SEED, _NUM_SLOTS, _TRACE)  # of every sampler, beside its settings
_SETTINGS = {  # of one sampler or another, see spec.settings_of
    flag.name: flag
    for flag in (
        *(_MAX_NEW_TOKENS, _TOP_K, _BLOCK_SIZE, _NUM_MCMC_STEPS, _ALPHA, _TEMPERATURE),
        *(_STOP, _KERNEL, _EARLY_REJECTION, *_PROPOSAL.of_sampler),
    )
}
_FREE = ("num_slots", "num_samples", "limit", "data_dir")  # may change when a run is taken up again

flags.adopt_module_key_flags(cli)


@flags.validator("temperature", message="must be above 0")
def _is_positive(temperature: float | None) -> bool:
    return temperature is None or temperature > 0


def main(_) -> None:
    """Samples what the run folder lacks, and prints what its records show."""
    task = registry.get(_TASK.value)
    settings = _settings(task)
    made_with = {flag.name: flag.value for flag in _OF_THE_RUN} | settings
    share = _meet(made_with)
    made_with |= {"dtype": cli.dtype()}
    problems = collect.problems(task, made_with)
    lm, proposal = _load(share)
    problems = runs.prompted(lm, task, problems, _CHAT.value)
    folder = _open_run(share, made_with, lm, task)
    with records.RecordFile(share.path(folder)) as file:
        elsewhere = shards.elsewhere(folder, file.path)
        if num_drawn := len(file) + len(elsewhere):
            where = file.path if not elsewhere else folder
            print(f"{num_drawn} records are in {where}: going on from there")
        stats = collect.collect(
            lm,
            problems,
            file,
            task=task,
            model=collect.model_name(lm, _RANDOM_WEIGHTS.value),
            sampler=_SAMPLER.value,
            settings=settings | {"proposal": proposal},
            share=share,
            elsewhere=elsewhere,
            progress=_PROGRESS.value,
        )
        drawn, path = file.records, file.path
    if share.num_processes > 1 or shards.parts(folder):
        wanted = [(p.id, i) for p in problems for i in range(settings["num_samples"])]
        drawn, path = _merge(folder, wanted, stats)
        if path is None:
            return
    summary = evaluation.summarize(drawn)
    print(f"\n{endings.text(endings.sampled(summary, stats, _SAMPLER.value, settings, path))}")
    if not task.quick:
        print(f"\nTo grade them: python -m experiments.evaluate --records={path}")


def _load(share: shards.Share) -> tuple[models.LM, models.LM | None]:
    """Loads and prints the model and its proposal model, if there is one."""
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
    if not _PROPOSAL.is_given:
        return lm, None
    proposal = _PROPOSAL.load(lm, _REVISION.value)
    print(f"proposal: {proposal}")
    return lm, proposal


def _meet(made_with: dict[str, Any]) -> shards.Share:
    """Returns this process's share of the run, once all processes have met.

    made_with: the settings that must be the same in all processes; they compare them.
    """
    num_processes, process_id = _NUM_PROCESSES.value, _PROCESS_ID.value
    if _COORDINATOR.value is None and None not in (num_processes, process_id):
        processes.check_id(num_processes, process_id)  # a lost process, started again alone
        return shards.Share(process_id, num_processes)
    place = processes.find(_COORDINATOR.value, num_processes, process_id, timeout_s=_WAIT_S.value)
    if place is None:
        return shards.Share()
    processes.take_devices(place)
    alike = {flag.name: flag.value for flag in (_LIMIT, _OUT, _DATA_AXIS, _MODEL_AXIS)} | made_with
    alike |= {"dtype flag": flags.FLAGS.dtype}
    # On a TPU pod the first use of a device would wait for every host, before they have met.
    if not processes.is_tpu_pod():
        alike |= {"dtype": cli.dtype(), "platform": jax.default_backend()}
    processes.meet(place, timeout_s=_WAIT_S.value, must_agree=alike | records.software())
    return shards.Share(place.process_id, place.num_processes)


def _mesh(share: shards.Share):
    """Returns this process's devices as a mesh; None where it has one device."""
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
    """Makes or takes up the run folder, one process after the other, and returns its path."""
    folder = Path(_OUT.value)
    several = share.num_processes > 1
    with lock.locked(folder) if several else contextlib.nullcontext():
        records.open_run(folder, made_with, free=_FREE)
        runs.note_prompts(folder, lm, [task], _CHAT.value)
    return folder


def _merge(folder: Path, wanted: list[shards.Chain], stats) -> tuple[list, Path | None]:
    """Returns the records of all processes, and the path of the records.jsonl made of them.

    The path is None, and the file is not made, while completions of other processes are missing.
    """
    with lock.locked(folder):
        gathered = shards.gather(folder, wanted)
        if not gathered.missing:
            return gathered.records, shards.write(folder, gathered)
    if stats is not None:
        print(speed(stats))
    print(
        f"this share is done; {len(gathered.missing)} of {len(wanted)} completions are other"
        f" processes', and the last to end makes {folder / shards.WHOLE}"
    )
    return gathered.records, None


def _settings(task: Task) -> dict[str, Any]:
    """The sampler's keywords: its settings and the options of every sampler.

    Raises ValueError for a flag that the sampler does not take.
    """
    names = spec.settings_of(_SAMPLER.value)
    for name, flag in _SETTINGS.items():
        if flag.present and name not in names:
            raise ValueError(f"--sampler={_SAMPLER.value} does not take --{name}")
    _PROPOSAL.check(_SAMPLER.value, merges=_MERGE_ADAPTER.value)
    if _TRACE.value and "num_mcmc_steps" not in names:
        raise ValueError(f"--sampler={_SAMPLER.value} makes no moves to trace: leave out --trace")
    keywords = {flag.name: flag.value for flag in _OPTIONS}
    keywords |= {name: flag.value for name, flag in _SETTINGS.items() if name in names}
    defaults = {
        "max_new_tokens": task.max_new_tokens,
        "block_size": task.block_size,
        "temperature": None if _SAMPLER.value == "power" else 0.25,
    }
    given = {k: defaults.get(k) if v is None else v for k, v in keywords.items()}
    if not _PROPOSAL.is_given:
        return given
    for flag in (_BLOCK_SIZE, _NUM_MCMC_STEPS):
        if not flag.present:
            given[flag.name] = None
    return _PROPOSAL.completed(given)


if __name__ == "__main__":
    cli.run(main)
