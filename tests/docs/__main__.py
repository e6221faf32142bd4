"""``python -m tests.docs`` writes the pages of docs/ that are built from the code and from recorded results."""

from __future__ import annotations

from tests.docs.pages import DOCS, PAGES

for name, build in PAGES.items():
    (DOCS / name).write_text(build(), encoding="utf-8")
