"""The pages that are written from the code, and the code blocks of all pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.docs.attributes_page import attributes_page
from tests.docs.settings_page import settings_page
from tests.frameworks import cells
from tests.gateways.document import page as gateways_page
from tests.matrix import reach, table

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final[dict[str, Callable[[], str]]] = {
    "attributes.md": attributes_page,
    "frameworks.md": cells.page,
    "gateways.md": gateways_page,
    # From the recorded verdicts; ``python -m tests.matrix`` records them anew.
    "reach.md": lambda: reach.write(table.recorded()),
    "settings.md": settings_page,
}


def code_blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield page and text of each code block in a language, of the README and of docs/."""
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield path.name, block
