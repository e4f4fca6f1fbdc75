"""A griffe extension: lines of a docstring that explain names become a list on the site.

The code's docstrings explain a few arguments without a section:

    donate: whether to reuse the memory of the old weights; this LM must not be used afterwards
        then.

Markdown would run such lines together.
"""

import re

import griffe

_NAME = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ")


class NamedLines(griffe.Extension):
    """Turns each paragraph of such lines into a list."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrites the docstring of one object."""
        del kwargs
        if obj.docstring is not None:
            paragraphs = re.split(r"\n\s*\n", obj.docstring.value)
            obj.docstring.value = "\n\n".join(map(_listed, paragraphs))


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
