"""Every figure can be drawn from records, is written as a PNG, and names its axes."""

import dataclasses
import warnings

import numpy as np
import pytest

from powerjax import evaluation, report
from powerjax.report import plot_style, plots

SAMPLERS = ("Standard", "Temperature", "Power", "Power(inf)")


def _result(model: str, sampler: str, num_mcmc_steps: int | None) -> evaluation.Result:
    rng = np.random.default_rng(len(model) + len(sampler))
    records = [
        {
            "problem_id": f"p{problem}",
            "seed": 0,
            "sample_index": sample,
            "self_reward": -float(rng.exponential(0.3 if model == "Base" else 6)),
            "correct": bool(model == "Base" and rng.random() < 0.2 * (2 + len(sampler) % 3)),
            "num_tokens": int(rng.choice([5, 30]) + rng.integers(5)),
            "num_forward_tokens": 20 + 130 * (num_mcmc_steps is not None),
            "finish_reason": "eos",
            "num_mcmc_steps": num_mcmc_steps,
            "acceptance_rate": None if num_mcmc_steps is None else rng.integers(11) / 10,
        }
        for problem in range(20)
        for sample in range(4)
    ]
    return evaluation.Result(model, sampler, records, evaluation.summarize(records))


@pytest.fixture(scope="module")
def results():
    return [
        _result(model, sampler, 10 if sampler.startswith("Power") else None)
        for model in ("RandW", "Base")
        for sampler in SAMPLERS
    ]


def test_long_names_of_rows_leave_the_panels_their_room(results, tmp_path):
    law = "Power, stop=eos, kernel=exact, no top_k, 3072 tokens, float32, weights 0123456789abcdef"
    named = [dataclasses.replace(results[-1], sampler=law)]
    for draw in (plots.accuracy_against_self_reward, plots.accuracy_against_cost):
        figure = draw(named)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib warns where nothing is left of an axis
            figure.savefig(tmp_path / "long.png")
        assert figure.axes[0].get_position().width > 0.3


@pytest.mark.parametrize(
    "draw, models",
    [
        (plots.accuracy_against_self_reward, ("RandW", "Base")),
        (plots.accuracy_against_cost, ("Base",)),
        (plots.lengths, ("Base",)),
        (plots.acceptance, ("RandW", "Base")),
        (plots.mixing, ("Base",)),
    ],
)
def test_every_figure_is_drawn_and_named(results, draw, models, tmp_path):
    wanted = [result for result in results if result.model in models]
    if draw is plots.mixing:
        wanted = [_result("Base", "Power", steps) for steps in (0, 10, 30)]
    figure = draw(wanted)
    path = tmp_path / f"{draw.__name__}.png"
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert all(axes.get_xlabel() for axes in figure.axes[-1:])
    title = figure.get_suptitle() or figure.axes[0].get_title()
    assert title
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low < high


def test_a_summary_by_hand():
    rows = [("a", 0, -1.0, True), ("a", 1, -0.5, False), ("b", 0, -0.2, True), ("b", 1, -0.4, True)]
    records = [
        {"problem_id": p, "seed": 0, "sample_index": i, "self_reward": r, "correct": c,
         "num_tokens": 4, "num_forward_tokens": 8, "finish_reason": "eos"}
        for p, i, r, c in rows
    ]  # fmt: skip
    summary = evaluation.summarize(records)
    assert (summary.num_problems, summary.num_passes) == (2, 2)
    assert summary.accuracy.mean == 0.75
    assert summary.accuracy.std == pytest.approx(np.std([1.0, 0.5], ddof=1))
    assert (summary.accuracy.low, summary.accuracy.high) == (0.5, 1.0)
    assert summary.self_reward.mean == pytest.approx(-0.525)
    assert summary.best_of_n_accuracy.mean == 0.5  # a's likelier answer is the wrong one
    assert summary.best_of_n_self_reward.mean == pytest.approx(-0.35)
    assert summary.acceptance_rate is None and summary.forward_tokens == 8 and summary.finished == 1
    ungraded = [{**record, "correct": None} for record in records[:3]]  # and one is missing
    assert evaluation.summarize(ungraded).accuracy is None
    assert report.percent(None) is None


def test_a_summary_names_its_law():
    power = {"alpha": 4.0, "num_mcmc_steps": 10, "block_size": 64, "max_new_tokens": 64}
    power |= {"stop": "eos", "kernel": "exact"}
    assert "exact" in report.law("power", power)
    assert "not pi^4" in report.law("power", {**power, "block_size": 32})
    assert "exact" in report.law("power", {**power, "block_size": 32, "stop": "horizon"})
    assert "not pi^alpha" in report.law("power", {**power, "kernel": "karan2026"})


def test_rows_of_one_sampler_under_different_laws_have_styles_of_their_own():
    names = ("Power", "Power, N=30", "Power, top_k 20", "Power, 512 tokens", "Power(inf)")
    assert len({plot_style.style(name) for name in names}) == len(names)
