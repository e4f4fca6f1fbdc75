r"""Power self-distillation (Algorithm 1): trains a LoRA student on records of power samples.

    python -m experiments.sample --model=tiny --split=train --limit=320 --num_mcmc_steps=30 \
      --out=runs/teacher
    python -m experiments.distill --model=tiny --records=runs/teacher/records.jsonl \
      --learning_rate=5e-4 --out=runs/student
    python -m experiments.sample --model=tiny --adapter=runs/student/adapter --sampler=standard \
      --out=runs/student-samples

The first command draws the records, the second trains the student on them, and the third samples
the student. The second writes the student to runs/student/adapter, a folder in PEFT's format; with
--export=merged it also writes runs/student/merged, a model folder. The same folder holds
metrics.jsonl, tensorboard/, checkpoints/ and manifest.json. --records takes any JSONL file whose
rows have a prompt and a completion, a folder of datasets.save_to_disk, or a Hugging Face dataset
id.

If the program is killed, or stopped with Ctrl-C or SIGTERM, the same command with --resume goes on
from the last checkpoint. On the same mesh of devices (--data_axis and --model_axis) it then ends in
the same adapter, bit for bit; on another mesh the numbers round differently. If there is no
checkpoint yet, --resume starts from the beginning, so a job that a cluster may restart can always
be given --resume.

Records of GPQA hold no prompts, because the problems are secret. For such records give
--task=gpqa_rest, and the prompts are read from the task.

On several hosts every process runs the same command, and --out is on a disk that all of them share.
Slurm, TPU pods and Kubernetes (with its Python package) need no further flag; elsewhere give
--coordinator=HOST:PORT --num_processes=N --process_id=I.
"""

import contextlib
import shlex
from pathlib import Path
from typing import Any

from absl import flags
from jax.sharding import Mesh

from experiments import chat_flags
from experiments import flags as shared
from powerjax import cli, distill, models, records, runs
from powerjax.distill import Corpus, batches, checkpoints, command, export, run_folder
from powerjax.models import lora
from powerjax.parallel import mesh, processes
from powerjax.report import endings
from powerjax.runs import collect
from powerjax.tasks import Problem, Task, registry

cli.define_dtype("auto")
_MODEL, _REVISION = shared.define_model(), shared.define_revision()
_RANDOM_WEIGHTS = shared.define_random_weights()
_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "The prompts and completions that the student learns from: a JSONL file, a folder of"
    " datasets.save_to_disk, or a Hugging Face dataset id.",
    required=True,
)
_TASK = flags.DEFINE_string(
    "task",
    None,
    "The task that --records were sampled from. It is needed only if the records hold no prompts:"
    " GPQA's records hold none, because its problems are secret. Default: the prompts are read from"
    " the records.",
)
_DATA_DIR = shared.define_data_dir()
_CHAT = chat_flags.define(
    "Only with --task: whether the prompts of --records were in the model's chat template. Take the"
    " value that the records were sampled with"
)
_OUT = shared.define_out("runs/student")
_RESUME = flags.DEFINE_bool(
    "resume",
    False,
    "Go on from the last checkpoint in --out. If --out has no checkpoint, training starts from the"
    " beginning.",
)
_EXPORT = flags.DEFINE_enum(
    "export",
    "adapter",
    ["adapter", "merged"],
    "What is written at the end. adapter: the adapter, to --out/adapter. merged: also the whole"
    " model with the adapter added to its weights, to --out/merged.",
)
_RANK = flags.DEFINE_integer("lora_rank", 16, "The rank of the adapter's matrices.", lower_bound=1)
_ALPHA = flags.DEFINE_float(
    "lora_alpha",
    32.0,
    "The scale of the adapter: its output is multiplied by lora_alpha / lora_rank.",
)
_DROPOUT = flags.DEFINE_float(
    "lora_dropout", 0.05, "The share of the adapter's inputs that training sets to 0 at random."
)
_TARGETS = flags.DEFINE_list(
    "target_modules", list(lora.TARGETS), "The names of the layers that get an adapter."
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    1e-4,
    "The highest learning rate, reached after the warm-up. For MATH the paper takes 1e-5 with"
    " Qwen2.5-7B and 1e-3 with Phi-3.5-mini.",
    lower_bound=0.0,
)
_EPOCHS = shared.define_epochs()
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    8,
    "How many examples an optimizer step learns from, over all devices together.",
    lower_bound=1,
)
_MAX_LENGTH = shared.define_max_length()
_SCHEDULE = flags.DEFINE_enum(
    "schedule",
    "constant",
    ["constant", "linear"],
    "The learning rate after the warm-up. constant: it stays the same. linear: it falls to 0.",
)
_WARMUP = flags.DEFINE_float(
    "warmup",
    0.03,
    "The warm-up, as a share of all steps: the learning rate rises from 0 to --learning_rate.",
    0.0,
    1.0,
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", 0.01, "The weight decay of the optimizer, AdamW.", lower_bound=0.0
)
_MAX_GRAD_NORM = flags.DEFINE_float(
    "max_grad_norm",
    None,
    "The largest norm of a step's gradient. A gradient with a larger norm is scaled down to it."
    " Default: no limit.",
    lower_bound=0.0,
)
_SEED = shared.define_seed(
    "all random numbers: the adapter's initial weights, the dropout and the order of the examples",
    makes_a_key=True,
)
_DATA_AXIS = shared.define_data_axis("Each copy computes an equal part of every batch.")
_MODEL_AXIS = shared.define_model_axis()
_FSDP = flags.DEFINE_bool(
    "fsdp",
    False,
    "Split the weights over all devices, and not only over the --model_axis devices of one copy."
    " Each device then holds a smaller part of them.",
)
_REMAT = flags.DEFINE_bool(
    "remat",
    True,
    "Compute the activations of each layer again in the backward pass instead of keeping them: this"
    " takes less memory and more time.",
)
_TOKENS_PER_DEVICE = flags.DEFINE_integer(
    "tokens_per_device",
    None,
    "The most tokens that a device computes at a time; one example is computed even if it is"
    " longer. A batch with more tokens is computed in parts, whose gradients are added. Default:"
    " 1024, or 512 on a CPU.",
    lower_bound=1,
)
_SAVE_STEPS = flags.DEFINE_integer(
    "save_steps", 50, "How many steps lie between two checkpoints.", lower_bound=1
)
_PROGRESS = shared.define_progress()
_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID = shared.define_processes()

_OF_THE_RUN = (
    *(_MODEL, _RANDOM_WEIGHTS, _REVISION, _RANK, _ALPHA, _DROPOUT, _TARGETS, _LEARNING_RATE),
    *(_EPOCHS, _BATCH_SIZE, _MAX_LENGTH, _SCHEDULE, _WARMUP, _WEIGHT_DECAY, _MAX_GRAD_NORM, _SEED),
)
# These may change when a run is taken up again. --records is among them, because the checkpoint
# holds a hash of the examples, which `checkpoints.check` compares.
_FREE = (
    *(_RECORDS, _TASK, _DATA_DIR, *_CHAT, _EXPORT, _DATA_AXIS, _MODEL_AXIS, _FSDP, _REMAT),
    *(_TOKENS_PER_DEVICE, _SAVE_STEPS),
)

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    """Trains the student, writes it and says how to sample it."""
    out = Path(_OUT.value)
    command.check_out(out, resume=_RESUME.value)
    chosen = {flag.name: flag.value for flag in (*_OF_THE_RUN, *_FREE)}
    processes.start(
        *(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value), must_agree=_alike(chosen)
    )
    export.on_main(lambda: run_folder.check_free(out))
    devices = mesh.make_mesh(model=_MODEL_AXIS.value, data=_DATA_AXIS.value)
    batches.grid(1, batch_size=_BATCH_SIZE.value, data_size=devices.shape["data"])
    lora_config = lora.LoraConfig(_RANK.value, _ALPHA.value, _DROPOUT.value, tuple(_TARGETS.value))
    task_problems = _problems()
    lm = _load(devices)
    lora.check(lm.config, lora_config)
    _say(lm)
    corpus = distill.load(
        lm,
        _source(lm, task_problems),
        max_length=_MAX_LENGTH.value,
        template_arguments=_CHAT.value.arguments,
    )
    settings = distill.Settings(
        learning_rate=_LEARNING_RATE.value,
        num_steps=_EPOCHS.value * distill.num_batches(corpus, _BATCH_SIZE.value),
        warmup=_WARMUP.value,
        schedule=_SCHEDULE.value,
        weight_decay=_WEIGHT_DECAY.value,
        max_grad_norm=_MAX_GRAD_NORM.value,
        seed=_SEED.value,
        remat=_REMAT.value,
    )
    run = checkpoints.identity(lm, corpus, lora_config, settings, batch_size=_BATCH_SIZE.value)
    with command.alone(out):
        checkpoints.check(out, run, resume=_RESUME.value)
        made_with = chosen | {"dtype": cli.dtype()}
        export.on_main(lambda: _open_run(lm, task_problems, out, made_with))
        trained = _train(lm, corpus, lora_config, settings, out)
        _export(lm, trained, out)
    _show(corpus, trained, out)


def _alike(chosen: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings and software versions that have to be the same on all hosts.

    chosen: the values of the run's flags.
    """
    alike = chosen | {"out": _OUT.value, "resume": _RESUME.value, "dtype": flags.FLAGS.dtype}
    return alike | records.software()


def _load(devices: Mesh) -> models.LM:
    """Returns the base model, its weights laid out over the devices."""
    smaller = "--dtype=bfloat16, " if cli.dtype() == "float32" else ""
    with _explained(f"{smaller}--fsdp or a larger --model_axis, over more devices"):
        return models.load(
            _MODEL.value,
            dtype=cli.dtype(),
            mesh=devices,
            fsdp=_FSDP.value,
            random_weights=_RANDOM_WEIGHTS.value,
            revision=_REVISION.value,
        )


def _problems() -> tuple[Task, list[Problem]] | None:
    """Returns --task and its problems, not yet in a model's chat template; None without --task."""
    if _TASK.value is None:
        for flag in (_DATA_DIR, _CHAT.template, _CHAT.system):
            if flag.present:
                raise ValueError(f"--{flag.name} is about the problems of a --task: give that too")
        return None
    task = registry.get(_TASK.value)
    options = {"model": _MODEL.value, "data_dir": _DATA_DIR.value, "split": None, "limit": None}
    if not Path(_RECORDS.value).is_file():
        raise ValueError(f"--task is for a file of records, and --records={_RECORDS.value} is none")
    return task, collect.problems(task, options)


def _source(lm: models.LM, task_problems: tuple[Task, list[Problem]] | None):
    """Returns --records, or with --task its records with the prompts that they lack."""
    if task_problems is None:
        return _RECORDS.value
    problems = runs.prompted(lm, *task_problems, _CHAT.value)
    return runs.with_prompts(Path(_RECORDS.value), problems)


def _open_run(lm: models.LM, task_problems, out: Path, made_with: dict[str, Any]) -> None:
    """Opens the run folder and notes in it how the problems of --task, if given, are asked."""
    records.open_run(out, made_with, free=tuple(flag.name for flag in _FREE))
    if task_problems is not None:
        runs.note_prompts(out, lm, [task_problems[0]], _CHAT.value)


def _train(lm, corpus, lora_config, settings, out: Path) -> distill.Trained:
    """Trains the student as the flags say."""
    remedy = "a smaller --tokens_per_device or --max_length, --fsdp, or a larger --model_axis"
    with _explained(remedy, of=f" of {settings.num_steps}"):
        return distill.train(
            lm,
            corpus,
            lora_config,
            settings,
            out,
            batch_size=_BATCH_SIZE.value,
            tokens_per_device=_TOKENS_PER_DEVICE.value,
            save_steps=_SAVE_STEPS.value,
            resume=_RESUME.value,
            progress=_PROGRESS.value,
        )


def _export(lm, trained: distill.Trained, out: Path) -> None:
    """Writes the adapter, and with --export=merged the whole model."""
    again = command.resuming(_RESUME.value)
    with _explained(f"{again} --fsdp, or with a larger --model_axis"):
        export.save_adapter(out / "adapter", lm, trained.adapter)
        if _EXPORT.value == "merged":
            export.save_merged(
                out / "merged", lm, trained.adapter, revision=_REVISION.value, donate=True
            )


def _explained(remedy: str, of: str = "") -> contextlib.AbstractContextManager[None]:
    """Returns `command.explained` of this run."""
    return command.explained(Path(_OUT.value), remedy, resume=_RESUME.value, of=of)


def _show(corpus: Corpus, trained: distill.Trained, out: Path) -> None:
    """Prints what was learnt, what it cost and what to do with it."""
    lines: endings.Lines = {"adapter": str(out / "adapter")}
    if _EXPORT.value == "merged":
        lines["merged model"] = str(out / "merged")
    lines |= endings.trained(corpus, trained, _BATCH_SIZE.value)
    lines["metrics"] = f"{out / 'metrics.jsonl'}; tensorboard --logdir={out / 'tensorboard'}"
    student = [f"--model={_MODEL.value}", f"--adapter={out / 'adapter'}", "--sampler=standard"]
    student += ["--random_weights"] if _RANDOM_WEIGHTS.value else []
    student += [f"--out={out}-samples"]
    lines["sample it with"] = shlex.join(["python", "-m", "experiments.sample", *student])
    _say(f"\n{endings.text(lines)}")


def _say(what: object) -> None:
    """Prints once for all processes."""
    if processes.is_main():
        print(what)


if __name__ == "__main__":
    cli.run(main)
