"""experiments/theory.py: what it prints and writes, its exit status, and mistakes."""

import csv
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from powerjax.theory import checks, drawing, figures

ROOT = Path(__file__).resolve().parents[2]
ALPHAS = (1.5, 4.0)


def run(*flags, cwd=ROOT):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "experiments.theory", *flags],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=120,
    )


def test_checks_and_a_figure(tmp_path):
    done = run("--only=prop1,prop3,fig2", "--alphas=1.5,6", f"--out={tmp_path}/a")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("pass  prop1") and "cells, worst deviation" in lines[0]
    assert lines[1].startswith("pass  prop3") and "with the bound below 1" in lines[1]
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["fig2.csv", "fig2.png", "manifest.json", "prop3.csv", "prop3.png"]
    with open(tmp_path / "a" / "fig2.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2016 and {row["alpha"] for row in rows} == {"1.5", "6.0"}
    gap = [abs(float(row["predicted_nats"]) - float(row["direct_nats"])) for row in rows]
    assert max(gap) < 1e-10


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--only=prop9", "no part 'prop9'; the parts are"),
        ("--alphas=2,0", "alpha must be a positive, finite number, got 0"),
        ("--alphas=", "--alphas is empty"),
        ("--alphas=four", "could not convert string to float"),
    ],
)
def test_a_mistake_is_one_line(flag, message, capsys, tmp_path):
    from experiments import theory

    texts = flag.split("=")[1].split(",") if flag.split("=")[1] else []
    with pytest.raises(ValueError, match=message):
        theory.parts(texts) if flag.startswith("--only") else theory.exponents(texts)


def test_a_mistake_ends_the_command_with_its_line(tmp_path):
    done = run("--alphas=-1", f"--out={tmp_path}/b")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("theory: --alphas=-1: alpha must be")


def test_a_failed_check_sets_the_exit_status(monkeypatch, tmp_path):
    from absl import flags

    from experiments import theory

    wrong = checks.Check("prop1", "nothing", 0, "worst deviation 1.0e+00", False)
    monkeypatch.setitem(checks.ALL, "prop1", lambda alphas: wrong)
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["theory", "--only=prop1", f"--out={tmp_path}/c"])
    with pytest.raises(SystemExit) as end:
        theory.main([])
    assert end.value.code == 1


@pytest.mark.parametrize("name", checks.ALL)
def test_every_check_passes_at_exponents_of_ones_own(name):
    check = checks.ALL[name]([0.7, 1.0, 5.0])
    assert check.passed, check.line()
    assert check.cells > 0


@pytest.mark.parametrize("name", figures.ALL)
def test_every_figure_is_drawn_with_its_numbers(name, tmp_path):
    paths = drawing.save(figures.ALL[name](ALPHAS), tmp_path, name)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    for path in paths[1:]:
        with open(path, encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        assert rows and all(len(row) == len(head) for row in rows)
        assert not any(cell.lower() == "nan" for row in rows for cell in row)


def test_labels_do_not_overlap():
    """Texts of a figure that share an axis must not lie on each other."""
    for draw in figures.ALL.values():
        figure = draw(checks.PROP3_LIMIT[:2]).figure
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        for axis in figure.axes:
            for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
                boxes = [t.get_window_extent(renderer) for t in ticks if t.get_text()]
                inside = [b for b in boxes if axis.bbox.expanded(1.2, 1.2).overlaps(b)]
                pairs = itertools.pairwise(inside)
                assert not any(a.overlaps(b) for a, b in pairs), axis.get_title(loc="left")
        from matplotlib import pyplot

        pyplot.close(figure)


def test_figure_five_holds_the_exact_numbers():
    table = figures.spread(ALPHAS).tables[""]
    at = list(table["alpha"]).index(4.0)
    assert table["ess_over_n_oracle"][at] == pytest.approx(1)
    np.testing.assert_allclose(table["ess_over_n_base"], 1 / (1 + table["cv2_base"]))
    assert table["ess_over_n_base"][at] > table["ess_over_n_temperature"][at]
