"""The paper's numbers: whole, within their ranges, and found by model and task."""

import pytest

from powerjax.evaluation import paper

_ROWS = [(key, kind, row) for key, table in paper.TABLES.items() for kind, row in table.items()]


def test_every_model_and_task_has_a_table_and_a_learning_rate():
    for task in ("math", "code", "gpqa"):
        for model in paper.MODELS:
            kinds = paper.TABLES[task, model].keys()
            base = {("Base", "Standard"), ("Base", "Power")}
            assert base | {("Distilled", "Standard"), ("Distilled", "Temperature")} <= kinds
            assert task in paper.NUM_PROBLEMS
            assert 1e-5 <= paper.learning_rate(task, model) <= 1e-3
    assert len(_ROWS) == 8 + 8 * 4
    assert paper.learning_rate("arithmetic", paper.PHI) is None
    assert paper.learning_rate("math", None) is None


@pytest.mark.parametrize("key, kind, row", _ROWS)
def test_a_row_is_in_range(key, kind, row):
    assert 0 <= row.accuracy <= 1 and 0 <= row.best_accuracy <= 1
    assert 0 <= row.accuracy_std < 0.05
    assert row.self_reward <= row.best_self_reward < 0  # Best-of-4 picks by self-reward


@pytest.mark.parametrize("key, table", paper.TABLES.items())
def test_power_and_the_student_are_above_standard_sampling_of_the_base(key, table):
    standard = table["Base", "Standard"]
    for kind in (("Base", "Power"), ("Distilled", "Standard"), ("Distilled", "Temperature")):
        assert table[kind].accuracy > standard.accuracy
        assert table[kind].self_reward > standard.self_reward


def test_known_cells():
    row = paper.row("math", paper.MATH_7B, "Base", "Temperature")
    assert row == (0.683, 0.014, -0.061, 0.015, 0.756, -0.036)
    assert paper.row("gpqa", paper.PHI, "Distilled", "Standard").accuracy == 0.268
    assert paper.row("gpqa", paper.PHI, "Base", "Power(inf)") is None
    assert paper.row("arithmetic", None, "Base", "Power") is None


@pytest.mark.parametrize(
    "name, model",
    [
        ("Qwen/Qwen2.5-Math-7B", paper.MATH_7B),
        ("/data/qwen2.5-7b/", paper.QWEN_7B),
        ("microsoft/Phi-3.5-mini-instruct", paper.PHI),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("tiny", None),
    ],
)
def test_a_model_is_known_by_the_last_part_of_its_name(name, model):
    assert paper.model_of(name) == model
