"""Reference solutions in every shape that models answer in: each passes its tests."""

import textwrap
import time

import pytest

from powerjax.tasks import code
from powerjax.tasks.code import extraction, fences, statements

STUB = '''import math
from typing import List


def triple(x):
    """ Triples. """
    return 3 * x


def grow(values: List[int], by: int = 1) -> List[int]:
    """ Grows each of the values, largest first.
    >>> grow([1, 2])
    [3, 2]
    """
'''
BODY = '''    grown = []
    for value in values:
        # a comment, "quoted'
        if value is None:
            continue
        grown.append(value + by)
    text = """at
the margin"""
    return sorted(grown, reverse=True)[: math.ceil(len(text) / 2)]
'''
MADE_UP = {
    "task_id": "HumanEval/999",
    "prompt": STUB,
    "entry_point": "grow",
    "canonical_solution": BODY,
    "test": "def check(candidate):\n    assert candidate([1, None, 5], by=2) == [7, 3]\n"
    "    assert candidate(list(range(9))) == [9, 8, 7, 6, 5, 4, 3]\n",
}
MBPP_ROW = {
    "task_id": 12,
    "prompt": "Write a function to grow values.",
    "code": f"import math\ndef grow(values, by=1):\n{BODY}",
    "test_imports": [],
    "test_list": ["assert grow([1, None, 5], by=2) == [7, 3]", "assert grow([]) == []"],
}
# {name}: the function; {body}: its lines; {flat}: these at the margin; {whole}: the stub and the
# body; {short}: the function alone; {stub}: the stub.
BODIES = {
    "a_body": "{body}",
    "a_body_in_a_fence": "```python\n{body}```",
    "a_body_in_a_fence_after_words": "Here is the body:\n\n```python\n{body}```\nIt works.",
    "a_body_at_the_margin_of_a_fence": "```python\n{flat}```\nIt works.",
    "a_body_in_a_fence_without_its_first_columns": "```python\n{stripped}```",
    "a_body_deeper_in_a_fence": "```\n{deep}```\nIt works.",
    "a_body_in_an_indented_fence": "1. So:\n\n   ```python\n{body}   ```\n",
    "a_body_and_words": "{body}\nThis function (which isn't long) works.\n\n- It's right\n",
    "a_body_and_a_closing_fence": "{body}```\n\nIt works:\n\n```\n>>> {name}()\n```\n",
    "a_body_and_a_fence_in_its_last_line": "{chopped}```\nIt works.",
    "a_body_and_wrong_assertions": "{body}\nassert {name}(1) == 'x'\nprint({name}())\n",
    "a_body_and_a_wrong_redefinition": "{body}\n\ndef {name}(*a):\n    return 0\n",
    "a_body_and_another_sorted": "{body}\n\ndef sorted(*a, **k):\n    return 0\n",
    "a_body_and_a_guard": "{body}\n\nif __name__ == '__main__':\n    {name}()\n",
    "a_body_and_a_decorator": "{body}\n\n@lru_cache",
    "a_body_and_decorators": "{body}\n@lru_cache\n@cache(\n    size=3,",
    "a_body_and_a_decorated_function": "{body}\n@lru_cache\ndef other(n):\n    return n\n",
    "a_body_with_a_docstring": '    """Once\nmore."""\n{body}',
    "a_body_in_tabs": "{tabs}",
    "a_body_deeper": "{deep}",
    "a_body_with_comments_at_the_margin": "# first\n{body}# then\n# and\n    return 0\n",
    "a_body_without_its_first_space": "{lost}",
    "a_body_with_windows_ends": "{body_r}",
}
WHOLES = {
    "the_stub_again": "{whole}",
    "the_function_alone": "{short}",
    "after_a_space": " {short}",
    "a_fence": "```python\n{short}```",
    "a_fence_of_python3": "Sure!\n```python3\n{short}```",
    "a_fence_of_py": "```py\n{short}```\nDone.",
    "a_fence_with_attributes": '```python title="a.py"\n{short}```\nDone.',
    "a_fence_of_tildes": "~~~python\n{short}~~~\nDone.",
    "a_fence_of_four": "````\n{short}````\nDone.",
    "a_fence_within_a_line": "Here: ```python\n{short}```",
    "a_fence_closed_within_a_line": "```python\n{short_chopped}```",
    "an_indented_fence": "1. So:\n\n   ```python\n{indented}   ```\n\n2. Done.",
    "an_open_fence": "So:\n```python\n{short}",
    "an_open_fence_and_a_decorator": "So:\n```python\n{short}\n@lru_cache",
    "a_fence_cut_off_in_a_helper": "```python\n{short}\ndef helper(x):",
    "a_fence_cut_off_in_a_string": '```python\n{short}\ndef helper(x):\n    """Says',
    "a_closing_fence_and_words": "{short}```\nThis function grows (isn't it nice?).",
    "a_closing_fence_and_an_output": "{short}```\n\nOutput:\n```\n[1]\n```\n",
    "the_stub_and_a_closing_fence": "{whole}\n```\n\nThis works.\n",
    "imports_in_a_fence_of_their_own": "```python\nimport os\n{needs}```\nThen:\n"
    "```python\n{needing}```\n",
    "imports_in_a_fence_after": "```python\n{needing}```\nWith:\n```python\n{needs}```\n",
    "a_helper_in_a_fence_of_its_own": "```python\ndef first_of(*a):\n    return a[0]\n```\n"
    "```python\n{helped}```\n",
    "a_helper_before": "```python\ndef first_of(*a):\n    return a[0]\n\n{helped}```\n",
    "a_helper_after": "{helped}\n\ndef first_of(*a):\n    return second(*a)\n\n"
    "def second(*a):\n    return a[0]\n",
    "a_helper_after_words": "{helped}\n\nIt needs:\n\ndef first_of(*a):\n    return a[0]\n",
    "a_future_import": "```python\nfrom __future__ import annotations\n\n{short}```",
    "a_future_import_with_no_fence": "from __future__ import (\n    annotations,\n)\n{short}",
    "a_future_import_in_its_own_fence": "```\nfrom __future__ import annotations\n```\n"
    "```\n{short}```",
    "a_docstring_and_a_future_import": '```python\n"""Module."""\n'
    "from __future__ import annotations, division\nimport os\n\n{short}```",
    "a_future_import_over_lines": "from __future__ import \\\n    annotations\n{short}",
    "a_future_import_in_a_string": "```python\n{quoting}```",
    "fences_in_a_docstring": "```python\n{documented}```\nDone.",
    "names_unpacked_in_the_fence": "```python\n*ONE, TWO = (THREE, FOUR) = FIVE = 1, 2\n"
    "{unpacking}```",
    "a_line_of_imports_in_its_own_fence": "```\nimport os; import string as letters_\n"
    "import bisect; from collections import deque as line_\n```\n```python\n{needing}```\n",
    "a_typed_name": "```python\n{renamed}\n{name}: object = other_name\n```\n",
    "a_draft_without_a_body_first": "def {name}(*a):\n    pass\n\nFilled in:\n\n{short}",
    "a_byte_order_mark": "\ufeff{short}",
    "a_draft_first": "A draft:\n```python\ndef {name}(*a):\n    return 0\n```\nBetter:\n"
    "```python\n{short}```\n",
    "the_stub_in_a_fence_first": "Given:\n```python\n{stub}```\nDone:\n```python\n{short}```\n",
    "the_stub_without_a_fence_first": "{stub}\nDone:\n```python\n{short}```\n",
    "a_placeholder_in_a_fence_last": "```python\n{short}```\nAs in\n"
    "```python\ndef {name}(*a):\n    ...\n```\n",
    "examples_in_a_fence_after": "```python\n{short}```\n```python\nprint({name}())\n```\n",
    "wrong_assertions_in_the_fence": "```python\n{short}\nassert {name}() == 'x'\n```\n",
    "examples_in_the_fence": "```python\n{short}\n# Example\nx = {name}()\nprint(x)\n```\n",
    "reading_in_the_fence": "```python\n{short}\nn = int(input())\nprint({name}(n))\n```\n",
    "a_guard_in_the_fence": "```python\n{short}\nif __name__ == '__main__':\n    main()\n```\n",
    "unittest_in_the_fence": "```python\n{short}\nimport unittest\nunittest.main()\n```\n",
    "a_session_in_the_fence": "```python\n{short}\n>>> {name}()\n[1]\n```\n",
    "a_session": "```\n{session}```\n",
    "words_before_and_after": "Sure, here's it (in Python):\n\n{short}\n\nIt's done.\n- Yes\n",
    "assertions_after": "{short}\nassert {name}() == 'x'\n",
    "markdowns_four_columns": "Here it is:\n\n{indented4}\nDone.\n",
    "markdowns_four_columns_at_once": "{indented4}\nDone.\n",
    "a_pip_fence_first": "```bash\npip install numpy\n```\n```python\n{short}```\n",
    "a_shell_line_in_the_fence": "```\n$ python\n{short}```\n",
    "a_table_filled_after": "```python\n{tabled}\nTABLE = []\nfor n in range(3):\n"
    "    TABLE.append(n)\n```\n",
    "an_attribute_set_after": "```python\n{attributed}\n{name}.cache = 3\n```\n",
    "under_another_name": "```python\n{renamed}\n{name} = other_name\n```\n",
    "windows_ends": "{fence_r}",
    "a_comment_at_the_margin_inside": "```python\n{commented}```\n",
}


MOVED = {"an_indented_fence", "markdowns_four_columns", "markdowns_four_columns_at_once"}


def shapes(problem, which):
    """{shape: completion} of a problem's reference solution."""
    name, stub = problem.meta["entry_point"], problem.meta["stub"]
    if stub is None:
        whole = problem.answer.replace("\r\n", "\n").strip("\n") + "\n"
        short, body, stub, above = whole, "", "", ""
    else:
        body, whole = problem.answer, stub + problem.answer
        above = stub[: stub.index(f"def {name}")]
        short = whole[len(above) :]
    head = short.index(f"def {name}")
    start = short.index("\n", head) + 1  # of the lines of the function
    # A line that needs an import, a helper, a table or an attribute: the first of the function.
    first = next(line for line in short[start:].split("\n") if line.strip())
    space = first[: len(first) - len(first.lstrip())]
    with_line = lambda line: short[:start] + f"{space}{line}\n" + short[start:]  # noqa: E731
    flat = textwrap.dedent(body)
    values = dict(
        name=name,
        body=body,
        stripped=body.lstrip(" \t"),
        quoting=with_line("assert len('''\nfrom __future__ import annotations\n''') == 36"),
        documented=short[:start]
        + f'{space}"""Says:\n\n{space}```python\n{space}x\n{space}```\n{space}"""\n'
        + short[start:],
        unpacking=with_line("assert (*ONE, TWO) == FIVE == (THREE, FOUR)"),
        chopped=body.rstrip("\n"),
        flat=flat,
        deep=textwrap.indent(body, "    "),
        tabs=body.replace("    ", "\t"),
        lost=body[1:],
        body_r=body.replace("\n", "\r\n"),
        whole=whole,
        short=short,
        short_chopped=short.rstrip("\n"),
        stub=stub,
        indented=textwrap.indent(short, "   "),
        indented4=textwrap.indent(short, "    "),
        needs="import bisect, string as letters_\n"
        "from collections import (deque as line_,\n abc)\n",
        needing=with_line("letters_.digits, bisect.bisect, line_([1])"),
        helped=with_line("first_of(1, 2)"),
        session="".join(
            f"{'... ' if line[0].isspace() else '>>> '}{line}\n"
            for line in short.split("\n")
            if line.strip()
        ),
        tabled=with_line("assert len(TABLE) == 3"),
        attributed=with_line(f"assert {name}.cache == 3"),
        renamed=short.replace(f"def {name}", "def other_name"),
        fence_r=f"So:\n```python\n{short}```\nDone.".replace("\n", "\r\n"),
        commented=short[:start] + "# at the margin\n" + short[start:],
    )
    return {shape: text.format(**values) for shape, text in which.items()}


def failures(problem, which, leave=()):
    dressed = {s: c for s, c in shapes(problem, which).items() if s not in leave}
    graded = code.grade_all([problem] * len(dressed), list(dressed.values()))
    return {s: g.detail["message"] for s, g in zip(dressed, graded, strict=True) if not g.correct}


@pytest.mark.full
def test_a_made_up_reference_passes_in_every_shape(bubblewrap):
    problem = code.humaneval_problem(MADE_UP)
    # A string over lines at the margin cannot be moved without being changed.
    textwraps = {"a_body_at_the_margin_of_a_fence", "a_body_deeper", "a_body_deeper_in_a_fence"}
    leave = {*textwraps, *MOVED}
    assert failures(problem, BODIES | WHOLES, leave) == {}


@pytest.mark.full
@pytest.mark.parametrize("number", [0, 12, 32, 38, 56, 129])
def test_a_published_reference_passes_in_every_shape(bubblewrap, data_dir, number):
    problem = code.load_humaneval(data_dir=data_dir)[number]
    assert failures(problem, BODIES | WHOLES) == {}


def test_a_reference_of_mbpp_passes_in_every_shape(bubblewrap, request):
    problem = code.mbpp_problem(MBPP_ROW)
    leave = {s for s, text in WHOLES.items() if "{stub}" in text}
    assert failures(problem, WHOLES, {*leave, *MOVED}) == {}
    data_dir = request.getfixturevalue("data_dir")
    for problem in code.load_mbpp(data_dir=data_dir, limit=60)[9::25]:
        assert failures(problem, WHOLES, leave) == {}


def graded(row, completion):
    correct, _ = code.grade(code.humaneval_problem(row), completion)
    return correct


def test_a_wrong_answer_passes_in_no_shape(bubblewrap):
    wrong = BODY.replace("value + by", "value")
    problem = code.humaneval_problem(MADE_UP | {"canonical_solution": wrong})
    dressed = list(shapes(problem, BODIES | WHOLES).values())
    assert not any(one.correct for one in code.grade_all([problem] * len(dressed), dressed))


def test_a_method_of_a_class_is_not_the_function(bubblewrap):
    method = textwrap.indent(f"def grow(self, values, by=1):\n{BODY}", "    ")
    assert not graded(MADE_UP, f"```python\nclass Solution:\n{method}```")


def test_the_last_whole_definition_of_several_fences_counts():
    blocks = [f"```python\ndef f():\n    return {n}\n```" for n in (1, 2, 3)]
    parts = fences.pieces("\nOr:\n".join(blocks))
    assert extraction.whole(parts, "f") == "def f():\n    return 3"
    parts = fences.pieces("\nOr:\n".join([*blocks, "```python\ndef f():\n    retu"]))
    assert extraction.whole(parts, "f") == "def f():\n    return 3"
    parts = fences.pieces(f"def f():\n    return 0\n\nOr:\n{blocks[0]}")
    assert extraction.whole(parts, "f") == "def f():\n    return 0"


def test_nothing_is_taken_that_is_not_needed():
    around = "from solution import *\nimport re\nA = f(1)\nB = input()\ndef max(*a): return 0\n"
    completion = f"    return max(A, B, re)\n\n{around}\ndef other(): pass\n"
    parts = fences.pieces(completion)
    assert extraction.body(parts, 4, "f") == "    return max(A, B, re)\n\nimport re"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "\n",
            "#",
            "\n\n  x\n",
            "a\n'''\nb\n",
            "f(\n)\n\ng",
            STUB + BODY,
            "(((\nx",
            "\\\nx\ny",
        ),
        "@a\n# b\n@c\ndef f(x,\ny):\n  '''\nz'''\n# w\n  return (\n1)\nif x:\n y\nelse:\n z\nIt's",
    ],
)
def test_statements_together_are_the_text(text):
    assert "\n".join(part.text for part in statements.split(text)) == text


@pytest.mark.parametrize(
    "line, names",
    [
        ("a, *b = 1, 2", ("a", "b")),
        ("*a, b = c", ("a", "b")),
        ("(a, b) = 1, 2", ("a", "b")),
        ("a = b[0] = 1", ("a", "b")),
        ("a: dict[str, int] = f(b, c=1)", ("a",)),
        ("a = b == c", ("a",)),
        ("import os; import a.b as c; from d import e; f()", ("os", "c", "e")),
    ],
)
def test_every_name_that_a_line_binds_is_seen(line, names):
    (part,) = statements.split(line)
    assert part.names == names


def test_statements_are_told_apart():
    text = """    return 1

import a.b, c as d
from e import (f,  # words
    g as h)
@cache
# a comment
def i(x,
      y):
    if x:
        return 2
# more
    return 3
j: int = [
1]
k.l = 1
for m in n:
    pass
else:
    pass
It's prose (see above
class Q: pass
class of problems
@cache
"""
    found = [(part.kind, part.names, part.complete) for part in statements.split(text)]
    assert found == [
        ("body", (), True),
        ("import", ("a", "d"), True),
        ("import", ("f", "h"), True),
        ("function", ("i",), True),
        ("assignment", ("j",), True),
        ("assignment", ("k.l",), True),
        ("other", (), True),
        ("prose", (), True),
        ("function", ("Q",), True),
        ("prose", (), True),
        ("function", (), False),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("x" * 10**5, "a`b" * 10**4, "@a\n" * 10**4, "# a\n" * 10**4, "```\n" * 10**4),
        *("    x\n" * 10**4, "(" * 10**5, "a" + " , a" * 10**4, "    x = '" + "\\" * 10**4),
        *("def grow(x" + ")" * 10**4, 'def grow(x):\n  """' + "\\" * 10**4),
        "    return f0\n" + "".join(f"def f{n}(): return f{n + 1}\n" for n in range(200)),
    ],
    ids=range(12),
)
def test_what_a_model_writes_without_end_is_read_soon(text):
    start = time.monotonic()
    code.program(code.humaneval_problem(MADE_UP), text)
    assert time.monotonic() - start < 20  # a tenth of a second each, on a quiet machine
