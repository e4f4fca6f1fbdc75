"""GPQA, on invented rows: files, prompts, option order, letters, and that no text gets out."""

import csv
import dataclasses
import io
import json
import zipfile
import zlib

import pytest

from powerjax.tasks import gpqa, registry
from powerjax.tasks.base import Graded, prompt_hash, without_text

FIRST_LETTERS = "DADAADBC"  # of Diamond
COLUMNS = ("Record ID", "Question", "Correct Answer", *gpqa._WRONG, "Subdomain")


def _rows(num: int) -> list[dict[str, str]]:
    return [
        {
            "Record ID": f"rec{i:03}",
            "Question": f'How many "zorbs",\nof {i}?\n',
            "Correct Answer": f"right {i}",
            **{field: f"{field[-1]}, wrong {i}" for field in gpqa._WRONG},
            "Subdomain": "invented",
        }
        for i in range(num)
    ]


def _csv(rows) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A data folder whose main set is 448 invented rows, of which every second is in Diamond."""
    (tmp_path / "gpqa").mkdir()
    main = _rows(448)
    (tmp_path / "gpqa/gpqa_main.csv").write_text(_csv(main), newline="")
    (tmp_path / "gpqa/gpqa_diamond.csv").write_text(_csv(main[: 2 * 198 : 2]), newline="")
    return tmp_path


def _locked_zip(path, files: dict[str, bytes], password: bytes) -> None:
    """A zip with the traditional encryption, which `zipfile` reads and does not write."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, b"0" * 12 + data)  # stored, with room for the 12 bytes of the lock
    raw = bytearray(path.read_bytes())
    at = 0
    for data in files.values():
        crc = zlib.crc32(data)
        name_length = int.from_bytes(raw[at + 26 : at + 28], "little")
        start = at + 30 + name_length
        raw[at + 6] |= 1
        raw[at + 14 : at + 18] = crc.to_bytes(4, "little")
        raw[at + 22 : at + 26] = len(data).to_bytes(4, "little")
        plain = b"\0" * 11 + bytes([crc >> 24]) + data
        raw[start : start + len(plain)] = _encrypted(plain, password)
        at = start + len(plain)
    for data in files.values():  # the same again in the central directory
        crc = zlib.crc32(data)
        raw[at + 8] |= 1
        raw[at + 16 : at + 20] = crc.to_bytes(4, "little")
        raw[at + 24 : at + 28] = len(data).to_bytes(4, "little")
        at += 46 + int.from_bytes(raw[at + 28 : at + 30], "little")
    path.write_bytes(raw)


def _encrypted(plain: bytes, password: bytes) -> bytes:
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte: int) -> None:
        keys[0] = zlib.crc32(bytes([byte]), keys[0] ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = zlib.crc32(bytes([keys[1] >> 24]), keys[2] ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    for byte in password:
        update(byte)
    out = bytearray()
    for byte in plain:
        mask = (keys[2] | 2) & 0xFFFF
        out.append(byte ^ ((mask * (mask ^ 1)) >> 8) & 0xFF)
        update(byte)
    return bytes(out)


def test_the_prompt_is_the_papers():
    assert gpqa.prompt("Why?", ["a", "b", "c", "d"]) == (
        "Answer the following multiple choice question. The last line of your response should be of"
        " the following format: '\\boxed{$LETTER}' (without quotes) where LETTER is one of ABCD"
        " (ex. '\\boxed{A}'). Think step by step before answering.\n\nWhy?\n\n"
        "A) a\nB) b\nC) c\nD) d"
    )


def test_198_and_250_that_share_none(folder):
    diamond, rest = gpqa.load_diamond(data_dir=folder), gpqa.load_rest(data_dir=folder)
    assert (len(diamond), len(rest)) == (198, 250)
    ids = {problem.id for problem in diamond + rest}
    assert ids == {f"rec{i:03}" for i in range(448)}
    assert gpqa.load_rest(data_dir=folder, limit=3) == rest[:3]


def test_the_letter_is_that_of_the_right_option(folder):
    problems = gpqa.load_rest(data_dir=folder)
    for problem in problems:
        number = int(problem.id[3:])
        lines = problem.prompt.split("\n\n", 2)
        assert lines[1] == f'How many "zorbs",\nof {number}?'
        options = dict(line.split(") ", 1) for line in problem.prompt.strip().split("\n")[-4:])
        assert options[problem.answer] == f"right {number}"
        assert sorted(options) == list("ABCD") and len(set(options.values())) == 4
    counts = [sum(problem.answer == letter for problem in problems) for letter in "ABCD"]
    assert min(counts) > 40  # 62.5 expected, standard deviation 6.8


def test_option_order_is_a_function_of_the_problem_alone(folder):
    before = {problem.id: problem for problem in gpqa.load_diamond(data_dir=folder)}
    path = folder / "gpqa/gpqa_diamond.csv"
    path.write_text(_csv(_rows(448)[: 2 * 198 : 2][::-1]), newline="")
    after = gpqa.load_diamond(data_dir=folder)
    assert [problem.id for problem in after] == list(before)[::-1]
    assert all(problem == before[problem.id] for problem in after)
    assert "".join(problem.answer for problem in list(before.values())[:8]) == FIRST_LETTERS


@pytest.mark.parametrize("at", ["gpqa/dataset.zip", "dataset.zip"])
def test_the_authors_locked_zip_is_read(folder, tmp_path_factory, at):
    plain = gpqa.load_rest(data_dir=folder)
    home = tmp_path_factory.mktemp("zipped")
    (home / "gpqa").mkdir()
    names = ("gpqa_main.csv", "gpqa_diamond.csv")
    files = {f"dataset/{name}": (folder / "gpqa" / name).read_bytes() for name in names}
    _locked_zip(home / at, files, gpqa.PASSWORD)
    assert gpqa.load_rest(data_dir=home) == plain
    _locked_zip(home / at, files, b"another")
    with pytest.raises(ValueError, match=r"cannot be opened .*put https://github"):
        gpqa.load_rest(data_dir=home)


def test_records_hold_no_text(folder):
    problem = gpqa.load_diamond(data_dir=folder, limit=1)[0]
    record = {"id": "x", "prompt": problem.prompt, "completion": "zorbs? \\boxed{A}", "tokens": [1]}
    written = without_text(problem, record)
    assert "zorbs" not in json.dumps(written) and "right 0" not in json.dumps(written)
    assert written["tokens"] == [1] and written["prompt_sha256"] == prompt_hash(problem)
    assert len(written["prompt_sha256"]) == 64
    assert without_text(dataclasses.replace(problem, secret=False), record) == record
    assert problem.meta is None


def test_both_tasks_are_secret_and_asked_in_raw_text():
    for name in ("gpqa_diamond", "gpqa_rest"):
        task = registry.get(name)
        assert task.secret and task.prompt_style("Phi-3.5-mini-instruct") == "raw"


@pytest.mark.parametrize("spoil", ["short", "column", "bytes", "missing", "zip"])
def test_a_bad_file_is_named_and_not_quoted(folder, spoil):
    path = folder / "gpqa/gpqa_diamond.csv"
    if spoil == "short":
        path.write_text(_csv(_rows(197)), newline="")
    elif spoil == "column":
        path.write_text(_csv(_rows(198)).replace("Incorrect Answer 2", "Wrong"), newline="")
    elif spoil == "bytes":
        path.write_bytes(path.read_bytes() + b"\xff zorbs")
    else:
        path.unlink()
        if spoil == "zip":
            (folder / "gpqa/dataset.zip").write_bytes(b"zorbs")
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        gpqa.load_diamond(data_dir=folder)
    line = str(raised.value)
    assert "\n" not in line and "zorbs" not in line and str(folder) in line
    assert "dataset.zip at DATA_DIR/gpqa/dataset.zip" in line


def test_files_of_two_versions_are_noticed(folder):
    rows = _rows(448)
    rows[0]["Record ID"] = "new"
    (folder / "gpqa/gpqa_main.csv").write_text(_csv(rows), newline="")
    with pytest.raises(ValueError, match="251 questions of the main set are not in Diamond"):
        gpqa.load_rest(data_dir=folder)


@pytest.mark.parametrize(
    "text, boxed, last",
    [
        (r"Because. \boxed{B}", "B", "B"),
        (r"\boxed{A} no: \boxed{\text{(C)}}", "C", "C"),
        (r"\boxed{$D$}", "D", "D"),
        (r"\boxed{\textbf{B) 3 zorbs}}", "B", "B"),
        (r"\boxed{B}. Not C though.", "B", "C"),
        (r"\boxed{42}, that is D.", None, "D"),
        (r"\boxed{Deuterium}", None, None),
        ("The answer is (C).", None, "C"),
        ("**B**", None, "B"),
        ("DNA and CO2", None, None),
        (r"\boxed{E}", None, None),
        (r"\boxed{b}", "B", None),
        ("", None, None),
    ],
)
def test_letters_by_either_rule(folder, text, boxed, last):
    assert (gpqa.boxed_letter(text), gpqa.last_letter(text)) == (boxed, last)
    problem = dataclasses.replace(gpqa.load_diamond(data_dir=folder, limit=1)[0], answer="B")
    verdicts = {"boxed": boxed == "B", "last_letter": last == "B"}
    for rule, letter in (("boxed", boxed), ("last_letter", last)):
        (graded,) = gpqa.grade_all([problem], [text], rule=rule)
        assert graded == Graded(verdicts[rule], letter, verdicts)
    assert gpqa.grade(problem, text) == (boxed == "B", boxed)


@pytest.mark.parametrize(
    "content",
    [
        *(
            "B",
            "b",
            "(B)",
            "(b)",
            "[B]",
            "<B>",
            "B)",
            "B.",
            "b)",
            "B!",
            "$B$",
            "**B**",
            "'B'",
            "Ｂ",
        ),
        *(r"\text{Option B}", "option b", "Choice (B)", "Answer: B", r"\text{The answer is } B"),
        *(r"\mathbf{B}", r"\textbf{(B)}", r"\displaystyle B", r"\(B\)", r"\left(B\right)"),
        *("(b) 5 m", "B) -5 m", "B. 5 m", "B: zorbs", "B zorbs", "B, because", "B — zorbs"),
        *("B is correct", "B) D-glucose", "(B), because"),
        *(
            "B) CO_2",
            r"\text{B: } A = 5",
            r"\textbf{B.}\ \frac12",
            r"B\quad 5 m",
            r"\textcircled{B}",
            r"\textbf B",
            r"\mathbb{B}",
            "“B”",
            "‘B’",
            r"B\text{) } 10^{-4}",
            r"\text{B } \checkmark",
            "B ✅",
        ),
    ],
)
def test_forms_of_a_letter_in_the_box(content):
    assert gpqa.boxed_letter(rf"Not A. \boxed{{{content}}}") == "B"
    assert gpqa.boxed_letter(rf"\boxed{{{content}}} \boxed{{$LETTER}}") == "B"


@pytest.mark.parametrize(
    "content",
    [
        *(
            "C_6H_6",
            "A = 5",
            "CO_2",
            "A^2",
            "D_{2h}",
            "BH_3",
            "a = 3",
            "A + B",
            "C-H",
            "A/B",
            "A(x)",
        ),
        *(r"\mathrm{C}_6\mathrm{H}_6", r"\text{B}H_3", r"A \cdot B", "A e^{-kt}", "A - 5", "A'"),
        *("(A)^2", "(A) = 5", "[A]/[B]", "(A)(B)", "A and B", "A, C", "a cat", "a.u.", "D-glucose"),
        *("(A) and (B)", "A) and C)", "[A], [B]", "A is 5"),
        *("C₆H₆", r"\vec{B}", r"B \to C", "A > 5", r"\{A\}", "ABCD", "", r"\text{none}"),
    ],
)
def test_formulas_that_begin_with_a_letter_name_no_option(content):
    assert gpqa.boxed_letter(rf"\boxed{{{content}}}") is None
