"""Programs that a model wrote, run where they can do no harm."""

from powerjax.tasks.sandbox.programs import (
    BUBBLEWRAP,
    RLIMITS,
    UNSAFE,
    Limits,
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
