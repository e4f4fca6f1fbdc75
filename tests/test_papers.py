"""The papers at the top of the repository: what they tell people to type works."""

import re
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
