r"""What the paper's pipeline would take on hardware that need not be here: memory, tokens, hours.

    python -m experiments.plan --model=Qwen/Qwen2.5-7B --hardware=a100-40gb:8 --task=math
    python -m experiments.plan --model=path/to/config.json --hardware=tpu-v5e:8

Of the model it needs config.json alone (a folder, the file, or a Hugging Face id). For every number
of devices that can share one copy of the model it prints the bytes on a device, how many chains
fit, and the speed; then, for the fastest, tokens and hours of the teacher, the student and the
table's rows, and the commands. Times are the roofline of the chip's data sheet over --efficiency,
lengths are --mean_length: both are yours to give. experiments.reproduce measures both, once it runs
on the hardware.
"""

import dataclasses
from pathlib import Path

from absl import flags

from powerjax import cli
from powerjax.evaluation import paper
from powerjax.models import ModelConfig, checkpoint, json_file
from powerjax.plan import hardware, roofline, workload
from powerjax.plan.workload import Workload
from powerjax.runs import setups
from powerjax.runs.setups import SETUPS

# Problems of the test and of the training set.
SIZES = {"math": (500, 500), "code": (164, 420), "gpqa": (198, 250), "arithmetic": (1000, 2000)}
EPOCHS, BATCH_SIZE = 3, 8

_MODEL = flags.DEFINE_string(
    "model", "Qwen/Qwen2.5-7B", "A Hugging Face id, a folder, or a config.json."
)
_HARDWARE = flags.DEFINE_string(
    "hardware",
    "a100-40gb:1",
    "CHIP:COUNT, such as a100-40gb:8, h100-80gb:8, tpu-v5e:8, tpu-v4:32 (chips).",
)
_TASK = flags.DEFINE_enum("task", "math", list(SETUPS), "Whose problems and settings.")
_MEAN_LENGTH = flags.DEFINE_float(
    "mean_length", 600, "Tokens of a completion, on average: a guess, not a figure of any model.",
    lower_bound=1,
)  # fmt: skip
_EFFICIENCY = flags.DEFINE_float(
    "efficiency", 0.5, "The share of the roofline that is reached: assumed.", lower_bound=1e-3
)
_LONGEST_PROMPT = flags.DEFINE_integer(
    "longest_prompt",
    1024,
    "Tokens. With Qwen2.5's tokenizer 816 on MATH500, 918 on math_train, 391 on HumanEval.",
    lower_bound=1,
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "3072, for arithmetic 64.", lower_bound=1
)
_NUM_MCMC_STEPS = flags.DEFINE_integer(
    "num_mcmc_steps", None, "10, for arithmetic 30.", lower_bound=0
)
_MODEL_AXIS = flags.DEFINE_integer(
    "model_axis", None, "Devices that share a copy of the model; the fastest if not given."
)

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    if _EFFICIENCY.value > 1:
        raise ValueError(f"--efficiency={_EFFICIENCY.value:g}: a share of the roofline, up to 1")
    machine = hardware.parse(_HARDWARE.value)
    config = read_config(_MODEL.value)
    setup = asked_setup()
    longest = setup.max_new_tokens
    config.check_length(_LONGEST_PROMPT.value + longest)
    num_test, num_train = SIZES[_TASK.value]
    layouts = roofline.layouts(
        config,
        machine,
        longest_prompt=_LONGEST_PROMPT.value,
        max_new_tokens=longest,
        num_chains=max(num_train, paper.NUM_SEEDS * num_test),
    )
    chosen = choose(layouts)
    say_memory(machine, layouts, chosen, longest)
    stages = to_do(setup, num_test, num_train)
    # On several hosts launch/ gives the student the teacher's model axis.
    axis = chosen.model_axis if machine.num_hosts > 1 else None
    student = roofline.training(config, machine, model_axis=axis, batch_size=BATCH_SIZE)
    say_stages(machine, chosen, stages, student, num_train)
    print("\n" + "\n".join(commands(machine, chosen, student, setup)))


def read_config(model: str) -> ModelConfig:
    """Of config.json itself, or of the folder or hub id that has it."""
    path = Path(model)
    if path.is_file():
        return checkpoint.model_config(path, json_file.read(path))
    folder = checkpoint.find_folder(model, weights=False)
    return checkpoint.model_config(folder, checkpoint.read_config(folder))


def asked_setup() -> setups.Setup:
    """The task's, with what the flags change of it."""
    given = {
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "num_mcmc_steps": _NUM_MCMC_STEPS.value,
    }
    changed = {key: value for key, value in given.items() if value is not None}
    return dataclasses.replace(SETUPS[_TASK.value], **changed)


def choose(layouts: list[roofline.Layout]) -> roofline.Layout:
    """The fastest, or that of --model_axis."""
    if _MODEL_AXIS.value is None:
        return roofline.best(layouts)
    asked = [layout for layout in layouts if layout.model_axis == _MODEL_AXIS.value]
    if not asked:
        axes = ", ".join(str(layout.model_axis) for layout in layouts)
        raise ValueError(f"--model_axis={_MODEL_AXIS.value}: on this hardware one of {axes}")
    return roofline.best(asked)


def to_do(setup: setups.Setup, num_test: int, num_train: int) -> list[Workload]:
    """The teacher first, then the table's rows."""
    rows = setups.rows(
        max_new_tokens=setup.max_new_tokens,
        block_size=setup.block_size,
        num_mcmc_steps=setup.num_mcmc_steps,
        alpha=paper.ALPHA,
        alphas=setup.alphas,
    )
    rows.sort(key=lambda row: row.name != setups.TEACHER)
    return [
        row.workload(row.settings["num_samples"] * (num_train if i == 0 else num_test))
        for i, row in enumerate(rows)
    ]


def say_memory(
    machine: hardware.Hardware,
    layouts: list[roofline.Layout],
    chosen: roofline.Layout,
    longest: int,
) -> None:
    """Prints a line for each number of devices a copy."""
    gib = 2**30
    print(
        f"{_MODEL.value} on {machine.name}, {machine.num_hosts} host(s) of {machine.host_devices}:"
        f" {chosen.room / gib:.1f} GiB a device, bfloat16, chains of at most"
        f" {_LONGEST_PROMPT.value} + {longest} tokens"
    )
    print(
        f"\n{'model axis':>10}{'copies':>8}{'weights':>9}{'buffers':>9}{'a slot':>8}"
        f"{'slots a copy':>14}{'in all':>8}{'ms a step':>11}{'tokens/s':>10}"
    )
    for found in layouts:
        mark = " *" if found == chosen else ""
        speed = f"{1e3 * found.step_s:>11.2f}{found.tokens_per_s:>10,.0f}"
        if not found.num_slots:
            speed = f"{'does not fit':>21}"
        print(
            f"{found.model_axis:>10}{found.num_engines:>8}{found.weights / gib:>9.2f}"
            f"{found.buffers / gib:>9.2f}{found.slot / gib:>8.3f}{found.num_slots:>14}"
            f"{found.all_slots:>8}{speed}{mark}"
        )
    print(
        "GiB of one device; ms and tokens/s are the roofline's, all slots busy. A slot: two caches"
        " of its\nwhole length, its share of the queue of prompts, logits. * is planned with below."
    )


def say_stages(
    machine: hardware.Hardware,
    chosen: roofline.Layout,
    stages: list[Workload],
    student: roofline.Training,
    num_train: int,
) -> None:
    """Prints tokens and hours of everything, the teacher's and the student's first."""
    print(
        f"\nCompletions of {_MEAN_LENGTH.value:g} tokens (at most: of the longest), at"
        f" {100 * _EFFICIENCY.value:g} % of the roofline:\n"
        f"{'what':28}{'chains':>8}{'forward tokens':>17}{'at most':>17}{'time':>9}{'at most':>9}"
        f"{'device hours':>14}"
    )
    lines, total = [], 0.0
    for stage in stages:
        length = stage.max_new_tokens if stage.is_endless else _MEAN_LENGTH.value
        tokens = [stage.forward_tokens(n) for n in (length, stage.max_new_tokens)]
        took = [chosen.seconds(stage.num_chains, n) / _EFFICIENCY.value for n in tokens]
        total += took[0]
        lines.append(
            f"{stage.name:28}{stage.num_chains:>8,}{tokens[0]:>17,.0f}{tokens[1]:>17,.0f}"
            f"{workload.duration(took[0]):>9}{workload.duration(took[1]):>9}"
            f"{took[0] / 3600 * machine.count:>14.2f}"
        )
    length = min(1024, _MEAN_LENGTH.value + _LONGEST_PROMPT.value / 8)  # prompts are mostly short
    tokens = EPOCHS * num_train * length
    took = tokens / student.tokens_per_s / _EFFICIENCY.value
    total += took
    devices = student.data_axis * student.model_axis
    lines.insert(
        1,
        f"{'student':28}{num_train:>8,}{tokens:>17,.0f}{'':>17}{workload.duration(took):>9}{'':>9}"
        f"{took / 3600 * devices:>14.2f}",
    )
    print("\n".join(lines))
    print(f"{'in all':28}{'':>42}{workload.duration(total):>9}")
    parts = (student.weights, student.adapter, student.activations)
    weights, adapter, rest = (f"{part / 2**30:.1f}" for part in parts)
    print(
        f"\nThe student's step: data {student.data_axis} x model {student.model_axis}"
        f"{', weights split over both' if student.fsdp else ''}; a device holds {weights} GiB of"
        f" weights, {adapter} of\nadapter and AdamW, {rest} of activations"
        f" ({'fits' if student.fits else 'DOES NOT FIT'} {student.room / 2**30:.1f})."
    )


def commands(
    machine: hardware.Hardware,
    chosen: roofline.Layout,
    student: roofline.Training,
    setup: setups.Setup,
) -> list[str]:
    """The lines to type: the launcher, and what it would run for the teacher."""
    test, train = setup.test[0], setup.train[0]
    path = Path(_MODEL.value)
    model = path.parent if path.name == "config.json" else _MODEL.value
    variables = [f"MODEL={model}", f"TRAIN_TASK={train}", f"EVAL_TASK={test}"]
    rate = paper.learning_rate(_TASK.value, paper.model_of(_MODEL.value))
    if rate is not None:
        variables.append(f"LEARNING_RATE={rate:g}")
    if machine.count > 1 or machine.is_tpu:
        variables.append(f"MODEL_AXIS={chosen.model_axis}")
    if student.batch_size > BATCH_SIZE:
        variables.append(f"BATCH_SIZE={student.batch_size}")
    variables += job_flags(setup)
    flags_ = ["--fsdp"] if student.fsdp else []
    if student.model_axis != chosen.model_axis:
        flags_ += [f"--model_axis={student.model_axis}", f"--data_axis={student.data_axis}"]
    if flags_:
        variables.append(f'STUDENT_FLAGS="{" ".join(flags_)}"')
    if machine.is_tpu:
        launcher = "OUT=/a/disk/all/workers/have bash launch/tpu_pod.sh NAME ZONE"
    elif machine.count == 1:
        launcher = "bash launch/a100.sh"
    elif machine.num_hosts == 1:
        launcher = f"GPUS={machine.count} bash launch/a100x8.sh"
    else:
        launcher = f"sbatch --nodes={machine.num_hosts} launch/slurm.sbatch"
    lines = ["Teacher, student and the student's evaluation:", "", f"  {' '.join(variables)} \\"]
    lines += [f"    {launcher}"]
    if machine.num_hosts == 1:
        table = f"python -m experiments.reproduce --model={model} --task={_TASK.value}"
        if not machine.is_tpu:
            table = f"XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 {table}"  # as planned with
        for flag in (_MAX_NEW_TOKENS, _NUM_MCMC_STEPS):
            if flag.value is not None:
                table += f" --{flag.name}={flag.value}"
        if chosen.model_axis > 1:
            table += f" --model_axis={chosen.model_axis}"
        lines += ["", "The whole table:", "", f"  {table}"]
    return lines


def job_flags(setup: setups.Setup) -> list[str]:
    """Where a task's jobs are not those that launch/pipeline.sh runs by itself."""
    length = {}
    if setup.max_new_tokens != paper.MAX_NEW_TOKENS:
        length["max_new_tokens"] = setup.max_new_tokens
    chain = {}
    if setup.num_mcmc_steps != paper.NUM_MCMC_STEPS:
        chain["num_mcmc_steps"] = setup.num_mcmc_steps
    if setup.block_size != paper.BLOCK_SIZE:
        chain["block_size"] = setup.block_size
    variables = []
    for name, (_, loaded), limit, more in (
        ("TEACHER_FLAGS", setup.train, setup.sizes[1], chain),
        ("EVAL_FLAGS", setup.test, setup.sizes[0], {}),
    ):
        given = loaded | ({"limit": limit} if limit else {}) | length | more
        if given:
            listed = " ".join(f"--{key}={value}" for key, value in given.items())
            variables.append(f'{name}="{listed}"')
    return variables


if __name__ == "__main__":
    cli.run(main)
