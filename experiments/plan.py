r"""Plans the paper's pipeline for any hardware, present or not: memory, tokens, hours, commands.

    python -m experiments.plan --model=Qwen/Qwen2.5-7B --hardware=a100-40gb:8 --task=math
    python -m experiments.plan --model=path/to/config.json --hardware=tpu-v5e:8

The program reads the model's config.json and loads no weights. For every number of devices that can
share one copy of the model it prints the memory on each device, how many chains (completions in
progress) fit, and the speed. For the fastest number it then prints the tokens and hours of the
teacher's samples, of the student's training and of each row of the results table, and the commands
that run them.

The speed is computed, not measured: it is --efficiency times the roofline speed, at which the
chip's arithmetic or its memory bandwidth is fully used, as its data sheet states them. The assumed
length of completions is --mean_length. Set both flags if you know better numbers than the defaults.
experiments.reproduce measures both once it runs on the hardware.
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments import flags as shared
from powerjax import cli
from powerjax.evaluation import paper
from powerjax.models import ModelConfig, checkpoint, json_file
from powerjax.plan import hardware, roofline, workload
from powerjax.plan.workload import Workload
from powerjax.runs import setups
from powerjax.runs.setups import SETUPS

# Task -> how many problems its test set and its training set have.
SIZES = {"math": (500, 500), "code": (164, 420), "gpqa": (198, 250), "arithmetic": (1000, 2000)}
EPOCHS, BATCH_SIZE = 3, 8

_MODEL = flags.DEFINE_string(
    "model",
    "Qwen/Qwen2.5-7B",
    "The model: a Hugging Face id, a model folder, a GGUF file (model.gguf), or the path of a"
    " config.json.",
)
_HARDWARE = flags.DEFINE_string(
    "hardware",
    "a100-40gb:1",
    "The hardware as CHIP:COUNT, such as a100-40gb:8, h100-80gb:8, tpu-v5e:8 or tpu-v4:32; COUNT is"
    " the number of chips.",
)
_TASK = shared.define_setup("math", list(SETUPS))
_MEAN_LENGTH = flags.DEFINE_float(
    "mean_length",
    600,
    "The assumed mean length of a completion in tokens. The default is a guess and was not measured"
    " with any model.",
    lower_bound=1,
)
_EFFICIENCY = flags.DEFINE_float(
    "efficiency",
    0.5,
    "The share of the chip's roofline speed that is assumed to be reached, at most 1. The roofline"
    " speed is the largest that the arithmetic and memory bandwidth of its data sheet allow. The"
    " default is a guess and was not measured.",
    lower_bound=1e-3,
)
_LONGEST_PROMPT = flags.DEFINE_integer(
    "longest_prompt",
    1024,
    "The length of the longest prompt in tokens. With Qwen2.5's tokenizer, the longest prompt of"
    " MATH500 has 816 tokens, that of math_train 918, and that of HumanEval 391.",
    lower_bound=1,
)
_MAX_NEW_TOKENS = shared.define_max_new_tokens()
_NUM_MCMC_STEPS = shared.define_num_mcmc_steps(
    None, " Default: 10, or 30 for the arithmetic task.", lower_bound=0
)
_MODEL_AXIS = flags.DEFINE_integer(
    "model_axis",
    None,
    "How many devices share one copy of the model. Default: the number that gives the highest"
    " speed.",
)

flags.adopt_module_key_flags(cli)


def main(_) -> None:
    """Prints the plan."""
    if _EFFICIENCY.value > 1:
        raise ValueError(f"--efficiency={_EFFICIENCY.value:g}: a share of the roofline, up to 1")
    machine = hardware.parse(_HARDWARE.value)
    config = read_config(_MODEL.value)
    setup = chosen_setup()
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
    workloads = to_do(setup, num_test, num_train)
    # On several hosts launch/ gives the student the teacher's model axis.
    axis = chosen.model_axis if machine.num_hosts > 1 else None
    student = roofline.training(config, machine, model_axis=axis, batch_size=BATCH_SIZE)
    say_hours(machine, chosen, workloads, student, num_train)
    print("\n" + "\n".join(commands(machine, chosen, student, setup)))


def read_config(model: str) -> ModelConfig:
    """Returns the config of a model: a config.json, or whatever `models.load` takes."""
    path = Path(model)
    if path.suffix == ".json" and path.is_file():
        return checkpoint.model_config(path, json_file.read(path))
    folder = checkpoint.find_folder(model, weights=False)
    return checkpoint.model_config(folder, checkpoint.read_config(folder))


def chosen_setup() -> setups.Setup:
    """Returns the task's setup, with the changes that flags make to it."""
    values = {flag.name: flag.value for flag in (_MAX_NEW_TOKENS, _NUM_MCMC_STEPS)}
    changed = {key: value for key, value in values.items() if value is not None}
    return dataclasses.replace(SETUPS[_TASK.value], **changed)


def choose(layouts: list[roofline.Layout]) -> roofline.Layout:
    """Returns the fastest layout, or the one of --model_axis."""
    if _MODEL_AXIS.value is None:
        return roofline.best(layouts)
    chosen = [layout for layout in layouts if layout.model_axis == _MODEL_AXIS.value]
    if not chosen:
        axes = ", ".join(str(layout.model_axis) for layout in layouts)
        raise ValueError(f"--model_axis={_MODEL_AXIS.value}: on this hardware one of {axes}")
    return roofline.best(chosen)


def to_do(setup: setups.Setup, num_test: int, num_train: int) -> list[Workload]:
    """Returns what is sampled: the teacher first, then the rows of the table."""
    rows = setups.rows(
        alpha=paper.ALPHA,
        alphas=setup.alphas,
        **{name: getattr(setup, name) for name in ("max_new_tokens", "block_size")},
        num_mcmc_steps=setup.num_mcmc_steps,
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
    """Prints one line for each number of devices that can share a copy of the model.

    longest: the most tokens of a completion.
    """
    gib = 2**30
    print(
        f"{_MODEL.value} on {machine.name}, {machine.num_hosts} host(s) of {machine.host_devices}:"
        f" {chosen.room / gib:.1f} GiB per device, bfloat16, chains of at most"
        f" {_LONGEST_PROMPT.value} + {longest} tokens"
    )
    print(
        f"\n{'model axis':>10}{'copies':>8}{'weights':>9}{'buffers':>9}{'a slot':>8}"
        f"{'slots/copy':>14}{'in all':>8}{'ms/step':>11}{'tokens/s':>10}"
    )
    for layout in layouts:
        mark = " *" if layout == chosen else ""
        speed = f"{1e3 * layout.step_s:>11.2f}{layout.tokens_per_s:>10,.0f}"
        if not layout.num_slots:
            speed = f"{'does not fit':>21}"
        print(
            f"{layout.model_axis:>10}{layout.num_engines:>8}{layout.weights / gib:>9.2f}"
            f"{layout.buffers / gib:>9.2f}{layout.slot / gib:>8.3f}{layout.num_slots:>14}"
            f"{layout.all_slots:>8}{speed}{mark}"
        )
    print(
        "GiB of one device; ms and tokens/s are the roofline's, all slots busy. A slot: two caches"
        " of its\nwhole length, its share of the queue of prompts, logits. * is planned with below."
    )


def say_hours(
    machine: hardware.Hardware,
    chosen: roofline.Layout,
    workloads: list[Workload],
    student: roofline.Training,
    num_train: int,
) -> None:
    """Prints the tokens and hours of everything, the teacher and the student first."""
    print(
        f"\nCompletions of {_MEAN_LENGTH.value:g} tokens (at most: of the longest), at"
        f" {100 * _EFFICIENCY.value:g} % of the roofline:\n"
        f"{'what':28}{'chains':>8}{'forward tokens':>17}{'at most':>17}{'time':>9}{'at most':>9}"
        f"{'device hours':>14}"
    )
    lines, total = [], 0.0
    for item in workloads:
        length = item.max_new_tokens if item.is_endless else _MEAN_LENGTH.value
        tokens = [item.forward_tokens(n) for n in (length, item.max_new_tokens)]
        seconds = [chosen.seconds(item.num_chains, n) / _EFFICIENCY.value for n in tokens]
        total += seconds[0]
        lines.append(
            f"{item.name:28}{item.num_chains:>8,}{tokens[0]:>17,.0f}{tokens[1]:>17,.0f}"
            f"{workload.duration(seconds[0]):>9}{workload.duration(seconds[1]):>9}"
            f"{seconds[0] / 3600 * machine.count:>14.2f}"
        )
    length = min(1024, _MEAN_LENGTH.value + _LONGEST_PROMPT.value / 8)  # prompts are mostly short
    tokens = EPOCHS * num_train * length
    training_s = tokens / student.tokens_per_s / _EFFICIENCY.value
    total += training_s
    devices = student.data_axis * student.model_axis
    lines.insert(
        1,
        f"{'student':28}{num_train:>8,}{tokens:>17,.0f}{'':>17}"
        f"{workload.duration(training_s):>9}{'':>9}{training_s / 3600 * devices:>14.2f}",
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
    """Returns the commands to type: the jobs of launch/, and the table's where it is one host."""
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
    of_student = ["--fsdp"] if student.fsdp else []
    if student.model_axis != chosen.model_axis:
        of_student += [f"--model_axis={student.model_axis}", f"--data_axis={student.data_axis}"]
    if of_student:
        variables.append(f'STUDENT_FLAGS="{" ".join(of_student)}"')
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
    """Returns TEACHER_FLAGS and EVAL_FLAGS where launch/pipeline.sh has other settings itself."""
    length = {}
    if setup.max_new_tokens != paper.MAX_NEW_TOKENS:
        length["max_new_tokens"] = setup.max_new_tokens
    chain = {}
    if setup.num_mcmc_steps != paper.NUM_MCMC_STEPS:
        chain["num_mcmc_steps"] = setup.num_mcmc_steps
    if setup.block_size != paper.BLOCK_SIZE:
        chain["block_size"] = setup.block_size
    variables = []
    for name, (_, loaded), limit, moves in (
        ("TEACHER_FLAGS", setup.train, setup.sizes[1], chain),
        ("EVAL_FLAGS", setup.test, setup.sizes[0], {}),
    ):
        values = loaded | ({"limit": limit} if limit else {}) | length | moves
        if values:
            listed = " ".join(f"--{key}={value}" for key, value in values.items())
            variables.append(f'{name}="{listed}"')
    return variables


if __name__ == "__main__":
    cli.run(main)
