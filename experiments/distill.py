r"""Power self-distillation (Algorithm 1): trains a LoRA student on records of power samples.

    python -m experiments.sample --model=tiny --split=train --limit=320 --num_mcmc_steps=30 \
      --out=runs/teacher
    python -m experiments.distill --model=tiny --records=runs/teacher/records.jsonl \
      --learning_rate=5e-4 --out=runs/student
    python -m experiments.sample --model=tiny --adapter=runs/student/adapter --sampler=standard \
      --out=runs/student-samples

The second leaves runs/student/adapter, a PEFT folder, with --export=merged also a model folder,
runs/student/merged, and beside them metrics.jsonl, tensorboard/, checkpoints/ and manifest.json.
--records takes any JSONL file whose rows have a prompt and a completion, a folder of
datasets.save_to_disk, or a Hugging Face dataset id.

Killed, or stopped with Ctrl-C or SIGTERM, the same command with --resume goes on from the last
checkpoint, and on the same mesh ends in the same adapter bit for bit; another mesh will do too.
Without a checkpoint --resume starts from the beginning, so that a job that is queued again by a
cluster can always have it.

Records of GPQA hold no prompts; --task=gpqa_rest reads them from the task.

On several hosts every process runs the same command; Slurm, TPU pods and Kubernetes (with its
Python package) need no flag, elsewhere --coordinator=HOST:PORT --num_processes=N --process_id=I.
--out is on a disk they share.
"""

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from powerjax import cli, distill, models, records, runs
from powerjax.distill import data, export, loop, run_folder
from powerjax.models import lora
from powerjax.parallel import mesh, processes
from powerjax.runs import collect
from powerjax.tasks import Problem, Task, registry

cli.define_dtype("auto")
_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the project), a Hugging Face id, or a folder."
)
_RANDOM_WEIGHTS = flags.DEFINE_bool(
    "random_weights", False, "The model's architecture with random weights: the paper's RandW."
)
_REVISION = flags.DEFINE_string("revision", None, "Branch, tag or commit of a Hugging Face id.")
_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "What to learn: a JSONL file, a folder of datasets.save_to_disk, or a Hugging Face dataset id.",
    required=True,
)
_TASK = flags.DEFINE_string(
    "task",
    None,
    "The task that --records were sampled from, where they hold no prompts: GPQA's are secret.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "A folder that holds the task's published files; else the hub is asked."
)
_CHAT_TEMPLATE = flags.DEFINE_enum(
    "chat_template",
    "auto",
    ["auto", "on", "off"],
    "As --task's records were sampled; see experiments.sample.",
)
_OUT = flags.DEFINE_string("out", "runs/student", "The run folder.")
_RESUME = flags.DEFINE_bool(
    "resume", False, "Go on from the last checkpoint in --out; without one, start."
)
_EXPORT = flags.DEFINE_enum(
    "export", "adapter", ["adapter", "merged"], "merged: the whole model too, in --out/merged."
)
_RANK = flags.DEFINE_integer("lora_rank", 16, "Rank of the adapter.", lower_bound=1)
_ALPHA = flags.DEFINE_float("lora_alpha", 32.0, "The adapter is scaled by lora_alpha / lora_rank.")
_DROPOUT = flags.DEFINE_float("lora_dropout", 0.05, "Share of the adapter's inputs dropped.")
_TARGETS = flags.DEFINE_list("target_modules", list(lora.TARGETS), "Layers to adapt, by name.")
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    1e-4,
    "Highest learning rate. The paper's, for MATH: 1e-5 for Qwen2.5-7B, 1e-3 for Phi-3.5-mini.",
    lower_bound=0.0,
)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes through the records.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "Examples an optimizer step, on any mesh.", lower_bound=1
)
_MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 1024, "Tokens of prompt and completion; longer ones are cut.", lower_bound=2
)
_SCHEDULE = flags.DEFINE_enum(
    "schedule", "constant", ["constant", "linear"], "The learning rate after the warm-up."
)
_WARMUP = flags.DEFINE_float(
    "warmup", 0.03, "Share of the steps in which the learning rate rises from 0.", 0.0, 1.0
)
_WEIGHT_DECAY = flags.DEFINE_float("weight_decay", 0.01, "Of AdamW.", lower_bound=0.0)
_MAX_GRAD_NORM = flags.DEFINE_float(
    "max_grad_norm", None, "Clip gradients to this norm; none if not given.", lower_bound=0.0
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the adapter, the dropout and the order.", lower_bound=0, upper_bound=2**32 - 1
)
_DATA_AXIS = flags.DEFINE_integer(
    "data_axis", None, "Devices that share a batch; all that are left.", lower_bound=1
)
_MODEL_AXIS = flags.DEFINE_integer(
    "model_axis", 1, "Devices that share each layer's weights.", lower_bound=1
)
_FSDP = flags.DEFINE_bool("fsdp", False, "Split the weights over the data axis too.")
_REMAT = flags.DEFINE_bool(
    "remat", True, "Compute each layer again in the backward pass: less memory, more time."
)
_TOKENS_PER_DEVICE = flags.DEFINE_integer(
    "tokens_per_device",
    None,
    "What a device takes at a time, at least one example; the rest of the batch is accumulated."
    " 1024 if not given, 512 on a CPU.",
    lower_bound=1,
)
_SAVE_STEPS = flags.DEFINE_integer("save_steps", 50, "Steps between checkpoints.", lower_bound=1)
_PROGRESS = flags.DEFINE_bool("progress", True, "Show a progress bar.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of this run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")

_OF_THE_RUN = (
    *(_MODEL, _RANDOM_WEIGHTS, _REVISION, _RANK, _ALPHA, _DROPOUT, _TARGETS, _LEARNING_RATE),
    *(_EPOCHS, _BATCH_SIZE, _MAX_LENGTH, _SCHEDULE, _WARMUP, _WEIGHT_DECAY, _MAX_GRAD_NORM, _SEED),
)
_FREE = (  # may change when a run is taken up again; the checkpoint knows the records
    *(_RECORDS, _TASK, _DATA_DIR, _CHAT_TEMPLATE, _EXPORT, _DATA_AXIS, _MODEL_AXIS, _FSDP, _REMAT),
    *(_TOKENS_PER_DEVICE, _SAVE_STEPS),
)

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    out = Path(_OUT.value)
    _check_out(out)
    chosen = {flag.name: flag.value for flag in (*_OF_THE_RUN, *_FREE)}
    processes.start(
        *(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value), must_agree=_alike(chosen)
    )
    export.on_main(lambda: run_folder.check_free(out))
    devices = mesh.make_mesh(model=_MODEL_AXIS.value, data=_DATA_AXIS.value)
    data.grid(1, batch_size=_BATCH_SIZE.value, data_size=devices.shape["data"])
    lora_config = lora.LoraConfig(_RANK.value, _ALPHA.value, _DROPOUT.value, tuple(_TARGETS.value))
    asked = _problems()
    with _explained(out, _for_weights()):
        lm = models.load(
            _MODEL.value,
            dtype=cli.dtype(),
            mesh=devices,
            fsdp=_FSDP.value,
            random_weights=_RANDOM_WEIGHTS.value,
            revision=_REVISION.value,
        )
    lora.check(lm.config, lora_config)
    _say(lm)
    corpus = distill.load(lm, _source(lm, asked), max_length=_MAX_LENGTH.value)
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
    run = loop.identity(lm, corpus, lora_config, settings, batch_size=_BATCH_SIZE.value)
    with _alone(out):
        loop.check(out, run, resume=_RESUME.value)
        made_with = chosen | {"dtype": cli.dtype()}
        free = tuple(flag.name for flag in _FREE)
        export.on_main(lambda: _open_run(lm, asked, out, made_with, free))
        trained = _train(lm, corpus, lora_config, settings, out)
        _export(lm, trained, out)
    show(corpus, trained, out)


def _alike(chosen: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same on all hosts."""
    alike = chosen | {"out": _OUT.value, "resume": _RESUME.value, "dtype": flags.FLAGS.dtype}
    return alike | records.software()


def _check_out(out: Path) -> None:
    """Refuses, before anything is loaded, a folder that holds something else."""
    loop.check(out, None, resume=_RESUME.value)
    foreign = [path for path in out.glob("*.jsonl") if path != out / "metrics.jsonl"]
    if not (out / loop.CHECKPOINTS).is_dir():
        foreign += [path for name in ("adapter", "merged") if (path := out / name).exists()]
    if foreign:
        raise ValueError(f"{foreign[0]} is not of this run: choose another --out")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other command trains in the folder meanwhile."""
    with contextlib.ExitStack() as held:
        export.on_main(lambda: held.enter_context(run_folder.locked(out)))
        yield


def _problems() -> tuple[Task, list[Problem]] | None:
    """--task and its problems, before they are asked of a model; None without the flag."""
    if _TASK.value is None:
        for flag in (_DATA_DIR, _CHAT_TEMPLATE):
            if flag.present:
                raise ValueError(f"--{flag.name} is about the problems of a --task: give that too")
        return None
    task = registry.get(_TASK.value)
    of = {"model": _MODEL.value, "data_dir": _DATA_DIR.value, "split": None, "limit": None}
    if not Path(_RECORDS.value).is_file():
        raise ValueError(f"--task is for a file of records, and --records={_RECORDS.value} is none")
    return task, collect.problems(task, of)


def _source(lm: models.LM, asked: tuple[Task, list[Problem]] | None):
    """--records, with prompts where they are secret and the task has them."""
    if asked is None:
        return _RECORDS.value
    problems = runs.asked(lm, *asked, _CHAT_TEMPLATE.value)
    return runs.with_prompts(Path(_RECORDS.value), problems)


def _open_run(lm: models.LM, asked, out: Path, made_with: dict[str, Any], free) -> None:
    """Opens the run folder and notes how the problems of --task, if there is one, are asked."""
    records.open_run(out, made_with, free=free)
    if asked is not None:
        runs.note_prompts(out, lm, [asked[0]], _CHAT_TEMPLATE.value)


def _train(lm, corpus, lora_config, settings, out: Path) -> distill.Trained:
    """`distill.train` by the flags."""
    remedy = "a smaller --tokens_per_device or --max_length, --fsdp, or a larger --model_axis"
    with _explained(out, remedy, of=f" of {settings.num_steps}"):
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
    with _explained(out, f"{_command()} --fsdp, or with a larger --model_axis"):
        export.save_adapter(out / "adapter", lm, trained.adapter)
        if _EXPORT.value == "merged":
            export.save_merged(
                out / "merged", lm, trained.adapter, revision=_REVISION.value, donate=True
            )


def _for_weights() -> str:
    """What helps where the weights do not fit."""
    smaller = "--dtype=bfloat16, " if cli.dtype() == "float32" else ""
    return f"{smaller}--fsdp or a larger --model_axis, over more devices"


@contextlib.contextmanager
def _explained(out: Path, remedy: str, of: str = "") -> Iterator[None]:
    """What stops the work ends in one line, with the command that goes on from a checkpoint.

    remedy: what to try where device memory runs out. of: ` of 96`, the number of steps.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        step = loop.last_step(out)
        if step is None:
            raise
        name = signal.Signals(number := getattr(stop, "signal_number", signal.SIGINT)).name
        print(
            f"{Path(sys.argv[0]).stem}: {name}; the checkpoint of step {step}{of} is safe in {out};"
            f" to go on: {_command()}",
            file=sys.stderr,
        )
        sys.exit(128 + number)
    except OSError as error:
        if error.errno not in records.DISK_FULL:
            raise
        step = loop.last_step(out)
        safe = "" if step is None else f"; the checkpoint of step {step} is safe"
        raise ValueError(
            f"the disk is full ({error.filename}){safe}; make room, then: {_command()}"
        ) from None
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(f"out of device memory: try {remedy}") from error


def _command() -> str:
    return records.command() + ("" if _RESUME.value else " --resume")


def show(corpus: data.Corpus, trained: distill.Trained, out: Path) -> None:
    """Prints what was learnt, what it cost and what to do with it."""
    examples = f"{len(corpus):,}"
    if corpus.num_truncated:
        examples += f", {corpus.num_truncated:,} of them cut at {corpus.max_length:,} tokens"
    if corpus.num_dropped:
        examples += f"; {corpus.num_dropped:,} left out, because the prompt alone fills them"
    steps = f"{trained.num_steps:,}, of {_BATCH_SIZE.value} examples"
    if trained.num_done < trained.num_steps:
        steps += f"; the last {trained.num_done:,} by this command"
    lines = {"adapter": out / "adapter"}
    if _EXPORT.value == "merged":
        lines["merged model"] = out / "merged"
    lines |= {"examples": examples, "steps": steps}
    if trained.first_loss is not None:  # else the run was done, and its metrics.jsonl is gone
        lines["loss"] = f"{trained.first_loss:.4f} at first, {trained.last_loss:.4f} at last"
    if trained.num_done:
        speed = trained.num_tokens / trained.seconds
        lines["speed"] = (
            f"{speed:,.0f} tokens/s ({trained.num_tokens:,} tokens in {trained.seconds:.1f} s,"
            " compilation included)"
        )
    lines["metrics"] = f"{out / 'metrics.jsonl'}; tensorboard --logdir={out / 'tensorboard'}"
    asked = [f"--model={_MODEL.value}", f"--adapter={out / 'adapter'}", "--sampler=standard"]
    asked += ["--random_weights"] if _RANDOM_WEIGHTS.value else []
    asked += [f"--out={out}-samples"]
    lines["sample it with"] = shlex.join(["python", "-m", "experiments.sample", *asked])
    _say()
    for name, value in lines.items():
        _say(f"{name:>22}  {value}")


def _say(what: object = "") -> None:
    if processes.is_main():
        print(what)


if __name__ == "__main__":
    cli.run(main)
