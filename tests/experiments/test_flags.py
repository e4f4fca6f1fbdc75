"""experiments/flags.py: shared definitions of flags, which belong to the launcher that asks."""

import subprocess
import sys

from tests.experiments import programs

_OWNERS = """
from absl import flags
from powerjax import cli
before = set(flags.FLAGS)
from experiments import flags as shared
assert set(flags.FLAGS) == before, set(flags.FLAGS) - before
from experiments import plan
keys = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(plan)}
assert keys == (set(flags.FLAGS) - before) | {"traceback"}, keys
owners = {flags.FLAGS.find_module_defining_flag(name) for name in set(flags.FLAGS) - before}
assert owners == {"experiments.plan"}, owners
for name in keys:
    text = flags.FLAGS[name].help.split(">: ")[-1]  # absl puts an enum's values first
    assert text[0].isupper() and text.endswith("."), (name, text)
"""


def test_importing_them_defines_none_and_a_launcher_owns_all_that_it_defines():
    done = subprocess.run(
        [sys.executable, "-c", _OWNERS],
        cwd=programs.ROOT,
        env=programs.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
