"""mkdocs' hooks: the papers at the top of the repository become pages, and links to them work.

The pages of docs/ link to `../CONTRIBUTING.md`, as a reader on a code host needs it. On the site
that file is the page project/contributing.md, so its links are rewritten. A link to a file that the
site does not have, such as a source file, is shown as the text of the link alone.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAPERS = {  # path in the repository -> page
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "BUILD_NOTES.md": "project/build-notes.md",
    "benchmarks/RESULTS.md": "project/results.md",
}
_ITEM = re.compile(r"(?:\d+\.|[-*]) +")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_config(config):
    """Adds the section of decisions: the build notes, and docs/decisions/ where there is one."""
    folder = Path(config.docs_dir) / "decisions"
    pages = sorted(folder.glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    decisions: list = []
    if (ROOT / "BUILD_NOTES.md").exists():
        decisions.append({"Build notes": PAPERS["BUILD_NOTES.md"]})
    if pages:
        decisions.append({"Each by itself": [f"decisions/{path.name}" for path in pages]})
    config.nav.insert(-1, {"Decisions": decisions})
    return config


def on_files(files, config):
    """Adds a page for each paper."""
    for paper, page in PAPERS.items():
        if (ROOT / paper).exists():
            files.append(File.generated(config, page, content=(ROOT / paper).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites what the site reads otherwise than a code host: links to papers, and lists."""
    del config, files
    here = page.file.src_uri
    source = {page: paper for paper, page in PAPERS.items()}.get(here, f"docs/{here}")

    def rewritten(link: re.Match) -> str:
        mark, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            return link[0]  # mkdocs says that it is broken
        if path in PAPERS:
            there = PAPERS[path]
        elif path.startswith("docs/") and path.endswith((".md", ".png")):
            there = path.removeprefix("docs/")
        else:
            return text
        return f"{mark}[{text}]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{anchor})"

    return _LINK.sub(rewritten, _indented(markdown))


def _indented(markdown: str) -> str:
    """Indents what belongs to an item of a list by four spaces, as Python's Markdown wants it.

    On a code host the width of the item's mark is enough: two spaces after "- ", three after "1. ".
    """
    lines, width, fenced = [], 0, False
    for line in markdown.split("\n"):
        fenced ^= line.startswith("```")
        if item := None if fenced else _ITEM.match(line):
            width = item.end()
        elif line.strip() and not line.startswith(" "):
            width = 0
        elif 0 < width < 4 and line.startswith(" " * width):
            line = " " * (4 - width) + line
        lines.append(line)
    return "\n".join(lines)
