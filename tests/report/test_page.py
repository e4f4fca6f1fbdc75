"""The page of a run: whole in itself, readable on a phone, and silent about secret problems."""

import base64
import dataclasses
import html.parser
import json
import re
import shutil
import struct
import subprocess

import pytest

from powerjax import evaluation, records
from powerjax.report import page, tables
from powerjax.tasks import Problem, registry
from powerjax.tasks.base import without_text

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class _Page(html.parser.HTMLParser):
    """What a page is made of; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), list(self.open)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [(attributes, above) for name, attributes, above in self.tags if name == tag]


def _record(problem, sampler, sample):
    right = (problem + sample) % 3 == 0
    detail = {"rules": right, "math_verify": right != (problem == 5), "timed_out": []}
    moves = sampler.startswith("power")
    return {
        "id": f"math500/p{problem}/m/{sampler}/0/{sample}",
        "task": "math500",
        "problem_id": f"p{problem}",
        "model": "m",
        "sampler": sampler,
        "seed": 0,
        "sample_index": sample,
        "prompt": f"What is <b>{problem}</b> & {problem}?",
        "completion": f"It is <script>alert({sample})</script> {'zorb ' * 30}" + r"\boxed{2}",
        "tokens": [1, 2, 3],
        "correct": right,
        "extracted_answer": str(problem * 2),
        "grade_detail": detail,
        "self_reward": -0.3 - 0.01 * problem - 0.1 * sample,
        "num_tokens": 30 + problem,
        "num_forward_tokens": 300 if moves else 30,
        "acceptance_rate": 0.4 if moves else None,
        "finish_reason": "eos",
        "num_mcmc_steps": 10 if moves else 0,
    }


PROBLEMS = [Problem(f"p{i}", f"What is {i}?", str(2 * i)) for i in range(12)]


def _results(hidden=()):
    records = [
        _record(problem, sampler, sample)
        for sampler in ("standard", "temperature", "power")
        for problem in range(12)
        for sample in range(2)
    ]
    if hidden:
        records = [without_text(hidden[int(r["problem_id"][1:])], r) for r in records]
    rows = evaluation.rows(records)
    return [*rows[:-1], dataclasses.replace(rows[-1], stages=[(240, 96), (100, 20)])]


def _manifest(folder):
    manifest = {"settings": {"task": "math500", "long": "x" * 90}, "starts": [{"command": "it"}]}
    (folder / records.MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    _manifest(folder)
    lead = {"Beside the paper's": [["row", "ours", "paper's"], ["Base & Power", "0.7", "0.714"]]}
    return page.write_report(
        folder, _results(), title="A <run>", problems=PROBLEMS, lead=lead, notes=["One note."]
    )


def test_the_page_is_whole_in_itself_and_fits_a_phone(written):
    text = written.read_text()
    parsed = _Page(text)
    for attribute in ("src", "href", "srcset", "action", "data", "poster"):
        values = [a[attribute] for _, a, _ in parsed.tags if attribute in a]
        assert all(value.startswith("data:image/png;base64,") for value in values)
    assert not re.search(r"@import|url\(|<script|<link|http-equiv", text)
    (viewport,) = [a for a, _ in parsed.all("meta") if a.get("name") == "viewport"]
    assert "width=device-width" in viewport["content"]
    assert all("div" in above for _, above in parsed.all("table")) and parsed.all("table")
    assert "figure" in parsed.all("img")[0][1]
    assert not re.search(r"(?<!min-)(?<!max-)width:\s*\d+(?:px|rem|em|pt)", text)
    images = [attributes for attributes, _ in parsed.all("img")]
    assert len(images) == 5 and all(image["alt"] for image in images)
    for image in images:
        data = base64.b64decode(image["src"].partition(",")[2], validate=True)
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG") and data[12:16] == b"IHDR" and width > 300 < height


def test_the_page_holds_what_a_reader_looks_for(written):
    parsed = _Page(written.read_text())
    assert (
        parsed.text.index("0.714")
        < parsed.text.index("One note.")
        < parsed.text.index("All figures")
    )
    for words in ("A <run>", "One note.", "Base & Power", "0.714", "Acceptance by stage"):
        assert words in parsed.text
    assert "0.400 of 240" in parsed.text and "0.200 of 100" in parsed.text
    assert "What is <b>3</b> & 3?" in parsed.text and "<script>alert(0)</script>" in parsed.text
    verdicts = [attributes.get("class") for attributes, _ in parsed.all("details")]
    assert verdicts.count("right") == verdicts.count("wrong") == 10
    # Of problem 5 the rules take the second completion and math-verify the first, in each row.
    assert "rules: right, math_verify: wrong" in parsed.text
    assert "rules: wrong, math_verify: right" in parsed.text
    table = tables.disagreements(_results())
    assert [row[-3:] for row in table[1:]] == [["1", "1", "0"]] * 3
    assert "math500/p5/m/power/0/1" in parsed.text and '"command": "it"' in parsed.text


def test_examples_are_drawn_from_all_rows_and_problems():
    results = _results()
    chosen = page.examples(results, lambda record: record["correct"])
    assert len({record["id"] for _, record in chosen}) == 10
    assert {result.sampler for result, _ in chosen} == {"Standard", "Temperature", "Power"}
    # Of the twelve problems eight are right somewhere: each stands there before one comes again.
    assert len({record["problem_id"] for _, record in chosen}) == 8
    assert page.examples(results, lambda record: False) == []


def test_secret_text_is_not_on_the_page(tmp_path):
    secret = [Problem(f"p{i}", f"What is <b>{i}</b> & {i}?", "B", secret=True) for i in range(12)]
    task = registry.get("gpqa_diamond")
    for name, results in (("kept", _results()), ("left_out", _results(hidden=secret))):
        path = page.write_report(
            tmp_path, results, title="Secret", task=task, problems=secret, name=f"{name}.html"
        )
        parsed = _Page(path.read_text())
        assert "What is" not in parsed.text and "zorb" not in parsed.text
        assert "Its text is not shown." in parsed.text and "p5" in parsed.text
        assert "This folder has no manifest." in parsed.text
    named = page.write_report(tmp_path, _results(hidden=secret), title="No task is given")
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", named.read_text())  # it may spell anything
    assert "zorb" not in text and "What is" not in text and "<img" in text


def test_a_page_of_ungraded_records_has_its_figures(tmp_path):
    ungraded = [
        {**_record(i, "standard", 0), "correct": None, "grade_detail": None} for i in range(3)
    ]
    path = page.write_report(tmp_path, evaluation.rows(ungraded), title="Ungraded")
    parsed = _Page(path.read_text())
    assert len(parsed.all("img")) == 1 and "completions that are" not in parsed.text


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium: apt-get install chromium")
def test_a_browser_shows_it_on_a_phone_without_scrolling_sideways(written, tmp_path):
    probe = (
        "<script>onload=()=>{const d=document.documentElement;document.title="
        "[innerWidth,d.scrollWidth,[...document.images].every(i=>i.naturalWidth>0)].join()}</script>"
    )
    frame = tmp_path / "phone.html"
    text = written.read_text().replace("</head>", f"{probe}</head>")
    (tmp_path / "page.html").write_text(text)
    frame.write_text(
        '<iframe src="page.html" width=390 height=800 style="border:0" onload="document.title='
        'this.contentDocument.title"></iframe>'
    )
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile"]
    shown = subprocess.run(
        [*command, f"file://{frame}"], capture_output=True, text=True, timeout=120
    ).stdout
    title = re.search(r"<title>(\d+),(\d+),(\w+)</title>", shown)
    assert title, shown[-500:]
    assert title[1] == "390" and int(title[2]) <= 390 and title[3] == "true"
