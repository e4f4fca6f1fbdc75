"""What each way of sampling costs: the quickstart's table of costs and the curves of its figure."""

import pytest

from powerjax import evaluation
from powerjax.report import cost_curves, student_moves


def _result(model, sampler, *, of_base, of_student=None, moves=None):
    records = [
        {
            "problem_id": f"p{problem}",
            "seed": 0,
            "sample_index": sample,
            "self_reward": -float(sample),
            "correct": (problem + sample) % 2 == 0,
            "num_tokens": 10,
            "num_forward_tokens": of_base,
            "num_proposal_forward_tokens": of_student,
            "num_mcmc_steps": moves,
            "finish_reason": "eos",
        }
        for problem in range(6)
        for sample in range(3)
    ]
    return evaluation.Result(model, sampler, records, evaluation.summarize(records))


TEMPERATURE = _result("Base", "Temperature", of_base=10)
BY_BASE = [_result("Base", f"Power, N={n}", of_base=10 + 6 * n, moves=n) for n in (1, 3)]
PLAIN = _result("Distilled", "Standard", of_base=12)
BY_STUDENT = _result("Base", "Power, student 1", of_base=20, of_student=24, moves=1)


def test_the_tokens_of_both_models_are_the_price_of_a_row():
    assert BY_STUDENT.summary.forward_tokens == 44
    assert BY_STUDENT.summary.proposal_forward_tokens == 24
    assert PLAIN.summary.forward_tokens == 12 and PLAIN.summary.proposal_forward_tokens is None
    assert [p.forward_tokens for p in evaluation.best_of(BY_STUDENT.records)] == [44, 88, 132]


def test_the_table_of_costs_counts_the_models_apart():
    head, *rows = student_moves.costs([TEMPERATURE, *BY_BASE, PLAIN, BY_STUDENT])
    assert head[:5] == ["row", "decoded", "base", "student", "in all"]
    assert [row[:5] for row in rows] == [
        ["Base, Power, N=1", "16.0", "16.0", "0.0", "16.0"],
        ["Base, Power, N=3", "28.0", "28.0", "0.0", "28.0"],
        ["Distilled, Standard", "12.0", "0.0", "12.0", "12.0"],
        ["Base, Power, student 1", "24.0", "20.0", "24.0", "44.0"],
    ]
    assert (
        student_moves.costs([TEMPERATURE, *BY_BASE])
        == student_moves.cost_lines([TEMPERATURE])
        == []
    )


def test_the_figure_has_a_curve_for_each_way_of_spending_tokens(tmp_path):
    curve = cost_curves.best_of_n(TEMPERATURE, "Best-of-n")
    assert [(at.forward_tokens, at.label) for at in curve.points] == [
        (10, "1"), (20, "2"), (30, "3"),
    ]  # fmt: skip
    figure = student_moves.headline(BY_BASE, [PLAIN, BY_STUDENT], TEMPERATURE)
    axes = figure.axes[0]
    assert len(axes.get_legend().get_texts()) == 3 and axes.get_xscale() == "log"
    assert {"N=0", "N=1", "N=3"} <= {text.get_text() for text in axes.texts}
    joined = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) > 1]
    assert [list(x) for x in joined] == [[12, 44], [16, 28], [10, 20, 30]]
    # The theory's figures, where they are drawn before, set another resolution for the process.
    figure.savefig(tmp_path / "figure.png", dpi="figure")
    assert (tmp_path / "figure.png").stat().st_size < 60_000


def test_a_row_of_unknown_price_has_no_point():
    assert cost_curves.point(_result("Base", "Power", of_base=None), "N=10") is None
    assert cost_curves.point(PLAIN, "N=0").value.mean == pytest.approx(0.5)
