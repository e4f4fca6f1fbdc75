"""A griffe extension: lines of a docstring that explain names become a list on the site.

The code's docstrings explain a few arguments without a section:

    donate: whether to reuse the memory of the old weights; this LM must not be used afterwards
        then.

Markdown would run such lines together. In sections of arguments or attributes, a line may explain
several names (`seed, ids: ...`), which griffe would read as a name and its type.
"""

import re

import griffe

_NAME = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ")

_SEVERAL = re.compile(r"^( +)([a-z_]\w*(?:, [a-z_]\w*)+)(: .*(?:\n\1 +.*)*)", re.MULTILINE)


class NamedLines(griffe.Extension):
    """Turns each paragraph of such lines into a list, and gives each name a line of its own."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrites the docstring of one object."""
        del kwargs
        if obj.docstring is not None:
            paragraphs = re.split(r"\n\s*\n", obj.docstring.value)
            text = "\n\n".join(map(_listed, paragraphs))
            text = re.sub(r"(\d)\*\*(\d)", r"\1^\2", text)  # 2**63 would begin bold type
            obj.docstring.value = _SEVERAL.sub(_one_name_a_line, text)


def _listed(paragraph: str) -> str:
    if not _NAME.match(paragraph):
        return paragraph
    items: list[str] = []
    for line in paragraph.split("\n"):
        if _NAME.match(line) or not items:
            items.append(_NAME.sub(r"- **`\1`**: ", line))
        else:
            items[-1] += " " + line.strip()
    return "\n".join(items)


def _one_name_a_line(line: re.Match) -> str:
    return "\n".join(f"{line[1]}{name}{line[3]}" for name in line[2].split(", "))
