"""The order of the repository: floors, rooms, sizes of files and functions, and old import paths.

A room is a folder of the package (or cli.py). Rooms lie on floors, and imports point only downward.
All but the last two tests read the source as text and import nothing of powerjax.
"""

import ast
import collections
import dataclasses
import functools
import importlib
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import former_names

ROOT = Path(__file__).resolve().parents[1]
# Lowest floor first. A room imports rooms of lower floors, and of its own floor where those do not
# import it.
FLOORS = (
    ("records", "parallel"),
    ("models",),
    ("tasks",),
    ("theory", "sample"),
    ("distill",),
    ("evaluation", "plan"),
    ("runs",),
    ("report",),
    ("cli",),
    ("experiments", "benchmarks"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES = 400  # of a file
MOST_MEDIAN_LINES = 170  # of all files of the package
MOST_FUNCTION_LINES = 60


@dataclasses.dataclass(frozen=True)
class Source:
    """One Python file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """The path below the repository's root, as messages write it."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self) -> str:
        """The dotted import path; a package's for its `__init__`."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        """The folder below `powerjax`, or a program's folder; "" for `powerjax/__init__.py`."""
        parts = self.module.split(".")
        return parts[0] if parts[0] != "powerjax" else "".join(parts[1:2])

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @property
    def num_lines(self) -> int:
        return self.text.count("\n")

    def at(self, line: int, complaint: str) -> str:
        return f"{self.name}:{line}: {complaint}"


@functools.cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file of these folders of the repository."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return tuple(Source(path) for path in sorted(paths))


@functools.cache
def by_module() -> dict[str, Source]:
    """Every file that has a place on a floor, by its dotted import path."""
    return {source.module: source for source in sources("powerjax", "experiments", "benchmarks")}


def imports(source: Source) -> Iterator[tuple[int, str, str | None]]:
    """Yields (line, module, name) of every import of this repository in a file.

    name: what `from MODULE import NAME` takes; None for `import MODULE`. Imports inside functions
    and under TYPE_CHECKING are among them.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ("powerjax", "experiments", "benchmarks"):
                    yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            module = absolute(source, node)
            if module.split(".")[0] in ("powerjax", "experiments", "benchmarks"):
                for alias in node.names:
                    yield node.lineno, module, alias.name


def absolute(source: Source, node: ast.ImportFrom) -> str:
    """The module of a `from` import, with its leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    package = package[: len(package) - node.level + source.is_package]
    return ".".join([*package, *filter(None, [node.module])])


def files_of(module: str, name: str | None) -> set[str]:
    """The modules in which an import ends.

    An `__init__` hands names on, so it counts as the files that it takes them from: one file for
    one name, and all of them for the package as a whole.
    """
    if name is not None and f"{module}.{name}" in by_module():
        return files_of(f"{module}.{name}", None)
    source = by_module().get(module)
    if source is None or not source.is_package:
        return {module}
    handed_on = collections.defaultdict(set)
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                handed_on[alias.asname or alias.name] |= files_of(
                    absolute(source, node), alias.name
                )
    if name in handed_on:
        return handed_on[name]
    return set().union(*handed_on.values()) if handed_on else {module}


def edges() -> dict[str, dict[str, int]]:
    """module -> the modules that it imports, each with the line of its first import."""
    graph: dict[str, dict[str, int]] = {}
    for source in by_module().values():
        graph[source.module] = {}
        if source.is_package:  # counted as what it hands on
            continue
        for line, module, name in sorted(imports(source), key=lambda item: item[0]):
            for target in files_of(module, name):
                graph[source.module].setdefault(target, line)
    return graph


def imports_of_rooms() -> Iterator[tuple[Source, int, str]]:
    """Yields (file, line, room) of every import of a room in a file of another room."""
    for source in by_module().values():
        if source.room in ("", "former"):
            continue
        for line, module, name in imports(source):
            target = f"{module}.{name}" if module == "powerjax" and name else module
            room = target.split(".")[target.startswith("powerjax.")]
            if room not in (source.room, "powerjax", "__version__"):
                yield source, line, room


def circles(graph: dict[str, dict[str, int]]) -> list[list[str]]:
    """Returns one circle for each module where a search first closes one; [] if there are none."""
    done: set[str] = set()
    closed: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            closed.append(path[path.index(module) :])
            return
        if module in done:
            return
        for target in graph.get(module, {}):
            visit(target, [*path, module])
        done.add(module)

    for module in graph:
        visit(module, [])
    return closed


def test_a_circle_is_seen_and_a_diamond_is_none():
    tail_and_circle = {"top": {"a": 1}, "a": {"b": 2}, "b": {"c": 3}, "c": {"a": 4}}
    assert circles(tail_and_circle) == [["a", "b", "c"]]
    assert circles({"top": {"a": 1, "b": 2}, "a": {"c": 3}, "b": {"c": 4}, "c": {}}) == []
    assert circles({"a": {"a": 1}}) == [["a"]]


def assert_none(complaints: list[str], remedy: str) -> None:
    assert not complaints, "\n".join(["", *complaints, f"Remedy: {remedy}"])


def test_the_top_of_the_package_holds_the_command_lines_alone():
    top = sorted(path.name for path in (ROOT / "powerjax").glob("*.py"))
    complaints = [
        f"powerjax/{name}:1: a module at the top of the package"
        for name in top
        if name not in ("__init__.py", "cli.py")
    ]
    remedy = "move it into the room of its floor, and add the old path to former/names.py"
    assert_none(complaints, remedy)


def test_every_room_has_a_floor():
    rooms = {source.room: source for source in sources("powerjax")}
    complaints = [
        source.at(1, f"no floor is named for {room}")
        for room, source in rooms.items()
        if room not in FLOOR_OF and room not in ("", "former")
    ]
    assert_none(complaints, "name it in FLOORS of tests/test_house.py")


def test_no_import_points_up_the_floors():
    complaints = [
        source.at(line, f"{source.room} imports {room}")
        for source, line, room in imports_of_rooms()
        if room not in FLOOR_OF or FLOOR_OF[room] > FLOOR_OF[source.room]
    ]
    remedy = "move what both need to a lower floor, or hand it in as an argument; the floors, "
    assert_none(complaints, remedy + "lowest first: " + " < ".join(map(", ".join, FLOORS)))


def test_no_two_rooms_of_a_floor_import_each_other():
    pairs = {(source.room, room) for source, _, room in imports_of_rooms()}
    complaints = [
        source.at(line, f"{source.room} imports {room}, which imports {source.room}")
        for source, line, room in imports_of_rooms()
        if (room, source.room) in pairs and FLOOR_OF.get(room) == FLOOR_OF[source.room]
    ]
    assert_none(complaints, "move what both need to a lower floor")


def test_the_package_itself_and_the_old_paths_import_no_room():
    """`import powerjax` stays quick, and the finder of old paths names modules as strings."""
    complaints = [
        source.at(line, f"imports {module}")
        for source in sources("powerjax")
        if source.room in ("", "former")
        for line, module, name in imports(source)
        if not f"{module}.{name}.".startswith("powerjax.former.")
    ]
    assert_none(complaints, "name the module as a string, and import it when it is asked for")


def test_no_circle_of_imports_between_files():
    graph = edges()
    complaints = []
    for circle in circles(graph):
        steps = zip(circle, [*circle[1:], circle[0]], strict=True)
        complaints.append(
            "; ".join(by_module()[a].at(graph[a][b], f"imports {b}") for a, b in steps)
        )
    assert_none(complaints, "move what two files of a circle share into a file below both")


def _only_hands_on(node: ast.stmt, *, is_root: bool) -> bool:
    """Whether a statement may stand in an `__init__.py`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Assign):
        names = {"__all__", "__version__"} if is_root else {"__all__"}
        return {ast.unparse(target) for target in node.targets} <= names
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return is_root and ast.unparse(node.value.func).endswith(".install")
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_an_init_defines_nothing():
    complaints = [
        source.at(node.lineno, f"`{ast.unparse(node).splitlines()[0]}` in an __init__")
        for source in sources("powerjax", "experiments", "benchmarks")
        if source.is_package
        for node in source.tree.body
        if not _only_hands_on(node, is_root=source.module == "powerjax")
    ]
    remedy = "define it in a file of the folder, and import it here: docstring, imports, __all__"
    assert_none(complaints, remedy)


def test_no_file_is_too_long():
    complaints = [
        source.at(MOST_LINES + 1, f"the file has {source.num_lines} lines of {MOST_LINES} at most")
        for source in sources("powerjax", "experiments", "benchmarks", "tests")
        if source.num_lines > MOST_LINES
    ]
    assert_none(complaints, "split it where its text changes its subject")


def test_the_median_file_is_short(record_property):
    lengths = {source.name: source.num_lines for source in sources("powerjax")}
    median = statistics.median(lengths.values())
    record_property("median lines of a file", median)
    longest = sorted(lengths, key=lengths.get, reverse=True)[:10]
    complaints = [f"{name}:1: {lengths[name]} lines" for name in longest]
    if median < MOST_MEDIAN_LINES:
        complaints = []
    assert_none(complaints, f"the median is {median}, at most {MOST_MEDIAN_LINES}: split these")


def test_a_function_fits_a_screen_or_says_why_not():
    complaints = []
    for source in sources("powerjax", "experiments", "benchmarks"):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            count = node.end_lineno - node.lineno + 1
            text = " ".join((ast.get_source_segment(source.text, node) or "").split())
            if count > MOST_FUNCTION_LINES and "one screen" not in text:
                complaints.append(source.at(node.lineno, f"{node.name} has {count} lines"))
    remedy = "take named steps out of it, or let it say why it is one screen"
    assert_none(complaints, f"{remedy} (at most {MOST_FUNCTION_LINES} lines)")


def test_the_table_of_old_names_knows_every_moved_module():
    from powerjax.former import names

    complaints = [
        f"powerjax/former/names.py:1: {old} was no module of the earlier version"
        for old in names.MOVED
        if old not in former_names.NAMES
    ]
    assert_none(complaints, "MOVED is for paths that a user can have imported: take it out")


@pytest.mark.parametrize("old", former_names.NAMES)
def test_an_old_import_path_has_the_names_it_had(old):
    """Those of former.names.MOVED, and those whose module still has the same path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module = importlib.import_module(f"powerjax.{old}")
        except ImportError as error:
            missing = [f"powerjax.{old} cannot be imported: {error}"]
        else:
            missing = [
                f"powerjax.{old}.{name} is gone"
                for name in former_names.NAMES[old]
                if not hasattr(module, name)
            ]
    complaints = [f"powerjax/former/names.py:1: {what}" for what in missing]
    remedy = "name the module that has it in MOVED (or what it is called now in RENAMED), or, where"
    assert_none(complaints, f"{remedy} powerjax/{old.replace('.', '/')} still is one, import it")
