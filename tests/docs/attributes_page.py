"""Builds docs/attributes.md from the table of attribute names and the docstrings of their records."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from byline.attribution import Attribution
from byline.call_result import CallResult
from byline.genai import attributes as names
from byline.genai.dialects import CONVENTIONS, Row
from tests.genai.provider_replies import PROVIDER_ATTRIBUTES

_HEAD: Final = """# Attributes

Every attribute that byline writes, and the names that a destination can add in other conventions.
`python -m tests.docs` writes this page from the code.
"""
_CALLER: Final = {
    names.KEY_HASH: "Hash of the key that the caller sent, never the key.",
    names.KEY_ALIAS: "The key's name.",
    names.CALLER_ADDRESS: "The caller's address.",
    names.CALLER_USER_AGENT: "The caller's user agent.",
    names.ROUTE: "The route's pattern if the framework provides one (Starlette 1.7 and newer, Litestar, Flask, Bottle, "
    "Django), else the path.",
    names.REQUEST_ID: "The request's id, if the request has one.",
    names.VOUCHED: "The fields whose values your app has stated, by `identity`, `bind()` or `bound()`. All others are "
    "claims of the caller.",
    names.REJECTED: "Which claims were dropped and why, never their values.",
    names.AFTER_RESPONSE: "True on a span that started after the response, or after the `bound` block of a job.",
}
_TOTALS: Final = {
    names.LLM_CALLS: "LLM calls of the request.",
    names.LLM_INPUT_TOKENS: "Their prompt tokens.",
    names.LLM_OUTPUT_TOKENS: "Their completion tokens.",
    names.LLM_COST: "Their cost in USD.",
    names.LLM_ERRORS: "How many failed.",
}
_EXPORTED: Final = {
    names.APP_TRACE_ID: "The id of the app's own trace, if the span was exported into the caller's trace.",
    names.STEP_NAME: "Also on the step span, which the destination creates.",
}
#: Written by `byline.export.openinference`.
_OPENINFERENCE_CONTENT: Final = {
    "llm.input_messages.<n>.message.*": "the messages of the request, from any instrumentation | model calls",
    "llm.output_messages.<n>.message.*": "the messages of the response | model calls",
    "llm.tools.<n>.tool.json_schema": "the offered tools | model calls",
    "input.value": "of a root the first question; of a model call all messages as JSON; of a tool the arguments | "
    "LLM spans, roots",
    "output.value": "of a root the last answer, or the error; of a model call the response; of a tool the result | "
    "LLM spans, roots",
    "input.mime_type": "`application/json` or `text/plain` | LLM spans, roots",
    "output.mime_type": "`application/json` or `text/plain` | LLM spans, roots",
}

_DIALECTS: Final = {
    "openinference": "Phoenix, Arize and other backends that read OpenInference.",
    "openrouter": "As OpenRouter's Broadcast writes them to OpenTelemetry destinations.",
    "litellm": "As LiteLLM's `langfuse_otel` and `otel` callbacks write them.",
    "traceloop": "As OpenLLMetry and Traceloop write them.",
}

_PROVIDERS: Final = """\
"both": OpenTelemetry's own instrumentation of the provider's SDK writes the attribute as well, as the published results
of its conformance suite show; for Cohere there is none. `gen_ai.usage.cache_write.input_tokens` is the newer name of
`gen_ai.usage.cache_creation.input_tokens`. `gen_ai.provider.name` is the name in the conventions if the host is one of
a known provider; of other hosts that speak OpenAI's API the name of the gateway, else the host. `openai.*` is written
for OpenAI and Azure OpenAI only. A test checks byline's spans of every API against the registry and the JSON schemas of
the conventions. One name is not in the registry: `gen_ai.usage.cost`, which Langfuse and OpenRouter use."""

_LANGFUSE: Final = """\
`"langfuse"` has no table: it writes `langfuse.observation.*`, that is type, model, parameters, tokens, cost, time of
the first token, level, prompt and metadata. `Langfuse(…)` always writes them; name the convention for an `OTLP(…)` that
sends to a collector in front of Langfuse.

Conversations in the JSON of the GenAI conventions become OpenAI messages in `langfuse.observation.input` and `.output`,
with `tool_calls`, `tool_call_id` and the offered tools, as Langfuse's lists and chat view read them. A failed model
call without an answer has the output `{"error": {"code", "message"}}`.

Attributes without a Langfuse field are written to the observation's metadata, so you can filter by them: `byline.*`
without the prefix and with underscores (`gateway_overhead`, `cache_hit`, `caller_address`), and `finish_reasons`,
`response_id` (unless the gateway's request id is the same), `provider`, `tool_definitions`, `error_type`, and
`reasoning_tokens` if they are counted as output. Hashes are cut to 12 digits, and money is rounded to 12 decimals. If
the request's own metadata has the same key with another value, byline's value is written as `byline_<name>`.
`Langfuse(…)` does not send the originals of these attributes, because Langfuse would show them a second time. The
metadata of the trace contains the caller's keys alone."""


def attributes_page() -> str:
    """Return the page."""
    return "\n".join(_page_lines()) + "\n"


def _page_lines() -> Iterator[str]:
    yield from _HEAD.splitlines()
    attribution, result = _field_meanings(Attribution), _field_meanings(CallResult)
    yield from _section("On LLM spans and the server span: attribution", "attribute", "meaning")
    for field, attributes in names.ATTRIBUTION.items():
        yield _row(_quote(*attributes), attribution[field])
    yield _row(_quote(names.METADATA + "<key>"), attribution["metadata"])
    yield from _table("The caller", _CALLER)
    yield from _section("On LLM spans: the response", "attribute", "meaning")
    for field, name in names.CALL_RESULT.items():
        yield _row(_quote(name), result[field])
    yield _row(_quote(names.PARAMETERS + "<name>"), result["parameters"])
    yield _row(_quote(names.COST_DETAILS + "<part>"), result["cost_details"])
    for kind in ("requests", "tokens"):
        yield _row(
            _quote(*(f"byline.ratelimit.{kind}.{part}" for part in ("limit", "remaining", "reset"))), result[kind]
        )
    yield from _provider_lines()
    yield from _table("On the server span: the request's totals", _TOTALS)
    yield from _table("On exported spans", _EXPORTED)
    yield ""
    yield "## Other dialects"
    yield ""
    yield 'A destination writes these as well if you ask for them, e.g. with `OTLP(…, conventions=["openinference"])`.'
    yield ""
    yield from _LANGFUSE.splitlines()
    for dialect, rows in CONVENTIONS.items():
        yield ""
        yield f"### {dialect}"
        yield ""
        yield _DIALECTS[dialect]
        yield from _columns("attribute", "from", "on")
        for row in rows:
            yield _dialect_row(row)
        if dialect == "openinference":
            for name, meaning in _OPENINFERENCE_CONTENT.items():
                yield f"| `{name}` | {meaning} |"


def _provider_lines() -> Iterator[str]:
    rows = json.loads(PROVIDER_ATTRIBUTES.read_text(encoding="utf-8"))
    every = sorted({name for row in rows.values() for side in row.values() for name in side or ()})
    yield from _section("On byline's own LLM spans, by provider", "attribute", *rows)
    for name in every:
        yield _row(_quote(name), " | ".join(_who_writes(name, row) for row in rows.values()))
    yield ""
    yield from _PROVIDERS.splitlines()


def _who_writes(name: str, row: dict[str, Any]) -> str:
    return {(True, True): "both", (True, False): "byline", (False, True): "OTel", (False, False): "–"}[
        (name in row["byline"], name in (row["opentelemetry"] or ()))
    ]


def _dialect_row(row: Row) -> str:
    sources = " or ".join(f"`{source.replace('*', '<key>')}`" for source in row.source)
    return f"| `{row.name.replace('*', '<key>')}` | {sources} | {'LLM spans' if row.llm else 'all spans'} |"


def _table(title: str, rows: dict[str, str]) -> Iterator[str]:
    yield from _section(title, "attribute", "meaning")
    for name, meaning in rows.items():
        yield _row(_quote(name), meaning)


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


def _quote(*texts: str) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _field_meanings(record: Any) -> dict[str, str]:
    """Return the meaning of each field from the ``Attributes`` section of a docstring."""
    text = inspect.getdoc(record) or ""
    section = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    fields = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
    return {field: " ".join(meaning.split()).replace("``", "`") for field, meaning in fields}
