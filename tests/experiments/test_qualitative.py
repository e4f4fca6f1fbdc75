"""experiments/qualitative.py on one problem sampled now, and on the records of a run."""

import json

import pytest

from powerjax import records
from tests.experiments import programs

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qualitative")

    def run(*arguments):
        process = programs.start("experiments.qualitative", *arguments)
        return programs.end(process)

    return folder, run, run(f"--out={folder / 'a'}", "--num_samples=2", "--noprogress")


def test_one_problem_by_four_samplers(ran):
    folder, _, (code, out, err) = ran
    assert code == 0, err
    page = (folder / "a" / "completions.html").read_text()
    for sampler in ("Standard", "Temperature", "Power", "Power(inf)"):
        assert f"<h2>{sampler}</h2>" in page and f"{sampler}: r_self -" in out
    assert page.count("class=one") == 8 and page.count("title=") > 40
    assert (folder / "a" / "completions.png").read_bytes().startswith(b"\x89PNG")


def test_records_of_a_run_are_shown_without_a_model(ran):
    folder, run, _ = ran
    power = records.read(folder / "a" / "records" / "base_power.jsonl")
    (folder / "a" / "verdicts").mkdir()  # as of programs, which are graded after sampling
    later = [{"id": record["id"], "correct": not record["correct"]} for record in power]
    lines = "".join(json.dumps(verdict) + "\n" for verdict in later)
    (folder / "a" / "verdicts" / "base_power.jsonl").write_text(lines)
    arguments = [f"--run={folder / 'a'}", "--rows=Power,Standard", f"--out={folder / 'b'}"]
    code, _, err = run(*arguments)
    assert code == 0, err
    page = (folder / "b" / "completions.html").read_text()
    assert page.index("<h2>Power</h2>") < page.index("<h2>Standard</h2>")
    whole = (folder / "a" / "completions.html").read_text()
    cell = whole[whole.index("class=one") : whole.index("</div>")]
    assert cell in page  # the same text and colours
    shown = page[: page.index("<h2>Standard</h2>")]
    for word, verdict in (("right</b>", True), ("wrong</b>", False)):
        assert shown.count(word) == sum(v["correct"] == verdict for v in later)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--run=nowhere"], "--run=nowhere holds no records"),
        (["--task=gpqa_diamond"], "its problems are secret"),
    ],
)
def test_mistakes_end_in_one_line(ran, tmp_path, arguments, message):
    _, run, _ = ran
    code, _, err = run(*arguments, f"--out={tmp_path / 'c'}")
    assert code == 1 and err.count("\n") == 1 and message in err
