"""Every command of README and docs/ is run here in small or by another test, or is marked.

A block of commands that needs what the tests do not have is marked by "*Needs ...:*" in the line
before it (tests/test_docs.py).
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments import programs
from tests.test_docs import DOCS, PAGES, ROOT, blocks

# Flags that make a command small. They stand after those of the page, and so decide.
SMALL = {
    "experiments.sample": ["--limit=4", "--max_new_tokens=16", "--noprogress"],
    "experiments.distill": ["--epochs=1", "--noprogress"],
    "experiments.evaluate": ["--noprogress"],
    "experiments.qualitative": ["--noprogress"],
}
_TUTORIALS = ("distil", "quickstart", "your-model")
# What a page takes for granted before its first command, as somebody who reads it has it.
_SAMPLE = "python -m experiments.sample --model=tiny --block_size=16 --num_mcmc_steps=2"
_QUICKSTART = "python -m experiments.quickstart --num_problems=4 --num_samples=2 --epochs=1"
BEFORE = {
    "quickstart.md": [f"{_QUICKSTART} --num_mcmc_steps=1 --more_steps=2 --num_teacher=8"],
    "sampling.md": [
        f"{_SAMPLE} --out=runs/power",
        "python -m experiments.sample --model=tiny --sampler=standard --out=runs/standard",
        "python -m experiments.distill --records=runs/power/records.jsonl"
        " --out=runs/quickstart/student",
    ],
    "evaluating.md": [
        f"{_SAMPLE} --out=runs/power",
        "python -m experiments.sample --model=tiny --sampler=standard --out=runs/standard",
        "python -m experiments.distill --records=runs/power/records.jsonl --out=runs/student",
    ],
}
# The pages of docs/ whose commands are run here.
RUN_HERE = [
    "guides/evaluating.md",
    "guides/sampling.md",
    *(f"tutorials/{name}.md" for name in _TUTORIALS),
]
# Commands that other tests run.
ELSEWHERE = {
    "bash launch/test.sh": "launch/test.sh",  # which is what runs this
    "bash launch/quickstart.sh": "tests/experiments/test_quickstart.py",
    "python -m experiments.reproduce --model=tiny": "tests/experiments/test_reproduce.py",
    "python -m experiments.flywheel": "tests/experiments/test_flywheel.py",
    "python -m experiments.pretrain_tiny": "tests/experiments/test_pretrain_tiny.py",
    "python docs/make_flags.py": "tests/test_docs.py",
    "jupyter lab notebooks/quickstart.ipynb": "tests/experiments/test_notebook.py",
    "DRY_RUN=1 ": "tests/launch/test_scripts.py",
    "pip install -e ": "launch/test.sh",
}

# Runs commands one after the other, each in a fork of a process that has imported what takes long.
_RUN = """
import json, os, runpy, sys
import experiments.flags
from transformers import AutoTokenizer, PreTrainedTokenizerFast
for number, words in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        sys.exit()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{words} ended with {os.waitstatus_to_exitcode(status)}")
"""


def commands(path: Path) -> list[str]:
    """Returns the commands of a page's blocks, those left out that are marked as needing more."""
    texts = [
        text for before, language, text in blocks(path) if not language and "*Needs" not in before
    ]
    texts += re.findall(r"(?<=\n\n)(?:    [^\n]+\n)+", path.read_text())  # indented blocks
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    start = r"(?:\w+=\S* )*(?:python|bash|pip|jupyter|kubectl|sbatch) "
    return [line.strip() for line in lines if re.match(start, line.strip())]


def module(command: str) -> str | None:
    """Returns the module that `python -m` starts; None for another command."""
    found = re.match(r"python -m (\S+)", command)
    return found and found[1]


def is_run_elsewhere(command: str) -> bool:
    return command.startswith(tuple(ELSEWHERE))


def test_every_command_is_run_by_a_test_or_marked():
    assert sum(len(commands(path)) for path in PAGES) > 20
    unknown = [
        (path.name, command)
        for path in PAGES
        for command in commands(path)
        if not is_run_elsewhere(command) and module(command) not in SMALL
    ]
    assert unknown == []
    assert all((ROOT / place).is_file() for place in ELSEWHERE.values())


def test_the_quick_table_is_run_with_the_flags_of_the_readme():
    (command,) = (line for line in commands(ROOT / "README.md") if "reproduce" in line)
    assert shlex.split(command)[3:] == list(programs.QUICK[:3])


def _small(command: str) -> list[str]:
    """Returns the module and the flags of a command, made small."""
    words = shlex.split(command, comments=True)[2:]
    return [*words, *SMALL.get(words[0], ["--noprogress"])]


@pytest.mark.full
@pytest.mark.parametrize("page", RUN_HERE)
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    path = DOCS / page
    here = [line for line in commands(path) if not is_run_elsewhere(line)]
    assert here
    if page == "tutorials/your-model.md":  # its first block writes the prompts
        text = next(text for _, language, text in blocks(path) if language == "python")
        monkeypatch.chdir(tmp_path)
        exec(text, {})
    lines = [_small(line) for line in [*BEFORE.get(path.name, []), *here]]
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps(lines),
        cwd=tmp_path,
        env=programs.environment() | {"PYTHONPATH": f"{ROOT}:{programs.WITHOUT_TORCH}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outs = [flag.removeprefix("--out=") for line in lines for flag in line if "--out=" in flag]
    assert all(any((tmp_path / out).iterdir()) for out in outs)


def test_the_pages_that_have_commands_to_run_are_those_that_are_run():
    pages = [
        path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
        for path in PAGES
        if any(not is_run_elsewhere(command) for command in commands(path))
    ]
    assert pages == RUN_HERE
