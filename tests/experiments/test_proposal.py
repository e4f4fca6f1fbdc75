"""experiments/evaluate.py --proposal: how near a student is, by the weights of its records."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from powerjax import models, sample
from powerjax.models import lora, peft
from powerjax.tasks import arithmetic
from tests.experiments import programs
from tests.models import peft_folders

COUNT = 32  # draws of a problem; from 25 on k-hat has a tail to fit
DRAWS = {"max_new_tokens": 8, "num_samples": COUNT, "num_slots": 32, "progress": False}
DRAWS["ids"] = ["test-0-0", "test-0-1"]


@pytest.fixture(scope="module")
def problems():
    return arithmetic.load("test", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the adapter of a student of tiny."""
    folder = tmp_path_factory.mktemp("student")
    config = models.load("tiny", dtype="float32").config
    adapter = peft_folders.random_adapter(config, lora.TARGETS)
    peft.save(folder / "adapter", adapter, config)
    return folder


@pytest.fixture(scope="module")
def lms(folder):
    base = models.load("tiny", dtype="float32")
    student = models.load("tiny", dtype="float32", adapter=str(folder / "adapter"))
    return base, dataclasses.replace(base, adapter=student.adapter)


def _drawn(lm, problems, model):
    """Returns the records of plain samples of a model."""
    out = sample.standard(lm, [problem.prompt for problem in problems], **DRAWS)
    prompts = [problems[item.prompt_index].prompt for item in out]
    return [
        {**record, "model": model, "prompt": prompt}
        for record, prompt in zip(out.to_records("arithmetic"), prompts, strict=True)
    ]


def _made(lm, problems, model):
    """Returns records that state the law of a plain sampler of a model, which drew none of them."""
    law = {"sampler": "standard", "alpha": 1.0, "temperature": 1.0, "seed": 0, "top_k": None}
    law |= {"max_new_tokens": 8, "num_tokens": 2, "finish_reason": "length", **lm.identity}
    return [
        {
            **law,
            "id": f"{model}/{problem.id}/{i}",
            "task": "arithmetic",
            "model": model,
            "problem_id": problem.id,
            "sample_index": i,
            "prompt": problem.prompt,
            "completion": "20",
            "tokens": [20, 18],
            "log_probs": [-1.0, -2.0],
            "self_reward": -1.5,
        }
        for problem in problems
        for i in range(2)
    ]


def _write(folder, plain, of_base):
    """Writes record files: the student's, copies of some of them under other laws, the base's."""

    def write(name, records, **fields):
        copies = [{**r, **fields, "id": f"{r['id']}{name}"} for r in records]
        lines = [json.dumps(record) + "\n" for record in copies]
        (folder / f"{name}.jsonl").write_text("".join(lines))

    write("plain", plain)
    write("single", [r for r in plain if r["sample_index"] == 0])
    write("longer", plain[:2], max_new_tokens=9)
    write("cool", plain[:2], sampler="temperature", temperature=0.5)
    write("few", plain[:2], top_k=3)
    write("bare", plain[:2], log_probs=None, seed=1)
    write("base", of_base)


def _arguments(folder, names, out, *more, proposal=None):
    files = ",".join(str(folder / f"{name}.jsonl") for name in names)
    proposal = proposal or folder / "adapter"
    flags = ("--noprogress", "--model=tiny", "--dtype=float32", f"--proposal={proposal}")
    return [*flags, f"--records={files}", f"--out={out}", *more]


def _rows(out):
    table = csv.DictReader((out / "table.csv").read_text().splitlines())
    return {(row["model"], row["sampler"]): row for row in table}


@pytest.mark.full
def test_a_student_s_records_are_weighed_as_importance_weighs_its_draws(
    folder, lms, problems, tmp_path
):
    """The records are the draws of sample.importance, seed for seed; so are their weights."""
    base, student = lms
    _write(folder, _drawn(student, problems, "tiny+student"), _drawn(base, problems, "tiny"))
    prompts = [problem.prompt for problem in problems]
    reference = sample.importance(base, prompts, student, alpha=3.0, **DRAWS)
    assert all(result.k_hat is not None for result in reference)
    outs = [tmp_path / "student", tmp_path / "base"]
    names = ("plain", "cool", "few", "bare", "base")
    ends = programs.ends(
        "experiments.evaluate",
        [
            _arguments(folder, names, outs[0], "--alpha=3"),
            _arguments(folder, ["base"], outs[1], "--alpha=1", proposal="tiny"),
        ],
    )
    for code, _, err in ends:
        assert code == 0, err
    printed = ends[0][1]
    for why in ("drawn at temperature 0.5", "drawn with top_k 3", "they do not hold the log_probs"):
        assert f"2 records of --proposal are not weighed: {why}" in printed
    assert "against pi^3 of tiny" in printed and "below 25" not in printed
    page = (outs[0] / "report.html").read_text()
    assert "How near is the student" in page and "blind to a mode" in page

    rows = _rows(outs[0])
    (weighed,) = [row for row in rows.values() if row["ESS/n"] != "-"]
    assert weighed["ESS/n"] == f"{np.mean([r.ess_fraction for r in reference]):.3f}"
    assert weighed["KL"] == f"{np.mean([r.kl for r in reference]):.3f}"
    summary = json.loads((outs[0] / "summary.json").read_text())
    (near,) = [row["nearness"] for row in summary if "nearness" in row]
    for result in reference:
        of_problem = near["problems"][result.id]
        assert of_problem["n"] == COUNT
        for name in ("log_z", "ess_fraction", "kl"):
            assert of_problem[name] == pytest.approx(getattr(result, name), abs=1e-3)
        assert of_problem["k_hat"] == pytest.approx(result.k_hat, abs=1e-2)

    # The base is its own proposal, and at alpha 1 all weights are 1.
    (itself,) = _rows(outs[1]).values()
    assert (itself["ESS/n"], itself["KL"], itself["no k-hat"]) == ("1.000", "0.000", "2 of 2")


def test_what_cannot_be_weighed_ends_in_one_line(folder, lms, problems, tmp_path):
    base, student = lms
    _write(folder, _made(student, problems, "tiny+student"), _made(base, problems, "tiny"))
    out = tmp_path / "out"
    cases = [
        (_arguments(folder, ["plain"], out, "--adapter=x"), "--proposal needs the base as --model"),
        (
            [a for a in _arguments(folder, ["plain"], out) if not a.startswith("--model")],
            "--proposal needs the base as --model",
        ),
        (_arguments(folder, ["base"], out), "no record by the sampler standard or temperature is"),
        (_arguments(folder, ["cool"], out), "none of its records can be weighed: drawn at temp"),
        (
            _arguments(folder, ["few"], out),
            "none of its records can be weighed: drawn with top_k 3",
        ),
        (_arguments(folder, ["bare"], out), "they do not hold the log_probs of their tokens"),
        (_arguments(folder, ["single"], out), "weights need two or more"),
        (_arguments(folder, ["plain", "longer"], out), "cut off at 8 and at 9 tokens"),
        (_arguments(folder, ["plain"], out, proposal=tmp_path / "none"), "none"),
    ]
    ends = programs.ends("experiments.evaluate", [argv for argv, _ in cases])
    for (argv, expected), (code, _, err) in zip(cases, ends, strict=True):
        (line,) = err.strip().split("\n")
        assert code == 1 and expected in line and "Traceback" not in err, (argv, code, err)
