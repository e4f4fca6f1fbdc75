"""One problem's completions side by side, a column per sampler, as text or Markdown."""

import itertools
import textwrap
from collections.abc import Sequence

from powerjax.evaluation import Result
from powerjax.records import Record
from powerjax.report.cells import markdown


def side_by_side(results: Sequence[Result], problem_id: str, width: int = 110) -> str:
    """Returns one problem's completions in columns, each marked right or wrong.

    Args:
      width: characters of all columns together.
    """
    column = (width - 2 * len(results)) // len(results)
    blocks = [[[result.sampler], ["-" * column]] for result in results]
    for block, result in zip(blocks, results, strict=True):
        block += [
            [*textwrap.wrap(verdict(record), column), *_wrapped(record["completion"], column)]
            for record in _of(result, problem_id)
        ]
    lines = []
    for row in itertools.zip_longest(*blocks, fillvalue=[]):
        for line in itertools.zip_longest(*row, fillvalue=""):
            lines.append("  ".join(f"{cell:<{column}}" for cell in line).rstrip())
        if len(row[0]) > 1:
            lines.append("")
    return "\n".join(lines)


def side_by_side_markdown(results: Sequence[Result], problem_id: str) -> str:
    """Returns the same as a Markdown table."""
    columns = [
        [f"{verdict(r)}: `{' '.join(r['completion'].split())}`" for r in _of(result, problem_id)]
        for result in results
    ]
    rows = itertools.zip_longest(*columns, fillvalue="")
    return markdown([[result.sampler for result in results], *rows])


def verdict(record: Record) -> str:
    """Returns `right, r -0.012`: the verdict and the self-reward (nats per token)."""
    word = {True: "right", False: "wrong", None: "not graded"}[record.get("correct")]
    return f"{word}, r {record['self_reward']:.3f}"


def _of(result: Result, problem_id: str) -> list[Record]:
    """Returns a row's completions of one problem, in the order of their passes."""
    records = [record for record in result.records if record["problem_id"] == problem_id]
    return sorted(records, key=lambda record: (record["seed"], record["sample_index"]))


def _wrapped(text: str, width: int) -> list[str]:
    """Returns a completion in at most six lines of `width` characters."""
    lines = textwrap.wrap(text.strip(), width) or ["(nothing)"]
    return lines if len(lines) <= 6 else [*lines[:5], "..."]
