"""``python -m tests.docs`` writes docs/attributes.md, docs/gateways.md and docs/settings.md."""

from __future__ import annotations

from tests.docs.pages import DOCS, PAGES

for name, build in PAGES.items():
    (DOCS / name).write_text(build(), encoding="utf-8")
