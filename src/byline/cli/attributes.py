"""Writes docs/attributes.md from the code: ``python -m byline.cli.attributes > docs/attributes.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from byline.attribution import Attribution
from byline.call_result import CallResult
from byline.genai import attributes as names
from byline.genai.dialects import CONVENTIONS, Row

_HEAD: Final = """# Attributes

Every attribute that byline writes, and the names of the same things in other conventions, which a destination can add.
This page is made from the code by `python -m byline.cli.attributes`.
"""
_CALLER: Final = {
    names.KEY_HASH: "Hash of the key that the caller sent, never the key.",
    names.KEY_ALIAS: "The key's name.",
    names.CALLER_ADDRESS: "The caller's address.",
    names.CALLER_USER_AGENT: "The caller's program.",
    names.ROUTE: "The route that was called: its pattern if the framework tells it (Starlette since 1.7), or its path.",
    names.REQUEST_ID: "The request's id, where it brings one.",
    names.REJECTED: "Which claims were dropped and why, never their values.",
}
_TOTALS: Final = {
    names.LLM_CALLS: "LLM calls of the request.",
    names.LLM_INPUT_TOKENS: "Their prompt tokens.",
    names.LLM_OUTPUT_TOKENS: "Their completion tokens.",
    names.LLM_COST: "Their cost in USD.",
    names.LLM_ERRORS: "How many failed.",
}
_DRAIN: Final = {
    names.APP_TRACE_ID: "The id of the app's own trace, where the span is in the caller's trace.",
    names.STEP_NAME: "Also on the step's own span, which the destination makes.",
}
_DIALECTS: Final = {
    "openinference": "Phoenix, Arize and whatever else reads OpenInference.",
    "openrouter": "As OpenRouter's Broadcast writes them to OpenTelemetry destinations.",
    "litellm": "As LiteLLM's `langfuse_otel` and `otel` callbacks write them.",
    "traceloop": "As OpenLLMetry and Traceloop write them.",
}

_LANGFUSE: Final = """\
`"langfuse"` has no table: it writes what a span is to Langfuse as `langfuse.observation.*`: type, model, parameters,
tokens, cost, time of the first token, level, prompt and metadata. `Langfuse(…)` always does so; name the convention for
an `OTLP(…)` that leads to a collector in front of Langfuse.

What Langfuse has no field for can be filtered by in the metadata of the observation: `byline.*` with underscores and
without its prefix (`gateway_overhead`, `cache_hit`, `caller_address`), and `finish_reasons`, `response_id`, `provider`,
`tool_definitions` and `error_type`. Where the request's own metadata says something else under such a name, byline's
stands under `byline_<name>`. Of the tenant, `organization_id` and `environment_id`, what is known counts."""


def render() -> Iterator[str]:
    """Yield the lines of the page."""
    yield from _HEAD.splitlines()
    attribution, facts = _meanings(Attribution), _meanings(CallResult)
    yield from _section("On LLM spans and the app span: who asked", "attribute", "meaning")
    for field, found in names.ATTRIBUTION.items():
        yield _row(_codes(*found), attribution[field])
    yield _row(_codes(names.METADATA + "<key>"), attribution["metadata"])
    yield from _table("The caller", _CALLER)
    yield from _section("On LLM spans: what the reply said", "attribute", "meaning")
    for field, name in names.CALL_RESULT.items():
        yield _row(_codes(name), facts[field])
    yield _row(_codes(names.PARAMETERS + "<name>"), facts["parameters"])
    yield _row(_codes(names.COST_DETAILS + "<part>"), facts["cost_details"])
    for kind in ("requests", "tokens"):
        yield _row(
            _codes(*(f"byline.ratelimit.{kind}.{part}" for part in ("limit", "remaining", "reset"))), facts[kind]
        )
    yield from _table("On the app span: what its LLM calls add up to", _TOTALS)
    yield from _table("In what a destination gets", _DRAIN)
    yield ""
    yield "## Other dialects"
    yield ""
    yield 'A destination writes these too where you ask for them, e.g. with `OTLP(…, conventions=["openinference"])`.'
    yield ""
    yield from _LANGFUSE.splitlines()
    for dialect, rows in CONVENTIONS.items():
        yield ""
        yield f"### {dialect}"
        yield ""
        yield _DIALECTS[dialect]
        yield from _columns("attribute", "from", "on")
        for row in rows:
            yield _of_dialect(row)


def _of_dialect(row: Row) -> str:
    sources = " or ".join(f"`{source.replace('*', '<key>')}`" for source in row.source)
    return f"| `{row.name.replace('*', '<key>')}` | {sources} | {'LLM spans' if row.llm else 'all spans'} |"


def _table(title: str, rows: dict[str, str]) -> Iterator[str]:
    yield from _section(title, "attribute", "meaning")
    for name, meaning in rows.items():
        yield _row(_codes(name), meaning)


def _section(title: str, *columns: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield from _columns(*columns)


def _columns(*columns: str) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"


def _row(name: str, meaning: str) -> str:
    return f"| {name} | {meaning} |"


def _codes(*found: str) -> str:
    return ", ".join(f"`{name}`" for name in found)


def _meanings(record: Any) -> dict[str, str]:
    """Return what the docstring of a record says of each of its fields."""
    text = inspect.getdoc(record) or ""
    section = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
    return {field: " ".join(meaning.split()).replace("``", "`") for field, meaning in found}


if __name__ == "__main__":
    sys.stdout.write("\n".join(render()) + "\n")
