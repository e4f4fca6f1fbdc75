r"""Checks the paper's theory by exact enumeration and draws its synthetic figures.

    python -m experiments.theory --out=runs/theory

prints one line per proposition (what was checked, on how many cells, the worst deviation, pass or
fail; the exit status is 1 if one fails) and writes each figure as PNG with the numbers behind it as
CSV. About half a minute on two cores. A part alone, at exponents of your own:

    python -m experiments.theory --only=prop1,fig2 --alphas=1.5,6 --out=runs/prop1

Parts: eq6-8 prop1 prop2 prop3 prop4 prop5 cor1 eq14-16 ess (checks), fig1 .. fig6 (the paper's
figures i to vi) and bridge (three roads to pi_alpha, measured).
"""

import sys
import time
from pathlib import Path

from absl import flags

from powerjax import cli, records
from powerjax.theory import bridge, bridge_figure, checks, drawing, figures, laws, zipf

_OUT = flags.DEFINE_string("out", "runs/theory", "Folder for figures and tables.")
_ONLY = flags.DEFINE_list("only", [], "Parts to run, comma-separated; all when empty.")
_ALPHAS = flags.DEFINE_list(
    "alphas", [f"{alpha:g}" for alpha in zipf.ALPHAS], "Exponents, comma-separated, each > 0."
)

PARTS = tuple(dict.fromkeys([*checks.ALL, *figures.ALL, "bridge"]))


def exponents(texts: list[str]) -> list[float]:
    """The exponents asked for, in rising order; one that is no positive number is refused."""
    try:
        values = sorted({laws.check_alpha(float(text)) for text in texts})
    except ValueError as error:
        raise ValueError(f"--alphas={','.join(texts)}: {error}") from None
    if not values:
        raise ValueError("--alphas is empty: give at least one exponent, such as --alphas=4")
    return values


def parts(asked: list[str]) -> list[str]:
    """The parts to run, in the order of PARTS."""
    unknown = [name for name in asked if name not in PARTS]
    if unknown:
        raise ValueError(f"--only: no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    return [name for name in PARTS if not asked or name in asked]


def draw_bridge(folder: Path) -> list[Path]:
    """Measures the bridge, prints what it teaches, and writes figure, table and text."""
    curves = bridge.measure()
    text = bridge.lessons(curves)
    print(f"\n{bridge.table(curves)}\n\n{text}\n")
    (folder / "bridge.txt").write_text(text + "\n", encoding="utf-8")
    return drawing.save(
        bridge_figure.draw(curves, bridge.ALPHA, bridge.NUM_CHAINS), folder, "bridge"
    )


def main(_) -> None:
    start = time.perf_counter()
    alphas, names = exponents(_ALPHAS.value), parts(_ONLY.value)
    settings = {"alphas": alphas, "only": names}
    folder = records.open_run(_OUT.value, settings, free=("alphas", "only"))
    results = []
    for name in names:
        if name in checks.ALL:
            results.append(checks.ALL[name](alphas))
            print(results[-1].line(), flush=True)
    written = []
    for name in names:
        if name in figures.ALL:
            written += drawing.save(figures.ALL[name](alphas), folder, name)
    if "bridge" in names:
        written += draw_bridge(folder)
    failed = [result.name for result in results if not result.passed]
    if written:
        print(f"{len(written)} figures and tables in {folder}")
    passed = sum(result.passed and result.cells > 0 for result in results)
    verdict = (
        f"FAILED: {', '.join(failed)}" if failed else f"{passed} of {len(results)} checks passed"
    )
    print(f"{verdict}; {time.perf_counter() - start:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    cli.run(main)
