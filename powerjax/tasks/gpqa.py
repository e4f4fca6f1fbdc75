r"""GPQA: multiple-choice questions of Rein et al. (2023), whose authors ask to keep them secret.

No example may appear in plain text or images online. So these problems are `secret`: records hold
ids, hashes and token ids in place of text (`base.without_text`), and no message of this file quotes
a row. `gpqa_diamond` holds the 198 questions that the paper evaluates on. `gpqa_rest` holds the
other 250 questions of the main set.

The rows come from the hub, with the token of a user who has accepted the terms there, or from
DATA_DIR/gpqa, which holds the authors' dataset.zip as they publish it or the CSV files in it. The
zip is locked against crawlers with the password that the authors print in their README.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path

from powerjax.tasks import answers, sources
from powerjax.tasks.answers import notation
from powerjax.tasks.base import Graded, Problem

LETTERS = "ABCD"
NUM_DIAMOND, NUM_MAIN, NUM_REST = 198, 448, 250
RULES = ("boxed", "last_letter")

PASSWORD = b"deserted-untie-orchid"
HELP = (
    "accept the terms at https://huggingface.co/datasets/Idavidrein/gpqa and run `hf auth login`,"
    " or put https://github.com/idavidrein/gpqa/blob/main/dataset.zip at DATA_DIR/gpqa/dataset.zip"
    " and give --data_dir"
)
INSTRUCTION = (
    "Answer the following multiple choice question. The last line of your response should be of the"
    r" following format: '\boxed{$LETTER}' (without quotes) where LETTER is one of ABCD (ex."
    r" '\boxed{A}'). Think step by step before answering."
)

_WRONG = tuple(f"Incorrect Answer {i}" for i in (1, 2, 3))
_FIELDS = ("Question", "Correct Answer", *_WRONG, "Record ID")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathbb|"
    r"mathfrak|mathscr|mbox|hbox|operatorname|textcircled|circled)(?![A-Za-z]) *(?=\{|[A-Da-d]$)"
)
_SPACE = re.compile(
    r"\\\\|\\[,;:! ]|\\(?:q?quad|left|right|[bB]igg?[lr]?|checkmark)(?![A-Za-z])|[~✓✔✅]\ufe0f?"
)
_LEAD = (
    r"(?:(?i:(?:the +)?(?:(?:correct|final|right|best) +)?(?:answer|option|choice|letter)"
    r"(?: +is)?(?: +(?:option|choice))?) *[:=]? *)?"
)
# What may follow the letter. A formula that begins with a letter (`A = 5`) goes on in other ways.
_ANOTHER = r"(?! *(?:and|or|&|,|;) *[(\[]?[A-D][)\].]*(?:$|,| ))"  # two letters are no answer
_WORDS = (
    r" +(?!(?:and|or|to|in|vs)\b|is +(?!(?:the +)?(?:correct|right|best|answer)))"
    r"(?=[A-Za-z]{2}|\d|\()"
)
_DASHED = r" +(?:- +(?=[A-Za-z]{2})|[–—] *(?=[A-Za-z\d]))"
_MARKED = rf"(?:[):]{_ANOTHER}|\.(?![A-Za-z]\.)|[,;](?! *[A-D]\b)) *(?![=^_+*/<>|~)(&]|-(?!\d))"
_CAPITAL = rf"(?P<capital>[ABCD])(?:[.!]?$|{_MARKED}|{_WORDS}|{_DASHED})"
_SMALL = r"(?P<small>[abcd])(?:\.?$|\)(?: +|$)(?![=^_+*/<>|~&])|[.:] +(?![=^_+*/<>|~&]))"
_ENCLOSED = (
    rf"[(\[<] ?(?P<enclosed>[A-Da-d]) ?[)\]>]{_ANOTHER}(?:[.,:;]? +(?![=^_+*/<>|~&])|[.,:;]? *$)"
)
_OPENING = re.compile(rf"{_LEAD}(?:{_ENCLOSED}|{_CAPITAL}|{_SMALL})")
_MAX_CHARS = 500  # how many characters of a box are looked at
_LONE = re.compile(r"(?<![A-Za-z0-9])[ABCD](?![A-Za-z0-9])")


def _source(name: str, num_rows: int) -> sources.Source:
    return sources.Source(
        name=name,
        files=(f"gpqa/{name}.csv", "gpqa/dataset.zip", f"gpqa/dataset/{name}.csv", "dataset.zip"),
        url="",
        hub="Idavidrein/gpqa",
        config=name,
        split="train",
        fields=_FIELDS,
        num_rows=num_rows,
        help=HELP,
    )


DIAMOND = _source("gpqa_diamond", NUM_DIAMOND)
MAIN = _source("gpqa_main", NUM_MAIN)


def load_diamond(
    *, data_dir: str | os.PathLike | None = None, limit: int | None = None
) -> list[Problem]:
    """Returns the 198 questions of GPQA-Diamond."""
    return [_problem(row) for row in _rows(DIAMOND, data_dir)[:limit]]


def load_rest(
    *, data_dir: str | os.PathLike | None = None, limit: int | None = None
) -> list[Problem]:
    """Returns the 250 questions of the main set that are not in Diamond."""
    diamond = {row["Record ID"] for row in _rows(DIAMOND, data_dir)}
    rows = [row for row in _rows(MAIN, data_dir) if row["Record ID"] not in diamond]
    if len(rows) != NUM_REST:
        raise ValueError(
            f"gpqa_rest: {len(rows)} questions of the main set are not in Diamond, and not"
            f" {NUM_REST}: the two files are of different versions; {HELP}"
        )
    return [_problem(row) for row in rows[:limit]]


def boxed_letter(completion: str) -> str | None:
    r"""The rule "boxed": returns the letter of the option that the last box names, or None.

    `\boxed{\text{(B) 5 m}}` names B. Formulas that begin with a letter (`C_6H_6`, `A = 5`) name
    no option.
    """
    boxed = answers.last_boxed(completion)
    if boxed is None:
        return None
    text = unicodedata.normalize("NFKC", notation.unstyled(boxed[:_MAX_CHARS]))
    text = _SPACE.sub(" ", notation.unwrapped(text, _TEXT))
    text = " ".join(re.sub(r"[*{}\"`“”]", "", text).split())
    text = re.sub(r"^([A-D]) (?=[):.])", r"\1", text)
    opening = _OPENING.match(re.sub(r"^['‘](.*)['’]$", r"\1", text))
    return opening[opening.lastgroup or 0].upper() if opening else None


def last_letter(completion: str) -> str | None:
    """The rule "last_letter": returns the last capital A to D that stands alone, boxed or not."""
    letters = _LONE.findall(completion)
    return letters[-1] if letters else None


def grade(problem: Problem, completion: str) -> tuple[bool, str | None]:
    """Returns (correct, letter) by the rule "boxed", which is what the prompt asks for."""
    letter = boxed_letter(completion)
    return letter == problem.answer, letter


def grade_all(
    problems: Sequence[Problem],
    completions: Sequence[str],
    *,
    num_workers: int | None = None,
    progress: bool = False,
    rule: str = "boxed",
) -> list[Graded]:
    """Returns verdicts by `rule`. Each `detail` holds the verdicts of both rules by name."""
    del num_workers, progress
    if rule not in RULES:
        raise ValueError(f"gpqa has no rule {rule!r}: choose one of {', '.join(RULES)}")

    def graded(problem: Problem, completion: str) -> Graded:
        letters = {"boxed": boxed_letter(completion), "last_letter": last_letter(completion)}
        verdicts = {name: letter == problem.answer for name, letter in letters.items()}
        return Graded(verdicts[rule], letters[rule], verdicts)

    return [graded(*pair) for pair in zip(problems, completions, strict=True)]


def prompt(question: str, options: Sequence[str]) -> str:
    """Returns the paper's prompt, with question and options as the data set has them."""
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=True))
    return f"{INSTRUCTION}\n\n{question}\n\n{listed}"


def _problem(row: sources.Row) -> Problem:
    """Returns the problem of a row. The order of its options depends on its id alone."""
    name = row["Record ID"]
    order = sorted(range(4), key=lambda i: hashlib.sha256(f"gpqa/{name}/{i}".encode()).digest())
    options = [row["Correct Answer"], *(row[field] for field in _WRONG)]
    answer = LETTERS[order.index(0)]
    text = prompt(row["Question"], [options[i] for i in order])
    return Problem(name, text, answer, secret=True)


def _rows(source: sources.Source, data_dir: str | os.PathLike | None) -> list[sources.Row]:
    if data_dir is None:
        return sources.rows(source)
    path = sources.find(source, data_dir)
    text = _unzipped(path, f"{source.name}.csv") if path.suffix == ".zip" else path.read_bytes()
    try:
        rows = list(csv.DictReader(io.StringIO(text.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        # `from None` and without the reason: the codec's message quotes what it could not read.
        raise ValueError(f"{path}: {source.name}.csv cannot be read as CSV; {HELP}") from None
    return sources.checked(source, rows, str(path))


def _unzipped(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as file:
            member = next((info for info in file.namelist() if Path(info).name == name), None)
            if member is None:
                raise ValueError(f"{path} holds no {name}; {HELP}")
            return file.read(member, pwd=PASSWORD)
    except NotImplementedError:
        raise ValueError(
            f"{path} is locked in a way that Python cannot open: unpack it with 7z, and put its CSV"
            f" files into {path.parent}"
        ) from None
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be opened ({error}); {HELP}") from None
