"""The table beside the paper's: differences in standard errors, and the paper's pattern."""

import csv
import io
import math

import pytest

from powerjax import evaluation
from powerjax.evaluation import Estimate, Result, paper
from powerjax.report import claims as paper_claims
from powerjax.report import comparison, comparison_notes
from powerjax.runs import Row

PAPERS = {
    **{"num_samples": 4, "max_new_tokens": 3072, "block_size": 192},
    **{"num_mcmc_steps": 10, "alpha": 4.0},
}


def _result(model, sampler, right, reward=-0.5, *, alpha=1.0, forward=10):
    """right: problem -> verdicts of its passes."""
    records = [
        {
            "id": f"t/{problem}/m/{sampler}/0/{i}",
            "problem_id": str(problem),
            "seed": 0,
            "sample_index": i,
            "alpha": alpha,
            "self_reward": reward - 0.01 * i,
            "correct": bool(verdict),
            "num_tokens": 10,
            "num_forward_tokens": forward,
            "finish_reason": "eos",
        }
        for problem, verdicts in enumerate(right)
        for i, verdict in enumerate(verdicts)
    ]
    return Result(model, sampler, records, evaluation.summarize(records))


def _table(**changed):
    """Results that show the paper's pattern; changed: label -> keywords that spoil it."""
    right = {"none": [[0, 0]] * 4, "some": [[1, 0], [0, 0]] * 2, "half": [[1, 0]] * 4}
    right |= {"most": [[1, 1], [1, 0]] * 2, "all": [[1, 1]] * 4}
    rows = {
        "random": ("RandW", "Standard", "none", -5.9, 1.0, 10),
        "standard": ("Base", "Standard", "some", -0.9, 1.0, 10),
        "temperature": ("Base", "Temperature", "half", -0.5, 1.0, 10),
        "power2": ("Base", "Power, alpha 2", "most", -0.3, 2.0, 90),
        "power": ("Base", "Power", "all", -0.1, 4.0, 90),
        "student": ("Distilled", "Standard", "all", -0.1, 1.0, 10),
    }
    results = []
    for name, (model, sampler, which, reward, alpha, forward) in rows.items():
        new = {"right": which, "reward": reward, "alpha": alpha, "forward": forward}
        new |= changed.get(name, {})
        verdicts = right[new.pop("right")]
        results.append(_result(model, sampler, verdicts, **new))
    return results


def test_a_difference_is_in_standard_errors_of_both_means():
    ours = Estimate(0.70, 0.02, 0.6, 0.8)
    difference = comparison.standard_errors(ours, 9, 0.72, 0.01)
    assert difference == pytest.approx(-0.02 / math.sqrt(0.02**2 / 9 + 0.01**2 / 4))
    unknown = comparison.standard_errors(ours, 4, 0.72, None)
    assert unknown == pytest.approx(-0.02 / (0.02 * math.sqrt(0.5)))
    assert comparison.standard_errors(Estimate(0.0, 0.0, 0, 0), 4, 0.0, 0.0) == 0
    assert comparison.standard_errors(Estimate(0.1, 0.0, 0, 0), 4, 0.0, 0.0) is None
    assert comparison.standard_errors(Estimate(0.1, None, 0, 0), 1, 0.0, 0.0) is None


def test_the_paper_stands_beside_where_it_has_a_row():
    lines = comparison.lines(_table(), "math", paper.MATH_7B)
    head, *rows = comparison.cells(lines)
    by_name = {(row[0], row[1]): dict(zip(head[2:], row[2:], strict=True)) for row in rows}
    assert head.count("paper") == 2 and head.count("paper, Bo4") == 2
    standard = rows[1]
    assert standard[4] == "0.508 ± 0.016" and standard[8] == "-0.316 ± 0.043"
    assert float(standard[5]) < 0
    assert by_name["Base", "Power, alpha 2"]["paper"] == "-"
    assert rows[0].count("n.c.") == 2  # the paper's self-rewards of random weights
    none = comparison.cells(comparison.lines(_table(), "arithmetic", None))
    assert "paper" not in none[0] and all(len(row) == len(none[0]) for row in none)


def test_best_of_another_number_is_not_held_against_best_of_4():
    lines = comparison.lines(_table(), "math", paper.MATH_7B)
    head, *rows = comparison.cells(lines)  # two passes
    at = head.index("Bo2 r*")
    assert head[at : at + 3] == ["Bo2 r*", "paper, Bo4", "diff."]
    assert {row[at + 2] for row in rows} == {"-"}
    assert "Bo2 is not compared" in " ".join(comparison_notes.notes(lines, paper.MATH_7B))
    four = comparison.lines(
        [_result("Base", "Standard", [[1, 0, 0, 0]] * 4)], "math", paper.MATH_7B
    )
    assert comparison.cells(four)[1][at + 2] == "+0.320"  # 1 - .680
    assert "not compared" not in " ".join(comparison_notes.notes(four, paper.MATH_7B))


def test_a_student_that_only_stays_with_its_base_has_not_reached_its_teacher():
    same = {name: {"right": "none"} for name in ("standard", "power", "student")}
    claim = paper_claims.pattern(_table(**same))[-1]
    assert claim.claim.startswith("the student") and claim.holds is False
    assert "minus Base Standard +0.000" in claim.numbers


def test_what_is_not_as_in_the_paper_is_told():
    row = Row("Base", "Power", "power", PAPERS)
    assert comparison_notes.departures(row, (500, 500), "math") == []
    assert comparison_notes.departures(row, (200, 1000), "arithmetic") == []
    row = Row("Base", "Power", "power", {**PAPERS, "max_new_tokens": 64, "num_samples": 2})
    assert comparison_notes.departures(row, (164, 4), "code") == [
        "Not the paper's settings: 4 training problems (its 420), 2 passes (its 4), 64 tokens at"
        " most (its 3072)."
    ]


def test_the_written_table_tells_what_each_row_gets_for_the_same_price(tmp_path):
    lines = comparison.lines(_table(), "math", paper.MATH_7B)
    text = comparison.write(tmp_path, "A title", lines, paper_claims.pattern(_table()), ["a note"])
    assert (tmp_path / "table.md").read_text() == text + "\n"
    assert (tmp_path / "table.csv").read_text() == comparison.as_csv(lines)
    assert text.startswith("# A title\n\n4 problems x 2 completions.\n\n| model |")
    assert "at equal cost in forward tokens\n\n| model |" in text and "- a note" in text
    assert (tmp_path / "table.tex").read_text().count(r"\\") == len(lines) + 1


def test_programs_that_ran_unconfined_are_told():
    results = _table()
    for record in results[1].records:
        record["grade_detail"] = {"isolation": "rlimits"}
    texts = comparison_notes.notes(comparison.lines(results, "code", None), None)
    assert "8 programs ran with resource limits alone (--unsafe_exec)." in texts


def test_answers_spread_over_several_boxes_are_told():
    results = _table()
    for record in results[1].records:
        record["grade_detail"] = {"rules": False, "math_verify": False, "boxes": 3}
    texts = " ".join(comparison_notes.notes(comparison.lines(results, "math", None), None))
    assert "completions have several boxes in their last sentence" in texts


def test_the_csv_has_every_number_unrounded():
    lines = comparison.lines(_table(), "math", paper.MATH_7B)
    rows = list(csv.DictReader(io.StringIO(comparison.as_csv(lines))))
    assert [(row["model"], row["sampling"]) for row in rows] == [
        (line.result.model, line.result.sampler) for line in lines
    ]
    for row, line in zip(rows, lines, strict=True):
        assert float(row["accuracy_mean"]) == line.result.summary.accuracy.mean
        assert float(row["self_reward_mean"]) == line.result.summary.self_reward.mean
        assert row["paper_accuracy"] == ("" if line.paper is None else str(line.paper.accuracy))


def test_the_pattern_is_seen_where_it_is():
    claims = paper_claims.pattern(_table())
    assert len(claims) == 5 and all(claim.holds for claim in claims)


@pytest.mark.parametrize(
    "row, change, claim",
    [
        ("temperature", {"reward": -0.05}, "r_self rises"),
        ("temperature", {"right": "all"}, "r* rises from Standard"),
        ("power2", {"right": "none"}, "r* rises with alpha (1, 2, 4)"),
        ("random", {"right": "some"}, "random weights"),
        ("student", {"right": "half"}, "the student"),
        ("student", {"right": "none"}, "the student"),
        ("student", {"forward": 30}, "the student"),
    ],
)
def test_what_breaks_the_pattern_is_named(row, change, claim):
    broken = [c.claim for c in paper_claims.pattern(_table(**{row: change})) if not c.holds]
    assert [text for text in broken if text.startswith(claim) or claim in text]
    assert len(broken) == 1


def test_missing_rows_are_not_known_rather_than_wrong():
    claims = paper_claims.pattern(_table()[1:3])
    assert [claim.holds for claim in claims] == [None] * len(claims)


def test_the_notes_say_what_random_weights_cannot_be_compared_with():
    lines = comparison.lines(_table(), "math", paper.MATH_7B)
    texts = " ".join(comparison_notes.notes(lines, paper.MATH_7B, 384))
    assert "-5.95 (V = 384)" in texts and "not comparable" in texts
