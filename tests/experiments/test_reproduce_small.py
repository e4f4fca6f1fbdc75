"""experiments/reproduce.py in a minute: one command makes plan, rows, student, table and page.

tests/experiments/test_reproduce.py has the run that the README names, and what its numbers show.
"""

import csv

from powerjax import records
from tests.experiments import programs

_TINY = ("--limit=4", "--seeds=2", "--num_mcmc_steps=2", "--max_new_tokens=16", "--block_size=16")
_ROWS = {
    *("RandW Standard", "RandW Power", "Base Standard", "Base Temperature", "Base Power"),
    *("Base Power, alpha 2", "Base Power(inf)", "Distilled Standard", "Distilled Temperature"),
}


def test_one_command_makes_the_whole_table(tmp_path):
    arguments = [*programs.QUICK, *_TINY, f"--out={tmp_path}"]
    process = programs.start("experiments.reproduce", *arguments)
    code, out, err = programs.end(process, timeout_s=1200)
    assert code == 0, err
    plan, *_ = out.split("Base      Standard")
    assert "memory on each device: weights 2.4" in plan and "tokens/s" in plan
    with open(tmp_path / "table.csv", newline="") as file:
        assert {f"{row['model']} {row['sampling']}" for row in csv.DictReader(file)} == _ROWS
    assert r"\toprule" in (tmp_path / "table.tex").read_text()
    assert "## The paper's pattern" in (tmp_path / "table.md").read_text()
    assert "RandW" in (tmp_path / "report.html").read_text()
    made = [record for path in tmp_path.glob("records/*.jsonl") for record in records.read(path)]
    assert len(made) == len({record["id"] for record in made}) == 4 * 2 * len(_ROWS) + 4
    assert (tmp_path / "student" / "adapter" / "adapter_model.safetensors").is_file()
