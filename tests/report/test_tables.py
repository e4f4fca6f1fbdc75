"""Results as tables: what each column says, prices, rules that differ, and the ways to write it."""

import csv
import dataclasses
import io

import pytest

from powerjax import evaluation
from powerjax.evaluation import Result
from powerjax.report import tables


def _result(sampler, *, forward, moves=False, model="Base", correct=(True, False), **fields):
    """Two problems x two completions; the first of each is the likelier, and right if `correct`."""
    records = [
        {
            "id": f"t/p{problem}/m/{sampler}/0/{i}",
            "problem_id": f"p{problem}",
            "seed": 0,
            "sample_index": i,
            "self_reward": -1.0 - i,
            "correct": None if correct is None else correct[i],
            "num_tokens": 10 + 20 * i,
            "num_forward_tokens": forward,
            "acceptance_rate": 0.25 if moves else None,
            "finish_reason": "eos" if i else "length",
            **fields,
        }
        for problem in range(2)
        for i in range(2)
    ]
    return Result(model, sampler, records, evaluation.summarize(records))


def _by_name(table):
    head, *rows = table
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_table_has_every_figure_that_some_row_has():
    plain, power = _by_name(
        tables.main([_result("Standard", forward=10), _result("Power", forward=90, moves=True)])
    )
    assert plain["accuracy %"] == "50.0 ± 70.7" and plain["self-reward"] == "-1.500 ± 0.707"
    assert plain["Bo2 acc."] == "100.0" and plain["Bo2 r"] == "-1.000"
    assert plain["pass@2"] == "100.0" and plain["majority"] == "0.0"  # none has an answer
    assert plain["tokens"] == "20.0" and plain["5-95 %"] == "10-30"
    assert plain["ended in EOS"] == "50 %"
    assert (plain["accepted"], power["accepted"]) == ("-", "0.250")
    assert (plain["forward"], power["forward"]) == ("10.0", "90.0")
    assert "evaluated r" not in plain
    ungraded = tables.main([_result("Standard", forward=10, correct=None)])[0]
    assert not {"accuracy %", "Bo2 acc.", "majority", "accepted"} & set(ungraded)


def test_rows_are_compared_at_the_price_of_those_that_make_moves():
    results = [
        _result("Standard", forward=10),
        _result("Power", forward=104, moves=True),
        _result("Power(inf)", forward=100, moves=True),
        _result("Power, alpha 2", forward=18, moves=True),
    ]
    plain, power, ascent, alpha = _by_name(tables.costs(results))
    # The two prices within 5 % are one, and the dearer of the two is within it.
    assert list(plain) == ["model", "sampler", "one costs", "for 18", "for 104"]
    assert plain["for 18"] == "50.0 (n=1)" and plain["for 104"] == "100.0 (n=2)"
    assert power["for 18"] == ascent["for 18"] == "-"
    assert power["for 104"] == ascent["for 104"] == "50.0 (n=1)"
    assert alpha["for 104"] == "100.0 (n=2)"
    assert tables.costs(results[:1]) is None
    unpriced = [_result("Standard", forward=None), _result("Temperature", forward=None)]
    assert tables.costs(unpriced) is None


def test_stages_are_shown_where_they_are_known():
    results = [_result("Standard", forward=10), _result("Power", forward=90, moves=True)]
    assert tables.by_stage(results) is None
    known = [dataclasses.replace(results[1], stages=s) for s in ([(40, 10), (0, 0)], [(8, 4)])]
    assert tables.by_stage([results[0], *known])[1:] == [
        ["Base", "Power", "0.250 of 40", "-"],
        ["Base", "Power", "0.500 of 8", "-"],
    ]


def test_rules_that_differ_are_counted():
    a, b, c = (
        _result(name, forward=10, grade_detail=detail)
        for name, detail in (
            ("a", {"rules": True, "math_verify": False, "timed_out": []}),
            ("b", {"rules": False, "math_verify": True, "timed_out": []}),
            ("c", {"rules": False, "math_verify": None, "timed_out": ["math_verify"]}),
        )
    )
    head, *rows = tables.disagreements([a, b, c])
    assert head[3:] == ["both right", "rules alone", "math_verify alone", "out of time"]
    assert [row[2:] for row in rows] == [
        ["4", "0", "4", "0", "0"],
        ["4", "0", "0", "4", "0"],
        ["4", "0", "0", "0", "4"],
    ]
    one_rule = _result("d", forward=10, grade_detail={"status": "passed", "isolation": "rlimits"})
    assert tables.disagreements([one_rule]) is None
    assert tables.num_unsafe(one_rule.records) == 4 and tables.num_unsafe(a.records) == 0


def test_answers_spread_over_several_boxes_are_counted():
    detail = {"rules": False, "math_verify": False, "timed_out": []}
    single = _result("a", forward=10, grade_detail=detail)
    several = _result("b", forward=10, grade_detail={**detail, "boxes": 2})
    assert tables.several_boxes(single.records) is None
    note = tables.several_boxes([*single.records, *several.records])
    assert note.startswith("4 of 8 completions have several boxes in their last sentence")
    assert tables.disagreements([several])[1][2:] == ["4", "0", "0", "0", "0"]


@pytest.mark.parametrize(
    "cell, expected",
    [
        ("-0.316 ± 0.043", r"$-$0.316 $\pm$ 0.043"),
        ("[-1.0, 2.0]", "[$-$1.0, 2.0]"),
        ("5-95 %", r"5-95 \%"),
        ("r_self & #{1}", r"r\_self \& \#\{1\}"),
        ("pi^4 ~ \\x", r"pi\textasciicircum{}4 \textasciitilde{} \textbackslash{}x"),
        ("-", "-"),
    ],
)
def test_latex_reads_a_cell_as_it_stands(cell, expected):
    text = tables.latex([["model", "sampling", "r"], ["a", "b", cell]])
    assert text.split("\\midrule\n")[1].startswith(rf"a & b & {expected} \\" + "\n\\bottomrule")


def test_text_csv_and_markdown_hold_the_same_cells():
    rows = [["model", "sampler", "r"], ["Base", "Power, alpha 2", "1.0"], ["RandW", "a|b", "-"]]
    assert list(csv.reader(io.StringIO(tables.csv(rows)))) == rows
    assert tables.plain(rows).split("\n")[1] == "Base   Power, alpha 2  1.0"
    assert tables.markdown(rows).split("\n")[1:] == [
        "|---|---|---|",
        "| Base | Power, alpha 2 | 1.0 |",
        r"| RandW | a\|b | - |",
    ]
