"""Prints the page of flags from the launchers themselves.

    python docs/make_flags.py > docs/reference/flags.md

tests/test_docs.py compares the page with what this program prints.
"""

import ast
import importlib
import multiprocessing
import os
import sys
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Flags

Every launcher explains its flags with `--help`. This page is made from the same texts by
`python docs/make_flags.py > docs/reference/flags.md`.

`--flag=value` sets a flag. `--flag` and `--noflag` switch one that is on or off.
"""


def launchers() -> list[str]:
    """Returns the names of the programs in experiments/."""
    paths = sorted((ROOT / "experiments").glob("*.py"))
    return [path.stem for path in paths if "cli.run(main)" in path.read_text()]


def section(name: str) -> str:
    """Returns the page's section on one launcher. Each call needs a process of its own."""
    module = importlib.import_module(f"experiments.{name}")
    title = (ast.get_docstring(ast.parse(Path(module.__file__).read_text())) or "").split("\n")[0]
    known = flags.FLAGS.get_key_flags_for_module(module.__name__)
    lines = [_line(flag) for flag in sorted(known, key=lambda flag: flag.name)]
    return "\n".join([f"## {name}", "", f"`python -m experiments.{name}`: {title}", "", *lines])


def _line(flag: flags.Flag) -> str:
    choices = getattr(flag.parser, "enum_values", None)
    meaning = " ".join((flag.help or "").split())
    if choices:
        meaning = meaning.removeprefix(f"<{'|'.join(choices)}>: ")
    kind = " or ".join(f"`{choice}`" for choice in choices or ()) or {
        "bool": "on or off",
        "comma separated list of strings": "values separated by commas",
        "string": "text",
    }.get(flag.flag_type(), flag.parser.syntactic_help)
    default = "" if flag.default is None else f"; default {_shown(flag.default)}"
    return f"- **`--{flag.name}`** ({kind}{default}): {_escaped(meaning)}"


def _shown(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = ",".join(value) if isinstance(value, list) else str(value)
    return f"`{text}`" if text else "empty"


def _escaped(text: str) -> str:
    for mark in "\\`*_<[":
        text = text.replace(mark, f"\\{mark}")
    return text


def main() -> None:
    """Prints the page."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(ROOT))
    importlib.import_module("experiments.flags")  # once, and not in each process below
    # A process imports one launcher, for two launchers may have flags of one name.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print("\n\n".join([HEAD.strip(), *pool.map(section, launchers(), chunksize=1)]))


if __name__ == "__main__":
    main()
