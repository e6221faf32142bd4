"""Pages that are written from the code are up to date, links work, and the reference has every name."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import byline
from byline import asgi, testing, wsgi
from byline.export import OTLP, Langfuse
from byline.export.options import DestinationOptions, Options
from tests.docs.pages import DOCS, PAGES, ROOT, code_blocks

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.glob("*.md"), *ROOT.glob("examples/**/*.md")])
REFERENCE = (DOCS / "api.md").read_text(encoding="utf-8")
DESTINATIONS = (DOCS / "destinations.md").read_text(encoding="utf-8")
TESTING = (DOCS / "testing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date_with_the_code(name: str) -> None:
    """If not, run ``python -m tests.docs``."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name]()


def test_the_page_of_attributes_has_meanings() -> None:
    page = (DOCS / "attributes.md").read_text(encoding="utf-8")
    assert "| `session.id`, `gen_ai.conversation.id` | The conversation." in page


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_links_of_a_page_have_targets(document: Path) -> None:
    """Every linked file exists, and every linked heading."""
    for name, anchor in re.findall(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)", document.read_text(encoding="utf-8")):
        if name.startswith(("http://", "https://")):
            continue
        linked = (document.parent / name) if name else document
        assert linked.exists(), f"{document.name} links {name}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{document.name} links {name}{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_rows_of_tables_have_a_head_and_as_many_cells(document: Path) -> None:
    """A blank line would end the table, and a bar within a cell begin another one."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = block.splitlines()
        assert len(rows) > 1, rows
        assert re.fullmatch(r"\|[ :|-]+\|", rows[1]), rows[0]
        cells = len(re.findall(r"(?<!\\)\|", rows[0]))
        assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != cells] == []


def section_of(page: str, title: str) -> str:
    """Return the part of a page below a heading."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert match, f"no heading {title}"
    return match[1]


@pytest.mark.parametrize(
    ("title", "function"),
    [
        ("instrument()", byline.instrument),
        ("AttributionMiddleware", asgi.AttributionMiddleware),
        ("AttributionMiddleware", wsgi.AttributionMiddleware),
        ("Functions", byline.flush),
    ],
)
def test_the_reference_has_every_argument(title: str, function: Any) -> None:
    section = section_of(REFERENCE, title)
    for name in set(inspect.signature(function).parameters) - {"app"}:
        assert re.search(rf"[`(]{name}\b", section), name


def test_the_reference_has_every_public_name() -> None:
    for name in byline.__all__:
        assert re.search(rf"`(byline\.)?{name}\b", REFERENCE), name
    for field in byline.Attribution.__struct_fields__:
        assert f"`{field}`" in REFERENCE, field


def test_the_reference_from_docstrings_has_every_public_name() -> None:
    """Except single gateways, which have a page of their own."""
    named = set(re.findall(r"^::: ([\w.]+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE))
    modules = ("asgi", "wsgi", "aiohttp_web", "django", "flask", "logging", "destinations", "testing")
    for module in [byline, *(importlib.import_module(f"byline.{name}") for name in modules)]:
        for name in module.__all__:
            if not inspect.ismodule(getattr(module, name)):
                assert f"{module.__name__}.{name}" in named


@pytest.mark.parametrize("kind", [testing.Gateway, testing.Receiver])
def test_the_page_of_testing_has_every_method_and_argument(kind: type) -> None:
    section = section_of(TESTING, kind.__name__)
    own = {name for base in kind.__mro__[:-1] for name in vars(base) if not name.startswith("_")}
    for name in own - {"respond", "record_request"}:
        assert re.search(rf"`{name}\b", section), name
        member = getattr(kind, name)
        if callable(member):
            for argument in set(inspect.signature(member).parameters) - {"self"}:
                assert re.search(rf"\b{argument}\b", section), f"{name}({argument})"
    for argument in set(inspect.signature(kind).parameters):
        assert re.search(rf"\b{argument}\b", section), argument


def test_the_page_of_testing_has_every_field_of_a_span_and_of_a_request() -> None:
    for kind in (testing.ReceivedSpan, testing.Request):
        for name in kind._fields:
            assert f"`{name}`" in TESTING, name


def test_the_example_of_destinations_is_openrouters() -> None:
    (example,) = (code for page, code in code_blocks("json") if page == "destinations.md")
    assert json.loads(example)["trace"]["trace_id"] == "workflow_12345"


def test_every_setting_of_a_destination_has_a_row() -> None:
    table = DESTINATIONS[DESTINATIONS.index("| setting |") : DESTINATIONS.index("Invalid settings raise")]
    named = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row)))
    settings = set(inspect.signature(DestinationOptions).parameters)
    assert named == settings == {"spans", *Options.__annotations__}


def test_defaults_of_destinations_are_those_of_the_code() -> None:
    langfuse, otlp = Langfuse("pk-lf-1", "sk-lf-1"), OTLP("https://collector.example")
    for name in ("spans", "traces", "unsampled"):
        row = next(line for line in DESTINATIONS.splitlines() if line.startswith(f"| `{name}` |"))
        said = [cell.strip(" `") for cell in row.split("|")[-3:-1]]
        assert said == [f'"{getattr(langfuse.options, name)}"', f'"{getattr(otlp.options, name)}"']


def test_modules_on_the_page_of_development_exist() -> None:
    """A path is relative to the repository, to src/byline or to src/byline/export; placeholders have angle brackets."""
    page = (DOCS / "development.md").read_text(encoding="utf-8")
    roots = [ROOT, DOCS, ROOT / "src" / "byline", ROOT / "src" / "byline" / "export"]
    roots += [path for path in (ROOT / "src" / "byline").iterdir() if path.is_dir()]
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", page))
    assert len(named) > 40
    assert not [name for name in sorted(named) if not any((root / name).exists() for root in roots)]
