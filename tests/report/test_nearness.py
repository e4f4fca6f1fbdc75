"""The columns, notes and page section of diagnostics."""

import dataclasses

import numpy as np
import pytest

from powerjax import evaluation
from powerjax.evaluation.diagnostics import Mixing
from powerjax.evaluation.nearness import Nearness
from powerjax.report import nearness, page, tables
from powerjax.sample.log_weights import LogWeights

COLUMNS = {*nearness.MIXING_HEAD, *nearness.NEARNESS_HEAD}


def _result(sampler):
    records = [
        {
            "id": f"t/p/m/{sampler}/0/{i}",
            "problem_id": "p",
            "seed": 0,
            "sample_index": i,
            "self_reward": -1.0 - i,
            "num_tokens": 10,
            "finish_reason": "eos",
            "evaluated_model": "the base",
        }
        for i in range(2)
    ]
    return evaluation.Result("m", sampler, records, evaluation.summarize(records))


def _mixing(rhat, bulk_ess):
    log_p = {i: -np.ones((2, 5)) for i in range(len(rhat))}
    return Mixing(log_p, dict(enumerate(rhat)), dict(enumerate(bulk_ess)))


@pytest.fixture
def rows():
    """A plain row, one that is weighed, and one that is traced."""
    weights = {
        "even": LogWeights(np.zeros(30)),
        "heavy": LogWeights(np.append(3 * np.random.default_rng(0).normal(size=29), 9.0)),
    }
    return [
        _result("Standard"),
        dataclasses.replace(_result("Student"), nearness=Nearness(4.0, weights)),
        dataclasses.replace(
            _result("Power"), mixing=_mixing([1.0, 1.0613, None], [99.6, 40, None])
        ),
    ]


def _by_name(rows):
    head, *lines = tables.main(rows)
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_columns_stand_where_a_row_has_their_numbers(rows):
    assert not COLUMNS & set(tables.main(rows[:1])[0])
    plain, student, power = _by_name(rows)
    assert {plain[name] for name in COLUMNS} == {"-"}
    near = rows[1].nearness
    assert student["ESS/n"] == f"{near.ess_fraction:.3f}" and student["KL"] == f"{near.kl:.3f}"
    assert student["k-hat > 0.7"] == "1 of 1" and student["no k-hat"] == "1 of 2"
    assert (power["R-hat"], power["bulk ESS"]) == ("1.061", "40")
    stuck = dataclasses.replace(rows[2], mixing=_mixing([8e15], [17.4]))
    assert _by_name([stuck])[0]["R-hat"] == "> 100"


def test_few_chains_have_a_dash_and_a_line_on_why(rows):
    few = dataclasses.replace(rows[2], mixing=_mixing([None], [None]))
    assert nearness.mixing_cells(few) == ["-", "-"]
    (line,) = nearness.notes([few])
    assert "no problem has 16 chains of 100 moves" in line


def test_notes_say_how_many_and_against_what(rows):
    weights, mixing = nearness.notes(rows)
    assert "weights against pi^4 of the base" in weights
    assert mixing == "R-hat of m, Power: above 1.05 on 1 of 2 problems, not given on 1."
    few = dataclasses.replace(rows[1], nearness=Nearness(4.0, {"p": LogWeights(np.zeros(4))}))
    assert "has 4 completions: below 25" in nearness.notes([few])[1]


def test_the_page_has_a_section_only_where_a_row_is_weighed(rows, tmp_path):
    text = page.write_report(tmp_path, rows, title="x").read_text()
    assert "<td>pi^4</td><td>2</td><td>30</td>" in text
    assert text.count(nearness.TITLE) == 1 and "blind to a mode" in text
    assert 'alt="Mixing"' in text and 'alt="The student&#x27;s weights"' in text
    bare = page.write_report(tmp_path, rows[:1], title="x").read_text()
    assert nearness.TITLE not in bare and 'alt="Mixing"' not in bare
