"""What a reproduction consists of: the paper's rows and settings, and its record files."""

import pytest

from powerjax.evaluation import paper
from powerjax.runs import setups
from powerjax.runs.setups import SETUPS
from powerjax.tasks import registry


def _rows(setup, **changed):
    options = {
        "max_new_tokens": setup.max_new_tokens,
        "block_size": setup.block_size,
        "num_mcmc_steps": setup.num_mcmc_steps,
        "alpha": paper.ALPHA,
        "alphas": setup.alphas,
    }
    return {row.label: row for row in setups.rows(**(options | changed))}


@pytest.mark.parametrize("task", SETUPS)
def test_every_table_has_the_papers_rows_and_base_with_temperature(task):
    found = _rows(SETUPS[task]).keys()
    assert "Base Temperature" in found  # which the paper leaves out of all tables but its first
    for (of, _), table in paper.TABLES.items():
        if of == task:
            assert {f"{kind} {sampler}" for kind, sampler in table} <= found
    assert {"RandW Standard", "RandW Power", "Base Power(inf)"} <= found
    for name, _ in (SETUPS[task].test, SETUPS[task].train):
        assert name in registry.NAMES


def test_the_settings_are_the_papers():
    rows = _rows(SETUPS["math"])
    power = {"max_new_tokens": 3072, "block_size": 192, "num_mcmc_steps": 10, "alpha": 4.0}
    assert power.items() <= rows["Base Power"].settings.items()
    assert {"max_new_tokens": 1024, "num_mcmc_steps": 2}.items() <= rows[
        "RandW Power"
    ].settings.items()
    assert rows["RandW Standard"].settings["max_new_tokens"] == 1024
    assert rows["Base Power(inf)"].settings["temperature"] == 0.25
    for label in ("Base Temperature", "Distilled Temperature"):
        assert rows[label].settings["temperature"] == 0.25
    assert all(
        row.settings["num_samples"] == (1 if row.name == setups.TEACHER else 4)
        for row in rows.values()
    )
    assert _rows(SETUPS["math"], max_new_tokens=64)["RandW Power"].settings["max_new_tokens"] == 64


def test_files_of_a_run_are_those_of_its_rows(tmp_path):
    assert setups.record_files(tmp_path) == []
    rows = _rows(SETUPS["math"])
    for row in rows.values():
        row.path(tmp_path).parent.mkdir(exist_ok=True)
        row.path(tmp_path).touch()
    teacher = rows["Base Teacher"].path(tmp_path)
    found = setups.record_files(tmp_path)
    assert sorted(found) == sorted({row.path(tmp_path) for row in rows.values()} - {teacher})
    (tmp_path / "records.jsonl").touch()
    assert setups.record_files(tmp_path)[0] == tmp_path / "records.jsonl"
