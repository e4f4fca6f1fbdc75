"""The papers at the top of the repository: what they tell people to type works."""

import ast
import functools
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from powerjax.tasks import registry

ROOT = Path(__file__).resolve().parents[1]


def blocks(path: Path, language: str) -> list[str]:
    """Returns the fenced blocks of a Markdown file in one language, without their indentation."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    found = re.findall(pattern, path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


@pytest.fixture
def subtraction(monkeypatch):
    """The task of CONTRIBUTING.md, entered as it says; yields the namespace of its tests."""
    module_text, maker, entry, tests = blocks(ROOT / "CONTRIBUTING.md", "python")
    module = types.ModuleType("powerjax.tasks.subtraction")
    exec(module_text, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    namespace = dict(vars(registry))
    exec(maker, namespace)
    makers = eval(f"{{{entry}}}", namespace)
    for name, make in makers.items():
        monkeypatch.setitem(registry._MAKERS, name, make)
    written: dict = {}
    exec(tests, written)
    return written


def test_the_task_of_the_contributing_guide_works_as_it_is_written(subtraction):
    assert registry.get("subtraction").splits == ("test", "train")
    tests = [value for name, value in subtraction.items() if name.startswith("test_")]
    assert len(tests) == 2
    for run in tests:
        run()


def test_the_task_of_the_contributing_guide_is_laid_out_as_ruff_wants_it():
    module, maker, entry, tests = blocks(ROOT / "CONTRIBUTING.md", "python")
    registry_file = (ROOT / "powerjax/tasks/registry.py").read_text()
    head, makers, entries = registry_file.partition("\n\n# Every task's name")
    entries = entries.replace("\n}\n", f"\n{entry}}}\n", 1)
    for name, text in (
        ("powerjax/tasks/subtraction.py", module),
        ("powerjax/tasks/registry.py", f"{head}\n\n{maker}{makers}{entries}"),
        ("tests/tasks/test_subtraction.py", tests),
    ):
        for command in (["check"], ["format", "--check"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, f"--stdin-filename={name}", "-"],
                input=text,
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "BUILD_NOTES.md", "docs/architecture.md"]
    + [f"docs/decisions/{path.name}" for path in sorted((ROOT / "docs/decisions").glob("*.md"))],
)
def test_every_path_that_a_paper_names_is_there(name):
    """Paths below the repository's folders, and below powerjax/ where the paper leaves that out."""
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"\b[a-z_]+/[\w/]+\.(?:py|sh|md|yaml|sbatch|html)\b", text))
    made = {"tasks/subtraction.py", "tests/tasks/test_subtraction.py", "tasks/NAME.py"}
    missing = [
        path
        for path in sorted(paths)
        if not any(path.endswith(one) for one in made)
        and not path.startswith(("runs/", "folder/"))
        and not any((ROOT / above / path).exists() for above in ("", "powerjax"))
    ]
    assert missing == []


def test_the_package_ships_its_types_and_its_licence():
    assert (ROOT / "powerjax/py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


SHORT_AND_FULL = ROOT / "docs/decisions/short_and_full_tests.md"


@functools.cache
def marks(path: str) -> dict[str, bool]:
    """Returns test -> whether it is marked `full`, of a file of tests."""
    tree = ast.parse((ROOT / path).read_text())
    whole_file = any(
        ast.unparse(node.targets[0]) == "pytestmark" and "mark.full" in ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    )
    return {
        node.name: whole_file or "pytest.mark.full" in map(ast.unparse, node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named_tests(text: str) -> list[tuple[str, str | None]]:
    """Returns (file, test) of each test that a text names; the test is None for a whole file."""
    found = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    return [(path, name or None) for path, name in found]


def long_tests_of(path: str, name: str | None) -> set[tuple[str, str]]:
    return {(path, test) for test in marks(path) if name in (None, test)}


def test_every_test_that_the_page_of_families_names_is_there():
    named = named_tests((ROOT / "docs/reference/families.md").read_text())
    named = [(path, name) for path, name in named if "/test_" in path]
    assert len(named) > 20
    assert [pair for pair in named if not long_tests_of(*pair)] == []


def test_the_page_of_short_and_full_tests_is_right():
    claims, long = SHORT_AND_FULL.read_text().split("## What runs with --full only")
    rows = [line.strip("| ").split(" | ") for line in long.splitlines() if "`tests/" in line]
    rows = [row for row in rows if len(row) == 3]
    listed = {test for row in rows for pair in named_tests(row[0]) for test in long_tests_of(*pair)}
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    full = {(path, test) for path in files for test, is_full in marks(path).items() if is_full}
    assert listed == full
    short = named_tests(claims.split("## The README's claims")[1].split("Not claimed")[0])
    short += [pair for row in rows for pair in named_tests(row[2])]
    assert len(short) > 50
    assert [(path, test) for path, test in short if marks(path).get(test) is not False] == []
