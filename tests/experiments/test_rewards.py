"""experiments/rewards.py: the figures of the embedded model, and its slope against Prop. 4's."""

import json

import pytest

from powerjax import records
from tests.experiments import programs

pytestmark = pytest.mark.full

_FLAGS = ["--limit=40", "--num_samples=6", "--num_alphas=5", "--num_mcmc_steps=60", "--noprogress"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")

    def run():
        arguments = [*_FLAGS, f"--out={folder / 'run'}"]
        process = programs.start("experiments.rewards", *arguments, optimized=True)
        return programs.end(process)

    code, out, err = run()
    assert code == 0, err
    return folder / "run", run, out


def test_the_slope_is_that_of_prop_4(ran, record_property):
    folder, _, out = ran
    found = json.loads((folder / "rewards.json").read_text())
    slope, low, high = found["slope"]
    record_property("slope", f"{slope:.3f} [{low:.3f}, {high:.3f}]")
    record_property("predicted", "{:.3f} [{:.3f}, {:.3f}]".format(*found["predicted"]))
    assert low <= found["predicted"][0] <= high and found["agrees"]
    assert high - low < slope  # an interval that says something
    assert "the prediction lies in the fitted slope's interval" in out


def test_both_series_fall_as_tau_grows_and_power_lies_above(ran):
    _, _, out = ran
    rows = [line.split("|")[1:-1] for line in out.split("\n") if line.startswith("| ")][1:]
    found = {}
    for kind, tau, accuracy, reward, _ in rows:
        value = float(accuracy.split()[0]), float(reward.split()[0])
        found.setdefault(kind.strip(), {})[float(tau)] = value
    standard = found.pop("Standard")[1.0]
    assert len(found["Power sampling"]) == len(found["Token temperature"]) == 4
    for series in found.values():
        ordered = [standard, *(series[tau] for tau in sorted(series, reverse=True))]
        assert ordered[0] < ordered[2] < ordered[4]
        assert ordered[0][1] < ordered[2][1] < ordered[4][1]
    coolest = {kind: series[0.25] for kind, series in found.items()}
    assert coolest["Power sampling"] > coolest["Token temperature"]


def test_it_leaves_figures_and_takes_up_its_run(ran):
    folder, run, _ = ran
    for name in ("sweep", "synthetic"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    made = sum(len(records.read(path)) for path in folder.glob("records/*.jsonl"))
    assert made == 40 * 6 * 9
    before = (folder / "rewards.json").read_text()
    code, _, err = run()
    assert code == 0, err
    assert (folder / "rewards.json").read_text() == before
