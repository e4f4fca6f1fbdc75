"""How the tests compile: in the least time, because most of their programs run once."""

import importlib.util
import os
import subprocess
import sys

# XLA's newer emitters for CPUs take twice as long. jaxlib 0.12 has them alone, and no such flag.
_OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
_KNOWN = "POWERJAX_TESTS_OLDER_EMITTERS"  # "1" or "0": found out once for all processes of a run


def variables() -> dict[str, str]:
    """Returns the environment variables of the tests, which JAX reads when it is imported.

    A variable of JAX that is set stays as it is.
    """
    defaults = {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    chosen = {name: os.environ.get(name, value) for name, value in defaults.items()}
    if _KNOWN not in os.environ:
        chosen[_KNOWN] = str(int(_has_older_emitters()))
        flags = _OLDER_EMITTERS if chosen[_KNOWN] == "1" else ""
        chosen["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    return chosen


def xla_flags() -> str:
    """Returns the flags of XLA for programs that are compiled without optimizations."""
    return _OLDER_EMITTERS if os.environ.get(_KNOWN) == "1" else ""


def _has_older_emitters() -> bool:
    """Whether XLA knows the flag. It is tried in a process, which XLA ends if it does not.

    False where libtpu is installed, which reads the flags of XLA too.
    """
    if importlib.util.find_spec("libtpu") is not None:
        return False
    program = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environment = os.environ | {"XLA_FLAGS": _OLDER_EMITTERS}
    tried = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    return tried.returncode == 0
