"""What Langfuse's server makes of OTLP spans, after its ingestion code: the two write paths.

``legacy`` keeps a trace record of its own over which events are merged; ``direct`` (version 4) keeps
everything on spans and aggregates them into traces. What is read off one span: `langfuse_spans`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from byline.testing import ReceivedSpan
from tests.export import langfuse_spans as read
from tests.export.langfuse_spans import moment

__all__ = [
    "Observation",
    "Path",
    "Trace",
    "compact_cell",
    "moment",
    "observations",
    "session_cost",
    "shown",
    "traces",
]

Path = Literal["legacy", "direct"]

#: Longer than this, a trace's name makes the server refuse all that its event says.
_MAX_NAME = 1000
#: Keys that make a span which is no root update the trace; with a dot at the end all below them.
_UPDATES = (
    "langfuse.trace.name",
    "langfuse.trace.input",
    "langfuse.trace.output",
    "langfuse.trace.metadata",
    "langfuse.trace.metadata.",
    "langfuse.trace.public",
    "langfuse.trace.tags",
    "langfuse.user.id",
    "langfuse.session.id",
    "user.id",
    "session.id",
)


class Observation(NamedTuple):
    """A span as Langfuse shows it."""

    id: str
    trace_id: str
    parent: str | None
    type: str
    name: str
    level: str
    status_message: str | None
    model: str | None
    parameters: dict[str, Any]
    usage: dict[str, float]
    cost: dict[str, float]
    completion_start: datetime | None
    prompt: tuple[str, int] | None
    input: Any
    output: Any
    metadata: dict[str, Any]
    session: str | None
    user: str | None
    environment: str


class Trace(NamedTuple):
    """A trace as Langfuse shows it."""

    name: str | None
    session: str | None
    user: str | None
    tags: list[str]
    release: str | None
    version: str | None
    environment: str
    public: bool
    metadata: dict[str, Any]
    input: Any
    output: Any


def shown(spans: Sequence[ReceivedSpan], path: Path) -> list[Observation]:
    """The spans as Langfuse shows them, without refused spans."""
    found = [_observe(span, path) for span in spans]
    return [item for item in found if item is not None]


def observations(spans: Sequence[ReceivedSpan], path: Path) -> dict[str, Observation]:
    """The spans as Langfuse shows them, by name; the last one of each name."""
    return {item.name: item for item in shown(spans, path)}


def traces(spans: Sequence[ReceivedSpan], path: Path) -> dict[str, Trace]:
    """The traces as Langfuse shows them, by id. Spans are in the order of their arrival."""
    ids = dict.fromkeys(span.trace_id for span in spans)
    merge = _merge if path == "legacy" else _aggregate
    return {trace_id: merge([span for span in spans if span.trace_id == trace_id]) for trace_id in ids}


def session_cost(spans: Sequence[ReceivedSpan], path: Path) -> dict[str, float]:
    """The sums of the sessions' page: only of observations that have the session themselves."""
    costs: dict[str, float] = {}
    for item in shown(spans, path):
        if item.session is not None and "total" in item.cost:
            costs[item.session] = costs.get(item.session, 0.0) + item.cost["total"]
    return costs


def _observe(span: ReceivedSpan, path: Path) -> Observation | None:
    a = span.attributes
    kind = read.type_of(a)
    agents = read.is_agents(a)
    cost = {} if agents else read.cost_of(a)
    prompt = read.prompt_of(a) if kind == "generation" else None
    if path == "legacy":
        if prompt is not None and (isinstance(prompt[1], bool) or not isinstance(prompt[1], int)):
            return None
        if not all(read.is_number(value) for value in cost.values()):
            cost = {}
    given, returned = read.content_of(span)
    usage = {} if agents else read.usage_of(a)
    model = None if agents else read.model_of(a)
    if model and not usage and read.level_of(span) != "ERROR":
        usage = read.counted_for(given, returned)
    metadata = read.metadata_of(a, "observation") | (read.metadata_of(a, "trace") if path == "direct" else {})
    return Observation(
        id=span.span_id,
        trace_id=span.trace_id,
        parent=span.parent_id,
        type=kind,
        name=read.name_of(span),
        level=read.level_of(span),
        status_message=read.first(a, "langfuse.observation.status_message") or span.status_message or None,
        model=model,
        parameters=read.parameters_of(a),
        usage=usage,
        cost=cost,
        completion_start=read.completion_start_of(span),
        prompt=prompt,
        input=given,
        output=returned,
        metadata={**metadata, **read.further_of(span)},
        session=read.session_of(a),
        user=read.user_of(a),
        environment=read.environment_of(span),
    )


def _merge(spans: Sequence[ReceivedSpan]) -> Trace:
    """Merge trace events by their spans' start: a missing value keeps the earlier one, null overwrites it."""
    events = [
        event
        for number, span in enumerate(spans)
        # The first span of a trace creates the trace.
        if (event := _event(span)) is not None or (number == 0 and (event := _shallow(span)))
    ]
    record: dict[str, Any] = {}
    for event in sorted(events, key=lambda event: event["start"]):
        for field, value in event.items():
            if field == "tags":
                record["tags"] = sorted({*record.get("tags", ()), *value})
            elif field == "metadata":
                record["metadata"] = _deep(record.get("metadata", {}), value)
            elif field in ("input", "output"):
                record[field] = value or record.get(field)
            elif field != "environment" or "environment" not in record:
                record[field] = value
    del record["start"]
    blank = Trace(None, None, None, [], None, None, "default", public=False, metadata={}, input=None, output=None)
    return blank._replace(**record)


def _shallow(span: ReceivedSpan) -> dict[str, Any]:
    return {"start": span.start, "environment": read.environment_of(span)}


def _event(span: ReceivedSpan) -> dict[str, Any] | None:
    """The event by which a span creates or updates its trace, ``None`` if there is none."""
    a = span.attributes
    root = span.parent_id is None or a.get("langfuse.internal.as_root") in (True, "true")
    below = tuple(key for key in _UPDATES if key.endswith("."))
    if not root and not any(a.get(key) for key in _UPDATES) and not any(key.startswith(below) for key in a):
        return None
    metadata = {
        **_resource_metadata(span),
        **read.metadata_of(a, "trace"),
        **({**read.metadata_of(a, "observation"), **read.further_of(span)} if root else {}),
    }
    given, returned = read.content_of(span) if root else (None, None)
    said = {
        "name": a.get("langfuse.trace.name") or (read.name_of(span) if root else None),
        "session": read.session_of(a),
        "user": read.user_of(a),
    }
    if len(said["name"] or "") > _MAX_NAME:
        return None
    return {
        **_shallow(span),
        **{field: value for field, value in said.items() if value is not None},
        "release": read.release_of(span),
        "version": read.version_of(span),
        "public": read.is_public(a),
        "tags": read.tags_of(a),
        "metadata": metadata,
        "input": a.get("langfuse.trace.input") or given,
        "output": a.get("langfuse.trace.output") or returned,
    }


def _resource_metadata(span: ReceivedSpan) -> dict[str, Any]:
    prefix = "langfuse.trace.metadata."
    return {key[len(prefix) :]: value for key, value in span.resource.items() if key.startswith(prefix)}


def _deep(record: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    merged = dict(record)
    for key, value in told.items():
        held = merged.get(key)
        merged[key] = _deep(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def _aggregate(spans: Sequence[ReceivedSpan]) -> Trace:
    """Take the last value of each field, in the order of writing."""
    last: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for span in spans:
        a = span.attributes
        said = {
            "session": read.session_of(a),
            "user": read.user_of(a),
            "tags": read.tags_of(a),
            "release": read.release_of(span),
            "version": read.version_of(span),
            "environment": read.environment_of(span),
            "name": a.get("langfuse.trace.name"),
        }
        last |= {field: value for field, value in said.items() if value}
        if span.parent_id is None or a.get("langfuse.internal.is_app_root") is True:
            last.setdefault("root", read.name_of(span))
        if span.parent_id is None:
            metadata = read.metadata_of(a, "trace") | read.metadata_of(a, "observation") | read.further_of(span)
            last["input"], last["output"] = read.content_of(span)
    return Trace(
        name=last.get("name") or last.get("root"),
        session=last.get("session"),
        user=last.get("user"),
        tags=last.get("tags", []),
        release=last.get("release"),
        version=last.get("version"),
        environment=last["environment"],
        public=any(read.is_public(span.attributes) for span in spans),
        metadata=metadata,
        input=last.get("input"),
        output=last.get("output"),
    )


def compact_cell(value: str | None) -> Any:
    """Return what the columns Input and Output of a list show of a value, as Langfuse 4.16 reads it."""
    try:
        parsed = json.loads(value or "null")
    except ValueError:
        return value
    if isinstance(parsed, dict) and "messages" in parsed:
        parsed = parsed["messages"]
    last = parsed[-1] if isinstance(parsed, list) and parsed else parsed
    return last.get("content") if isinstance(last, dict) and "role" in last else None


def tool_columns(found: Observation) -> tuple[list[str], list[tuple[str, Any]]]:
    """Return the tools that were offered, and names and arguments of those that were called, as Langfuse 4.16 does.

    Offered ones stand in ``tools`` of the input, calls in ``tool_calls`` of the output. A tool counts as called if a
    call of its name is there.
    """
    given, returned = _parsed(found.input), _parsed(found.output)
    offered = given.get("tools", []) if isinstance(given, dict) else []
    messages = returned if isinstance(returned, list) else [returned]
    calls = [
        call["function"] for message in messages if isinstance(message, dict) for call in message.get("tool_calls", [])
    ]
    names = [tool.get("function", tool)["name"] for tool in offered]
    return names, [(call["name"], json.loads(call["arguments"])) for call in calls]


def _parsed(value: str | None) -> Any:
    try:
        return json.loads(value or "null")
    except ValueError:
        return value
