"""The README and docs/: what they tell people to type works, and what they list is complete."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from powerjax.records import fields, identity
from powerjax.sample import spec
from powerjax.tasks import registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FLAGS = DOCS / "reference/flags.md"  # made by docs/make_flags.py
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TUTORIALS = [ROOT / "README.md", *sorted((DOCS / "tutorials").glob("*.md"))]

# Reads {module: command lines} and prints what a launcher does not understand of them. Each module
# is imported in a process of its own, because two of them may have flags of one name.
_PARSE = """
import importlib, json, multiprocessing, sys
from absl import flags
import experiments.flags

def complaints(item):
    module, lines = item
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return [f"{module}: {error}"]
    answers = []
    for line in lines:
        try:
            if rest := flags.FLAGS(["program", *line])[1:]:
                answers.append(f"{module}: no flags: {rest}")
        except flags.Error as error:
            answers.append(f"{module}: {error}")
        flags.FLAGS.unparse_flags()
    return answers

with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    for answer in pool.map(complaints, json.load(sys.stdin).items(), chunksize=1):
        print(*answer, sep="\\n", end="\\n" if answer else "")
"""

# Runs the blocks of each page, one page after the other, in namespaces of their own.
_RUN = """
import json, sys
for page, blocks in json.load(sys.stdin).items():
    names = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    print("ran", page, len(blocks))
"""


def run(program: str, value, folder: Path = ROOT) -> str:
    """Returns what a Python program prints that reads `value` as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(value),
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(path: Path) -> list[list[str]]:
    """Returns the words of each `python -m ...` and `bash launch/...` of a page."""
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(r"(?:\bpython -m|\bbash launch/|\bsbatch .*launch/)[^`\n]*", text)
    return [shlex.split(line, comments=True) for line in lines]


def launchers() -> dict[str, list[list[str]]]:
    """Returns module -> the flags of each command that starts it."""
    by_module: dict[str, list[list[str]]] = {}
    for words in (words for path in PAGES if path != FLAGS for words in commands(path)):
        if words[:2] == ["python", "-m"]:
            by_module.setdefault(words[2], []).append(words[3:])
        elif words[1] == "launch/quickstart.sh":
            line = [word for word in words[2:] if word.startswith("--")]
            by_module.setdefault("experiments.quickstart", []).append(line)
    return by_module


def blocks(path: Path) -> list[tuple[str, str, str]]:
    """Returns (the line before it, the language, the text) of each fenced block of a page."""
    pattern = r"([^\n]*)\n*^```(\w*)\n(.*?)^```$"
    return re.findall(pattern, path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.full
def test_the_site_builds_without_a_warning(tmp_path):
    here = importlib.util.find_spec("mkdocs") is not None
    tool = [sys.executable, "-m", "mkdocs"] if here else [shutil.which("mkdocs")]
    if tool[0] is None:
        pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [*tool, "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    fetched = [
        address
        for page in pages
        for address in re.findall(r'<(?:script|link|img)[^>]*"(https?://[^"]*)"', page.read_text())
    ]
    assert fetched == []  # the site needs no network


@pytest.mark.full
def test_every_flag_of_every_command_is_one_the_launcher_knows():
    by_module = launchers()
    assert {"experiments.sample", "experiments.distill", "benchmarks.gpu"} <= set(by_module)
    assert run(_PARSE, by_module) == ""


def test_every_script_that_a_command_names_is_there():
    scripts = {
        word
        for path in PAGES
        for words in commands(path)
        for word in words
        if word.startswith("launch/")
    }
    assert len(scripts) > 4
    assert [script for script in sorted(scripts) if not (ROOT / script).is_file()] == []


@pytest.mark.full
def test_the_python_of_the_readme_and_the_tutorials_runs(tmp_path):
    by_page = {
        path.name: [text for _, language, text in blocks(path) if language == "python"]
        for path in TUTORIALS
    }
    assert sum(map(len, by_page.values())) >= 6
    ran = run(_RUN, by_page, tmp_path)
    assert ran.count("\nran ") + ran.startswith("ran ") == len(by_page)


@pytest.mark.full
def test_the_page_of_flags_is_what_the_launchers_say():
    done = subprocess.run(
        [sys.executable, DOCS / "make_flags.py"], capture_output=True, text=True, check=True
    )
    assert FLAGS.read_text() == done.stdout, "run docs/make_flags.py"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_command_that_needs_hardware_is_marked(path):
    hardware = r"Qwen/|launch/(?!quickstart|test)|kubectl|--coordinator|EXTRAS=|benchmarks\.gpu"
    unmarked = [
        text
        for before, language, text in blocks(path)
        if language != "python"
        and re.search(hardware, text)
        and not all(line.startswith("DRY_RUN=1") for line in text.splitlines())
        and "*Needs" not in before
    ]
    assert unmarked == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_leads_to_a_file(path):
    targets = re.findall(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_page_of_records_names_every_field():
    from powerjax import models, sample

    lm = models.load("tiny", dtype="float32")
    options = {"num_mcmc_steps": 1, "block_size": 8, "max_new_tokens": 8, "progress": False}
    records = sample.power(lm, ["1 + 1 =", "2 + 2 ="], **options).to_records()
    page = (DOCS / "reference/records.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)`( L)? \|", page, flags=re.MULTILINE))
    beside = {"of", "step", "epoch", "loss"}  # in a sentence, for they are in no record
    assert set(fields.FIELDS) - set(listed) == beside
    assert all(f"`{name}`" in page for name in beside)
    assert len(records) == 2 and set(records[0]) <= set(listed)
    assert {name for name, mark in listed.items() if mark} == set(identity.LAW)


def test_the_guide_of_sampling_names_every_task_and_sampler():
    page = (DOCS / "guides/sampling.md").read_text()
    assert [name for name in registry.NAMES if f"`{name}`" not in page.split("## Tasks")[1]] == []
    assert [name for name in spec.SAMPLERS if f"\n| `{name}` |" not in page] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
