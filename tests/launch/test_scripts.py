"""The shell scripts of launch/: the commands that each would run, as DRY_RUN=1 prints them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
ARGUMENTS = {
    "a100.sh": [],
    "a100x8.sh": [],
    "slurm.sbatch": [],
    "tpu_pod.sh": ["my-slice", "us-east5-a"],
}

# Reads command lines from standard input and prints what a launcher does not understand of them.
_PARSE = """
import importlib, json, sys
from absl import flags
importlib.import_module(sys.argv[1])
for line in json.load(sys.stdin):
    try:
        flags.FLAGS(["program", *line])
    except flags.Error as error:
        print(error)
    flags.FLAGS.unparse_flags()
"""


def dry_run(script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """Returns the commands that the script would run, each as a list of words."""
    done = _bash(script, *(arguments or ARGUMENTS[script]), **{"OUT": "/disk/run"} | environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def refusal(script: str, *arguments: str, **environment: str) -> str:
    """Returns what the script prints on stderr when it ends without a command to run."""
    done = _bash(script, *arguments, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def _bash(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env={"PATH": os.environ["PATH"], "DRY_RUN": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def programs(commands: list[list[str]]) -> list[tuple[str, list[str]]]:
    """Returns (module, flags) of each command that starts a launcher."""
    launchers = []
    for words in commands:
        if "-m" in words:
            at = words.index("-m")
            launchers.append((words[at + 1], words[at + 2 :]))
    return launchers


def of_jobset() -> list[tuple[str, list[str]]]:
    """Returns (module, flags) of the container in jobset.yaml."""
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (container,) = _pod(manifest)["containers"]
    flags = [flag.replace("$(JOB_COMPLETION_INDEX)", "0") for flag in container["args"]]
    return programs([[*container["command"], *flags]])


def _pod(manifest: dict) -> dict:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_it(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    if shutil.which("shellcheck"):
        command = ["shellcheck", "-s", "bash", "-S", "warning", "-x", "-P", ".", f"launch/{script}"]
        subprocess.run(command, cwd=LAUNCH.parent, check=True)


def test_every_printed_flag_is_one_the_launcher_knows():
    by_module = {}
    printed = [program for script in ARGUMENTS for program in programs(dry_run(script))]
    for module, flags in printed + of_jobset():
        by_module.setdefault(module, []).append(flags)
    assert set(by_module) == {"experiments.sample", "experiments.distill"}
    for module, lines in by_module.items():
        done = subprocess.run(
            [sys.executable, "-c", _PARSE, module],
            input=json.dumps(lines),
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "", f"{module}: {done.stdout}"


@pytest.mark.parametrize("script", ARGUMENTS)
def test_the_settings_are_those_of_the_paper(script):
    teacher, student, standard, temperature = programs(dry_run(script))
    assert {
        *("--model=Qwen/Qwen2.5-Math-7B", "--task=math_train", "--sampler=power", "--alpha=4"),
        *("--max_new_tokens=3072", "--block_size=192", "--num_mcmc_steps=10"),
    } <= set(teacher[1])
    assert {
        *("--lora_rank=16", "--lora_alpha=32", "--lora_dropout=0.05", "--learning_rate=1e-5"),
        *("--epochs=3", "--batch_size=8", "--max_length=1024"),
    } <= set(student[1])
    assert "--sampler=standard" in standard[1] and "--sampler=temperature" in temperature[1]
    assert {"--task=math500", "--num_samples=4"} <= set(standard[1]) & set(temperature[1])


@pytest.mark.parametrize("script", ARGUMENTS)
def test_each_job_finds_what_the_one_before_it_left(script):
    teacher, student, *evaluations = (
        dict(flag.partition("=")[::2] for flag in flags) for _, flags in programs(dry_run(script))
    )
    assert student["--records"] == teacher["--out"] + "/records.jsonl"
    for evaluation in evaluations:
        assert evaluation["--adapter"] == student["--out"] + "/adapter"
        assert evaluation["--model"] == student["--model"] == teacher["--model"]
    assert len({job["--out"] for job in (teacher, student, *evaluations)}) == 4


def test_jobs_and_settings_can_be_chosen():
    ((module, flags),) = programs(
        dry_run(
            "a100.sh",
            "student",
            MODEL="/models/my model",
            LEARNING_RATE="1e-3",
            STUDENT_FLAGS="--fsdp --seed=2",
        )
    )
    assert module == "experiments.distill"
    assert {"--model=/models/my model", "--learning_rate=1e-3", "--fsdp", "--seed=2"} <= set(flags)


def test_the_student_of_secret_records_reads_the_prompts_of_their_task():
    given = {"TRAIN_TASK": "gpqa_rest", "TASK_FLAGS": "--data_dir=/data"}
    ((_, flags),) = programs(dry_run("a100.sh", "student", **given))
    assert {"--task=gpqa_rest", "--data_dir=/data"} <= set(flags)


def test_a_job_of_another_name_is_refused_in_one_line():
    jobs = "teacher, student, evaluate (or standard, temperature)"
    expected = f"a100: sampel is not one of the jobs {jobs}\n"
    assert refusal("a100.sh", "evaluate", "sampel") == expected


@pytest.mark.parametrize(
    ("nodes", "gpus", "model_axis", "teacher", "student_nodes", "student"),
    [
        (4, 8, 1, (32, 1), 1, (8, 1)),  # a batch of 8 has work for 8 GPUs
        (4, 8, 4, (8, 4), 4, (8, 4)),
        (2, 4, 1, (8, 1), 2, (8, 1)),
        (1, 8, 8, (1, 8), 1, (1, 8)),
        (16, 8, 2, (64, 2), 2, (8, 2)),
        (3, 8, 4, (6, 4), 2, (4, 4)),  # six rows would not divide 8
    ],
)
def test_the_meshes_of_slurm_take_every_gpu_of_their_nodes(
    nodes, gpus, model_axis, teacher, student_nodes, student
):
    commands = dry_run(
        "slurm.sbatch",
        SLURM_JOB_NUM_NODES=str(nodes),
        SLURM_GPUS_ON_NODE=str(gpus),
        MODEL_AXIS=str(model_axis),
    )
    assert all(words[0] == "srun" for words in commands)
    for words, (data, model) in zip(commands, (teacher, student, teacher, teacher), strict=True):
        assert {f"--data_axis={data}", f"--model_axis={model}"} <= set(words)
        assert data * model == gpus * (student_nodes if words is commands[1] else nodes)
    narrowed = [f"--nodes={student_nodes}" in words for words in commands]
    assert narrowed == [False, True, False, False]


def test_nodes_that_no_batch_of_8_divides_over_are_refused_before_the_teacher():
    err = refusal("slurm.sbatch", SLURM_GPUS_ON_NODE="6")
    assert "a batch of 8 does not divide over nodes of 6 GPUs" in err
    assert "BATCH_SIZE=6" in err and err.count("\n") == 1


def test_a_model_axis_that_does_not_divide_a_node_is_refused():
    err = refusal("slurm.sbatch", SLURM_GPUS_ON_NODE="6", MODEL_AXIS="4")
    assert "MODEL_AXIS=4 does not divide the 6 GPUs of a node" in err


@pytest.mark.parametrize(
    ("gpus", "model_axis", "data"), [(8, 1, 8), (6, 1, 4), (6, 2, 2), (3, 1, 2), (8, 8, 1)]
)
def test_the_student_of_a_node_has_a_mesh_that_divides_the_batch(gpus, model_axis, data):
    ((_, flags),) = programs(
        dry_run("a100x8.sh", "student", GPUS=str(gpus), MODEL_AXIS=str(model_axis))
    )
    assert {f"--data_axis={data}", f"--model_axis={model_axis}"} <= set(flags)


def test_workers_of_a_slice_are_told_the_settings():
    commands = dry_run(
        "tpu_pod.sh", "slice", "us-east5-a", "student", STUDENT_FLAGS="--fsdp --seed=2"
    )
    assert [words[0] for words in commands[:-1]] == ["git", *["gcloud"] * 3]
    *_, ssh = commands[:-1]
    assert {"ssh", "slice", "--zone=us-east5-a", "--worker=all"} <= set(ssh)
    (command,) = (word.removeprefix("--command=") for word in ssh if word.startswith("--command="))
    # The worker's shell parses the command again. What it then runs was printed last.
    command = command.removeprefix("cd powerjax && ")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=LAUNCH.parent,
        env={"PATH": os.environ["PATH"], "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shlex.split(done.stdout) == commands[-1]
    assert {"--fsdp", "--seed=2", "--out=/disk/run/student"} <= set(commands[-1])


def test_a_slice_ends_each_job_on_all_workers_before_the_next():
    """The student needs all workers' shares, and one may end hours before another."""
    commands = dry_run("tpu_pod.sh")
    jobs = [words[-1].split()[-1] for words in commands if "on_worker" in words[-1]]
    assert jobs == ["teacher", "student", "standard", "temperature"]


def test_a_slice_needs_a_disk_that_its_workers_share():
    assert refusal("tpu_pod.sh", "slice", "zone").startswith("tpu_pod: usage: OUT=/")


def test_the_pods_of_the_jobset_are_as_many_as_they_are_told():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    spec, name = job["template"]["spec"], manifest["metadata"]["name"]
    ((_, flags),) = of_jobset()
    pods = spec["parallelism"]
    (container,) = _pod(manifest)["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert spec["completions"] == pods and spec["completionMode"] == "Indexed"
    assert f"--num_processes={pods}" in flags and f"--data_axis={pods * gpus}" in flags
    (coordinator,) = (flag for flag in flags if flag.startswith("--coordinator="))
    host = f"{name}-{job['name']}-0-0.{name}"
    assert re.fullmatch(rf"--coordinator={re.escape(host)}:\d+", coordinator)


@pytest.mark.parametrize(
    ("driver", "extra", "reason"),
    [
        ("535.183.01", "cuda12", "driver 535.183.01 is below 580: JAX for CUDA 12"),
        ("580.65.06", "cuda", "driver 580.65.06: JAX for CUDA 13"),
        ("1000.1", "cuda", "driver 1000.1: JAX for CUDA 13"),
        ("NVIDIA-SMI has failed", "cuda", "no NVIDIA driver answers here"),
        (None, "cuda", "no NVIDIA driver answers here"),
    ],
)
def test_the_driver_decides_between_cuda_13_and_12(tmp_path, driver, extra, reason):
    if driver is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '{driver}'\necho '{driver}'\n")
        tool.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {LAUNCH}/environment.sh; cuda_extra"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, extra), done.stderr
    assert reason in done.stderr and done.stderr.count("\n") == 1


def _python(path: Path, version: str) -> None:
    """Writes a stand-in for Python of this version, which has every module."""
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\ncase "$2" in *print*) echo {version};; esac\n')
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        (None, None),
        ("3.12", None),
        ("3.11", "is Python 3.11, and .venv was made with Python 3.12.* remove it first: rm -r .v"),
        ("none", "needs Python 3.11 or newer .* found none among: .*/none/python"),
    ],
)
def test_a_venv_of_another_version_than_python_names_is_refused(tmp_path, wanted, refused):
    _python(tmp_path / ".venv/bin/python", "3.12")
    (tmp_path / "setup.py").touch()
    environment = {"PATH": os.environ["PATH"]}
    if wanted is not None:
        environment["PYTHON"] = str(tmp_path / wanted / "python")
        if wanted != "none":
            _python(tmp_path / wanted / "python", wanted)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {LAUNCH}/environment.sh; install"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    installs = list((tmp_path / ".venv").glob(".installed-*"))
    if refused is None:
        assert (done.returncode, len(installs)) == (0, 1), done.stderr
    else:
        assert (done.returncode, installs) == (1, []) and done.stderr.count("\n") == 1
        assert re.search(refused, done.stderr)


def test_where_python_keeps_no_bytecode_it_is_kept_in_the_venv(tmp_path):
    _python(tmp_path / ".venv/bin/python", "3.12")
    (tmp_path / "setup.py").touch()
    show = 'echo "${PYTHONDONTWRITEBYTECODE-unset} ${PYTHONPYCACHEPREFIX-unset}"'
    for before, after in (("1", f"unset {tmp_path}/.venv/bytecode"), ("", " unset")):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source {LAUNCH}/environment.sh; install; {show}"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": before},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, f"{after}\n"), done.stderr
