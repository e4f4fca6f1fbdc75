r"""Checks the paper's theory by exact enumeration and draws its synthetic figures.

    python -m experiments.theory --out=runs/theory

The program prints one line per check: what was checked, in how many cases, the largest deviation,
and whether it passed. The exit status is 1 if a check fails. Each figure is written as PNG, with
the numbers behind it as CSV. The whole program takes about half a minute on two cores. To run some
parts alone, with exponents of your own:

    python -m experiments.theory --only=prop1,fig2 --alphas=1.5,6 --out=runs/prop1

The parts are the checks eq6-8 prop1 prop2 prop3 prop4 prop5 cor1 eq14-16 ess; fig1 to fig6, which
are the paper's figures i to vi; and bridge, which measures three ways to reach pi_alpha.
"""

import sys
import time
from pathlib import Path

from absl import flags

from experiments import flags as shared
from powerjax import cli, records
from powerjax.records import lock
from powerjax.theory import bridge, bridge_figure, checks, drawing, figures, laws, zipf

PARTS = tuple(dict.fromkeys([*checks.ALL, *figures.ALL, "bridge"]))

_OUT = shared.define_out("runs/theory", "The folder for figures and tables")
_ONLY = flags.DEFINE_list(
    "only", [], f"The parts to run, separated by commas: {', '.join(PARTS)}. Default: all of them."
)
_ALPHAS = flags.DEFINE_list(
    "alphas",
    [f"{alpha:g}" for alpha in zipf.ALPHAS],
    "The exponents alpha of the checks and figures, separated by commas. Each has to be above 0.",
)


def exponents(texts: list[str]) -> list[float]:
    """Returns the exponents in rising order. Raises ValueError if one is not a positive number."""
    try:
        values = sorted({laws.check_alpha(float(text)) for text in texts})
    except ValueError as error:
        raise ValueError(f"--alphas={','.join(texts)}: {error}") from None
    if not values:
        raise ValueError("--alphas is empty: give at least one exponent, such as --alphas=4")
    return values


def parts(only: list[str]) -> list[str]:
    """Returns the parts to run, in the order of PARTS; all of them where `only` is empty."""
    unknown = [name for name in only if name not in PARTS]
    if unknown:
        raise ValueError(f"--only: no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    return [name for name in PARTS if not only or name in only]


def draw_bridge(folder: Path) -> list[Path]:
    """Measures the three roads to pi_alpha, prints table and text, and writes them and the figure.

    Returns the paths of figure and table.
    """
    curves = bridge.measure()
    text = bridge.lessons(curves)
    print(f"\n{bridge.table(curves)}\n\n{text}\n")
    lock.replace_file(folder / "bridge.txt", text + "\n")
    return drawing.save(
        bridge_figure.draw(curves, bridge.ALPHA, bridge.NUM_CHAINS), folder, "bridge"
    )


def main(_) -> None:
    """Runs the checks, then draws the figures."""
    start = time.perf_counter()
    alphas, names = exponents(_ALPHAS.value), parts(_ONLY.value)
    settings = {"alphas": alphas, "only": names}
    folder = records.open_run(_OUT.value, settings, free=("alphas", "only"))
    results = []
    for name in names:
        if name in checks.ALL:
            results.append(checks.ALL[name](alphas))
            print(results[-1].line(), flush=True)
    paths = []
    for name in names:
        if name in figures.ALL:
            paths += drawing.save(figures.ALL[name](alphas), folder, name)
    if "bridge" in names:
        paths += draw_bridge(folder)
    failed = [result.name for result in results if not result.passed]
    if paths:
        print(f"{len(paths)} figures and tables in {folder}")
    passed = sum(result.passed and result.cells > 0 for result in results)
    verdict = (
        f"FAILED: {', '.join(failed)}" if failed else f"{passed} of {len(results)} checks passed"
    )
    print(f"{verdict}; {time.perf_counter() - start:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    cli.run(main)
