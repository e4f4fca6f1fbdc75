"""Every figure can be drawn from records, is written as a PNG, and names its axes."""

import dataclasses
import warnings

import numpy as np
import pytest

from powerjax import evaluation, report
from powerjax.evaluation.diagnostics import Mixing
from powerjax.evaluation.nearness import Nearness
from powerjax.report import diagnostic_figures, plot_style, plots
from powerjax.sample.log_weights import LogWeights

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


def _diagnosed(result, num_moves):
    """The row with traces of two problems and the weights of two."""
    rng = np.random.default_rng(num_moves)
    log_p = {name: -rng.exponential(size=(16, num_moves)) for name in "ab"}
    weights = {name: LogWeights(np.append(rng.normal(size=40), [-50.0])) for name in "ab"}
    return dataclasses.replace(
        result, mixing=Mixing(log_p, {}, {}), nearness=Nearness(4.0, weights)
    )


@pytest.mark.parametrize(
    "draw", [diagnostic_figures.log_p_against_moves, diagnostic_figures.weights]
)
def test_figures_of_diagnostics_show_the_rows_that_have_them(results, draw, tmp_path):
    plain, rows = results[0], [_diagnosed(results[-1], 30), _diagnosed(results[-2], 1)]
    figure = draw([plain, *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
    names = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    names += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert names == ["Power(inf)", "Power"]
    if draw is diagnostic_figures.log_p_against_moves:
        (axes,) = figure.axes
        drawn = [line for line in axes.get_lines() if line.get_label() == "Power(inf)"]
        of_problems = np.array(list(rows[0].mixing.log_p.values()))
        assert drawn[0].get_ydata() == pytest.approx(np.median(of_problems, axis=1).mean(axis=0))
    else:
        heights = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
        assert heights == pytest.approx([100, 100])


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
