"""What Langfuse's server makes of OTLP spans, after its ingestion code: the two write paths.

Each rule stands where a row of its mapping stands. ``legacy`` keeps a trace record of its own over which
events are merged; ``direct`` (version 4) keeps everything on spans and aggregates them into traces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, NamedTuple

from byline.testing import ReceivedSpan

Path = Literal["legacy", "direct"]

TYPES = {"span", "generation", "event", "embedding", "agent", "tool", "chain", "retriever", "guardrail", "evaluator"}
OPERATIONS = {
    **dict.fromkeys(("chat", "completion", "text_completion", "generate_content", "generate"), "generation"),
    "embeddings": "embedding",
    "invoke_agent": "agent",
    "create_agent": "agent",
    "execute_tool": "tool",
}
KINDS = {"LLM": "generation", "EMBEDDING": "embedding", "RERANKER": None}
TRACE_UPDATES = (
    "langfuse.trace.name",
    "langfuse.trace.input",
    "langfuse.trace.output",
    "langfuse.trace.metadata",
    "langfuse.trace.public",
    "langfuse.trace.tags",
    "langfuse.user.id",
    "langfuse.session.id",
    "user.id",
    "session.id",
)


class Observation(NamedTuple):
    """What one span is shown as."""

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
    """What one trace is shown as."""

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


def observations(spans: Sequence[ReceivedSpan], path: Path) -> dict[str, Observation]:
    """What is shown of each span, by its name. A span that is refused is missing."""
    found = [_observe(span, path) for span in spans]
    return {item.name: item for item in found if item is not None}


def traces(spans: Sequence[ReceivedSpan], path: Path) -> dict[str, Trace]:
    """What is shown of each trace, by its id."""
    ids = {span.trace_id for span in spans}
    merge = _merge if path == "legacy" else _aggregate
    return {trace_id: merge([span for span in spans if span.trace_id == trace_id]) for trace_id in ids}


def session_cost(spans: Sequence[ReceivedSpan], path: Path) -> dict[str, float]:
    """What the sessions' page adds up: only of observations that carry the session themselves."""
    costs: dict[str, float] = {}
    for item in observations(spans, path).values():
        if item.session is not None and "total" in item.cost:
            costs[item.session] = costs.get(item.session, 0.0) + item.cost["total"]
    return costs


# --- one span


def _observe(span: ReceivedSpan, path: Path) -> Observation | None:
    a = span.attributes
    kind = _type(a)
    agent = a.get("gen_ai.operation.name") in ("invoke_agent", "agent_step")
    cost = {} if agent else _cost(a)
    version = _first(a, "langfuse.observation.prompt.version", "langfuse.prompt.version")
    prompt_name = _first(a, "langfuse.observation.prompt.name", "langfuse.prompt.name")
    if path == "legacy":
        if version is not None and not isinstance(version, int):
            return None
        if any(not isinstance(value, int | float) for value in cost.values()):
            cost = {}
    given, returned = _content(a)
    return Observation(
        id=span.span_id,
        trace_id=span.trace_id,
        parent=span.parent_id,
        type=kind,
        name=_name(span),
        level=_level(span),
        status_message=_first(a, "langfuse.observation.status_message") or span.status_message or None,
        model=None if agent else _model(a),
        parameters=_parameters(a),
        usage={} if agent else _usage(a),
        cost=cost,
        completion_start=_completion_start(span),
        prompt=(prompt_name, version) if kind == "generation" and prompt_name and version is not None else None,
        input=given,
        output=returned,
        metadata=_metadata(a, "observation") | (_metadata(a, "trace") if path == "direct" else {}),
        session=_session(a),
        user=_user(a),
        environment=_environment(span),
    )


def _type(a: Mapping[str, Any]) -> str:
    if a.get("langfuse.observation.type") in TYPES:
        return str(a["langfuse.observation.type"])
    kind = a.get("openinference.span.kind")
    if kind is not None and (found := KINDS.get(kind, kind.lower())) in TYPES:
        return str(found)
    if a.get("gen_ai.operation.name") in OPERATIONS:
        return OPERATIONS[a["gen_ai.operation.name"]]
    if _first(a, "gen_ai.tool.name", "gen_ai.tool.call.id"):
        return "tool"
    models = ("langfuse.observation.model.name", "gen_ai.request.model", "gen_ai.response.model", "llm.model_name")
    return "generation" if _first(a, *models, "model") else "span"


def _name(span: ReceivedSpan) -> str:
    return str(
        _first(span.attributes, "gen_ai.tool.name", "genkit:name", "logfire.msg", "ai.toolCall.name") or span.name
    )


def _level(span: ReceivedSpan) -> str:
    stated = str(span.attributes.get("langfuse.observation.level", "")).upper()
    levels = {"INFO": "DEFAULT", "LOG": "DEFAULT", "WARN": "WARNING", "FATAL": "ERROR", "CRITICAL": "ERROR"}
    if stated:
        return levels.get(stated, stated)
    return "ERROR" if span.status == "ERROR" else "DEFAULT"


def _model(a: Mapping[str, Any]) -> str | None:
    found = _first(
        a,
        "langfuse.observation.model.name",
        "gen_ai.response.model",
        "ai.model.id",
        "gen_ai.request.model",
        "llm.response.model",
        "llm.model_name",
        "model",
    )
    return found if found is None or isinstance(found, str) else json.dumps(found)


def _parameters(a: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("langfuse.observation.model.parameters", "llm.invocation_parameters", "model_config"):
        if a.get(key):
            found = json.loads(a[key])
            break
    else:
        found = {
            key.removeprefix("gen_ai.request."): value
            for key, value in a.items()
            if key.startswith("gen_ai.request.") and key != "gen_ai.request.model"
        }
    plain = (str, int, float)
    return {k: v if isinstance(v, plain) and not isinstance(v, bool) else json.dumps(v) for k, v in found.items()}


def _usage(a: Mapping[str, Any]) -> dict[str, float]:
    stated = a.get("langfuse.observation.usage_details")
    if stated:
        return dict(json.loads(stated)) if isinstance(stated, str) else {}
    names = {"prompt_tokens": "input", "input_tokens": "input", "prompt": "input"}
    names |= {"completion_tokens": "output", "output_tokens": "output", "completion": "output", "total_tokens": "total"}
    found: dict[str, float] = {}
    for key, value in a.items():
        if key.startswith(("gen_ai.usage.", "llm.token_count.")) and key != "gen_ai.usage.cost":
            short = key.removeprefix("gen_ai.usage.").removeprefix("llm.token_count.")
            try:
                found[names.get(short, short)] = float(value)
            except (TypeError, ValueError):
                continue
    for part, name in (("cache_read.input_tokens", "input_cached_tokens"),):
        if part in found:
            found[name] = found.pop(part)
            found["input"] = found.get("input", 0) - found[name]
    return found


def _cost(a: Mapping[str, Any]) -> dict[str, Any]:
    stated = a.get("langfuse.observation.cost_details")
    if stated:
        return dict(json.loads(stated)) if isinstance(stated, str) else {}
    for key in ("gen_ai.usage.cost", "llm.cost.total"):
        if a.get(key):
            return {"total": a[key]}
    return {}


def _completion_start(span: ReceivedSpan) -> datetime | None:
    stated = span.attributes.get("langfuse.observation.completion_start_time")
    if stated:
        return datetime.fromisoformat(stated.strip('"').replace("Z", "+00:00"))
    milliseconds = _first(span.attributes, "ai.response.msToFirstChunk", "ai.stream.msToFirstChunk")
    if milliseconds:
        return moment(span.start) + timedelta(milliseconds=float(milliseconds))
    return None


def _content(a: Mapping[str, Any]) -> tuple[Any, Any]:
    pairs = (
        ("langfuse.observation.input", "langfuse.observation.output"),
        ("traceloop.entity.input", "traceloop.entity.output"),
        ("input.value", "output.value"),
        ("gen_ai.prompt", "gen_ai.completion"),
        ("gen_ai.input.messages", "gen_ai.output.messages"),
        ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
    )
    for given, returned in pairs:
        if given in a or returned in a:
            # Whichever pair is there first counts; the other half of it is then blank.
            return a.get(given), a.get(returned)
    return None, None


# --- what spans say of their trace


def _session(a: Mapping[str, Any]) -> str | None:
    found = _first(a, "langfuse.session.id", "session.id", "gen_ai.conversation.id", *_metadata_keys("session_id"))
    return found if found is None or isinstance(found, str) else json.dumps(found)


def _user(a: Mapping[str, Any]) -> str | None:
    found = _first(a, "langfuse.user.id", "user.id", *_metadata_keys("user_id"))
    return found if found is None or isinstance(found, str) else json.dumps(found)


def _tags(a: Mapping[str, Any]) -> list[str]:
    found = _first(a, "langfuse.trace.tags", "langfuse.tags", *_metadata_keys("tags"), "tag.tags")
    if found is None:
        return []
    if isinstance(found, list | tuple):
        return [str(tag) for tag in found]
    if found.strip().startswith("["):
        return [str(tag) for tag in json.loads(found)]
    return [tag.strip() for tag in found.split(",")]


def _environment(span: ReceivedSpan) -> str:
    for key in ("langfuse.environment", "deployment.environment.name", "deployment.environment"):
        found = span.attributes.get(key) or span.resource.get(key)
        if found:
            plain = str(found).lower()
            while re.match(r"langfuse[-_]?", plain):
                plain = re.sub(r"^langfuse[-_]?", "", plain)
            return plain[:40] if re.fullmatch(r"[a-z0-9-_]+", plain[:40]) else "default"
    return "default"


def _release(span: ReceivedSpan) -> str | None:
    return span.attributes.get("langfuse.release") or span.resource.get("langfuse.release")


def _version(span: ReceivedSpan) -> str | None:
    return span.attributes.get("langfuse.version") or span.resource.get("service.version")


def _public(a: Mapping[str, Any]) -> bool | None:
    found = _first(a, "langfuse.trace.public", "langfuse.public")
    return None if found is None else found in (True, "true")


def _metadata(a: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Only what is filterable: the keys that stand at the top of the metadata."""
    root = f"langfuse.{of}.metadata"
    found: dict[str, Any] = json.loads(a[root]) if isinstance(a.get(root), str) else {}
    return found | {key[len(root) + 1 :]: value for key, value in a.items() if key.startswith(root + ".")}


def _metadata_keys(field: str) -> tuple[str, str]:
    return f"langfuse.observation.metadata.langfuse_{field}", f"langfuse.trace.metadata.langfuse_{field}"


# --- traces


def _merge(spans: Sequence[ReceivedSpan]) -> Trace:
    """Merge trace events by start time; blanks overwrite where the server writes null."""
    record: dict[str, Any] = {"tags": set(), "metadata": {}}
    for span in sorted(spans, key=lambda span: span.start):
        a = span.attributes
        root = span.parent_id is None or str(a.get("langfuse.internal.as_root")).lower() == "true"
        updates = any(a.get(key) for key in TRACE_UPDATES) or any(k.startswith("langfuse.trace.metadata.") for k in a)
        record.setdefault("environment", _environment(span))
        if not root and not updates:
            continue
        name = a.get("langfuse.trace.name") or (_name(span) if root else None)
        if name is not None and len(name) > 1000:
            continue
        if name is not None:
            record["name"] = name
        for field, value in (("session", _session(a)), ("user", _user(a))):
            if value is not None:
                record[field] = value
        record["release"], record["version"] = _release(span), _version(span)
        record["public"] = bool(_public(a))
        record["tags"] |= set(_tags(a))
        record["metadata"] |= _metadata(a, "trace") | (_metadata(a, "observation") if root else {})
        given, returned = _content(a) if root else (None, None)
        record["input"] = a.get("langfuse.trace.input") or given or record.get("input")
        record["output"] = a.get("langfuse.trace.output") or returned or record.get("output")
    return Trace(
        name=record.get("name"),
        session=record.get("session"),
        user=record.get("user"),
        tags=sorted(record["tags"]),
        release=record.get("release"),
        version=record.get("version"),
        environment=record["environment"],
        public=record.get("public", False),
        metadata=record["metadata"],
        input=record.get("input"),
        output=record.get("output"),
    )


def _aggregate(spans: Sequence[ReceivedSpan]) -> Trace:
    """Take the latest value that is not blank; tags are the last span's that has any."""
    ordered = sorted(spans, key=lambda span: span.start)
    last: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for span in ordered:
        a = span.attributes
        values = {
            "session": _session(a),
            "user": _user(a),
            "tags": _tags(a),
            "release": _release(span),
            "version": _version(span),
            "environment": _environment(span),
            "name": a.get("langfuse.trace.name"),
        }
        last |= {field: value for field, value in values.items() if value}
        if span.parent_id is None:
            metadata = _metadata(a, "trace") | _metadata(a, "observation")
            last["input"], last["output"] = _content(a)
            last.setdefault("root", _name(span))
    return Trace(
        name=last.get("name") or last.get("root"),
        session=last.get("session"),
        user=last.get("user"),
        tags=last.get("tags", []),
        release=last.get("release"),
        version=last.get("version"),
        environment=last["environment"],
        public=any(_public(span.attributes) for span in ordered),
        metadata=metadata,
        input=last.get("input"),
        output=last.get("output"),
    )


def moment(nanoseconds: int) -> datetime:
    """The time of a span's timestamp."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=nanoseconds // 1000)


def _first(a: Mapping[str, Any], *keys: str) -> Any:
    return next((a[key] for key in keys if a.get(key)), None)
