"""Runs programs that a model wrote where they can do no harm; `programs` says how."""

from powerjax.tasks.sandbox.limits import Limits
from powerjax.tasks.sandbox.programs import (
    BUBBLEWRAP,
    RLIMITS,
    UNSAFE,
    Program,
    Verdict,
    require,
    run,
    run_all,
)

__all__ = [
    "BUBBLEWRAP",
    "RLIMITS",
    "UNSAFE",
    "Limits",
    "Program",
    "Verdict",
    "require",
    "run",
    "run_all",
]
