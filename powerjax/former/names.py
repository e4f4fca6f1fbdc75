"""Import paths of earlier versions, which go on working.

    import powerjax.mesh            gives a DeprecationWarning that names the new modules
    powerjax.mesh.make_mesh         is powerjax.parallel.mesh.make_mesh

`import powerjax` installs a finder that makes a module under an old path when it is imported. Such
a module has no code of its own: it looks every name up in the modules that the old one was divided
into. To move a module, add a line to `MOVED`; to rename a public name with it, one to `RENAMED`.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Sequence

_PACKAGE = "powerjax."

# Old module -> the modules that have its names now, in the order in which they are searched.
MOVED: dict[str, tuple[str, ...]] = {
    "capacity": ("plan.roofline",),
    "comparison": ("report.comparison", "report.claims", "report.comparison_notes"),
    "distill.data": ("distill.corpus", "distill.batches"),
    "estimates": ("evaluation.estimates",),
    "evaluate": ("evaluation.summary", "evaluation.estimates", "evaluation.equal_cost"),
    "fields": ("records.fields",),
    "grading": ("runs.grading", "runs.rescoring"),
    "hardware": ("plan.hardware",),
    "identity": ("records.identity",),
    "json_file": ("models.json_file",),
    "json_lines": ("records.json_lines",),
    "launch": ("cli", "runs.collect", "parallel.mesh", "report.cells"),
    "models.peft_settings": ("models.peft.settings",),
    "mesh": ("parallel.processes", "parallel.mesh", "models.sharding"),
    "page": ("report.page", "report.examples"),
    "paper": ("evaluation.paper",),
    "pipeline": ("runs", "runs.student"),
    "planning": ("plan.workload", "plan.probe", "plan.lines"),
    "plots": ("report.plots",),
    "progress": ("records.progress",),
    "qualitative": ("report.qualitative",),
    "rendezvous": ("parallel.rendezvous",),
    "reward_figures": ("report.reward_figures",),
    "rewards": ("evaluation.proposition4",),
    "scalars": ("records.scalars",),
    "setups": ("runs.setups",),
    "shards": ("records.shards", "records.lock"),
    "stages": ("records.stage_counts",),
    "tables": ("report.tables",),
    "text": ("models.text",),
    "tasks.boxes": ("tasks.answers.boxes",),
    "tasks.checkers": ("tasks.answers.checkers",),
    "tasks.confined": ("tasks.sandbox.confined",),
    "tasks.confined.harness": ("tasks.sandbox.confined.harness",),
    "tasks.confined.plain": ("tasks.sandbox.confined.plain",),
    "tasks.equivalence": ("tasks.answers.equivalence",),
    "tasks.expressions": ("tasks.answers.expressions",),
    "tasks.extraction": ("tasks.code.extraction", "tasks.code.fences", "tasks.code.assembly"),
    "tasks.isolation": ("tasks.sandbox.bubblewrap",),
    "tasks.notation": ("tasks.answers.notation",),
    "tasks.numbers": ("tasks.answers.numbers",),
    "tasks.seccomp": ("tasks.sandbox.seccomp",),
    "tasks.statements": ("tasks.code.statements",),
}
# (old module, old name) -> the name now, where the name changed too.
RENAMED = {
    ("launch", "grid"): "local_mesh",
    ("pipeline", "asked"): "prompted",
    ("pipeline", "kept"): "finished_result",
    ("pipeline", "student"): "train_student",
    ("planning", "Stage"): "Workload",
    ("shards", "taking_turns"): "locked",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module for each old path."""

    def find_spec(
        self, fullname: str, path: object = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        old = fullname.removeprefix(_PACKAGE)
        if old not in MOVED or not fullname.startswith(_PACKAGE):
            return None
        has_modules = any(name.startswith(f"{old}.") for name in MOVED)
        return importlib.util.spec_from_loader(fullname, self, is_package=has_modules)

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__.removeprefix(_PACKAGE)
        now = [_PACKAGE + name for name in MOVED[old]]
        warnings.warn(
            f"{module.__name__} is {' and '.join(now)} now", DeprecationWarning, stacklevel=2
        )
        module.__getattr__ = lambda name: _look_up(old, name)  # type: ignore[method-assign]


def _look_up(old: str, name: str) -> object:
    """Returns what an old module had under a name. Raises AttributeError where it had none."""
    if name.startswith("__"):
        raise AttributeError(name)
    homes: Sequence[str] = MOVED[old]
    for home in homes:
        module = importlib.import_module(_PACKAGE + home)
        try:
            return getattr(module, RENAMED.get((old, name), name))
        except AttributeError:
            continue
    raise AttributeError(f"{_PACKAGE}{old} had no {name}; see {', '.join(homes)}")


def install() -> None:
    """Makes the old paths importable. A second call in one process does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
