"""MkDocs hooks: the README is the first page, and every page is in the navigation; a Griffe extension for examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parent.parent
#: Links to files that are not pages become plain text.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./[^)]*|(?:examples|tests|src|\.ci|LICENSE|pyproject|[A-Z_]+\.md)[^)]*)\)")


class Examples(Extension):
    """Shows the section ``Example:`` of a docstring as code, which Griffe does for ``Examples:`` only."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rename the section of one object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page."""
    readme = (_ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    # A picture of the README lies beside the pages.
    files.append(File.generated(config, "index.md", content=readme.replace('src="docs/', 'src="')))
    pages = {file.src_uri for file in files.documentation_pages()}
    listed: set[str] = set()
    config["nav"] = _existing(config["nav"], pages, listed)
    others = sorted(pages - listed)
    if others:
        config["nav"].append({"More": others})
    return files


def _existing(entries: list[Any], pages: set[str], listed: set[str]) -> list[Any]:
    """Return the entries of the navigation without pages that do not exist; note the others in ``listed``."""
    kept: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, below),) = entry.items()
            kept.append({title: _existing(below, pages, listed)})
        elif entry in pages:
            listed.add(entry)
            kept.append(entry)
    return kept


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to the README to the first page, and leave out links to files that are not pages."""
    return _OUTSIDE.sub(r"\1", markdown.replace("](../README.md", "](index.md"))
