"""What Langfuse's server reads off one OTLP span, row by row of its mapping; both write paths read alike.

Of the first key that is there and says something the value counts. Types that only Genkit, Vercel's AI
SDK, Flue and LiveKit give are left out: every span that leaves for Langfuse states its own, which wins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from byline.testing import ReceivedSpan

Attributes = Mapping[str, Any]

TYPES: Final = {
    *("span", "generation", "event", "embedding", "agent"),
    *("tool", "chain", "retriever", "guardrail", "evaluator"),
}
_KINDS: Final = {"LLM": "generation", "RERANKER": None}
_OPERATIONS: Final = {
    **dict.fromkeys(("chat", "completion", "text_completion", "generate_content", "generate"), "generation"),
    "embeddings": "embedding",
    **dict.fromkeys(("invoke_agent", "create_agent"), "agent"),
    "execute_tool": "tool",
}
_LEVELS: Final = {
    **dict.fromkeys(("DEBUG", "TRACE", "VERBOSE"), "DEBUG"),
    **dict.fromkeys(("DEFAULT", "INFO", "LOG"), "DEFAULT"),
    **dict.fromkeys(("WARN", "WARNING"), "WARNING"),
    **dict.fromkeys(("ERROR", "FATAL", "CRITICAL"), "ERROR"),
}
_INPUTS: Final = ("prompt_tokens", "input_tokens", "prompt")
_OUTPUTS: Final = ("completion_tokens", "output_tokens", "completion")
#: Token counts with a column of their own: Langfuse's name, and the ends of the attribute names.
_PARTS: Final = {
    "input_cached_tokens": ("cache_read.input_tokens", "cache_read_input_tokens", "prompt_details.cache_read"),
    "input_cache_creation": (
        *("cache_creation.input_tokens", "cache_write.input_tokens", "cache_creation_input_tokens"),
        "prompt_details.cache_write",
    ),
    "output_reasoning_tokens": ("reasoning.output_tokens", "reasoning_tokens", "completion_details.reasoning"),
    "output_audio_tokens": ("audio.output_tokens", "completion_details.audio"),
}
#: Attributes of input and output, besides those of other languages' scopes.
_CONTENT: Final[tuple[tuple[str, str], ...]] = (
    ("langfuse.observation.input", "langfuse.observation.output"),
    ("event gen_ai.client.inference.operation.details", "event gen_ai.client.inference.operation.details"),
    ("event gen_ai.*.message", "event gen_ai.choice"),
    ("event gen_ai.content.prompt", "event gen_ai.content.completion"),
    ("gcp.vertex.agent.llm_request", "gcp.vertex.agent.llm_response"),
    ("prompt", "all_messages_events"),
    ("events", "events"),
    ("mlflow.spanInputs", "mlflow.spanOutputs"),
    ("traceloop.entity.input", "traceloop.entity.output"),
    ("input.value", "output.value"),
    ("input", "output"),
    ("pydantic_ai.all_messages", "final_result"),
    ("tool_arguments", "tool_response"),
    ("gen_ai.prompt*", "gen_ai.completion*"),
    ("llm.input_messages*", "llm.output_messages*"),
    ("gen_ai.input.messages", "gen_ai.output.messages"),
    ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
)


def first(a: Attributes, *keys: str) -> Any:
    """The first of these that is there and says something."""
    return next((a[key] for key in keys if a.get(key)), None)


def text(value: Any) -> str | None:
    """A value as JavaScript's JSON.stringify writes it, unless it is text."""
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def moment(nanoseconds: int) -> datetime:
    """The time of a span's timestamp."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=nanoseconds // 1000)


# --- the observation


def type_of(a: Attributes) -> str:
    if a.get("langfuse.observation.type") in TYPES:
        return str(a["langfuse.observation.type"])
    kind = str(a.get("openinference.span.kind", ""))
    if (found := _KINDS.get(kind, kind.lower())) in TYPES:
        return str(found)
    if a.get("gen_ai.operation.name") in _OPERATIONS:
        return _OPERATIONS[a["gen_ai.operation.name"]]
    if first(a, "gen_ai.tool.name", "gen_ai.tool.call.id"):
        return "tool"
    models = ("langfuse.observation.model.name", "gen_ai.request.model", "gen_ai.response.model", "llm.model_name")
    return "generation" if first(a, *models, "model") else "span"


def is_agents(a: Attributes) -> bool:
    """Whether model, usage and cost are not read at all."""
    return a.get("gen_ai.operation.name") in ("invoke_agent", "agent_step")


def name_of(span: ReceivedSpan) -> str:
    a = span.attributes
    found = first(a, "gen_ai.tool.name", "genkit:name", "logfire.msg", "ai.toolCall.name")
    if found is None and a.get("ai.operationId"):
        found = ":".join(str(a[key]) for key in ("ai.telemetry.functionId", "ai.operationId") if a.get(key))
    return str(found or span.name)


def level_of(span: ReceivedSpan) -> str:
    stated = _LEVELS.get(str(span.attributes.get("langfuse.observation.level", "")).upper())
    return stated or ("ERROR" if span.status == "ERROR" else "DEFAULT")


def model_of(a: Attributes) -> str | None:
    keys = ("langfuse.observation.model.name", "gen_ai.response.model", "ai.model.id", "gen_ai.request.model")
    return text(first(a, *keys, "llm.response.model", "llm.model_name", "model"))


def parameters_of(a: Attributes) -> dict[str, Any]:
    stated = first(a, "langfuse.observation.model.parameters", "llm.invocation_parameters", "model_config")
    if stated is not None:
        found = json_object(stated)
    else:
        found = {
            key.removeprefix(prefix): value
            for prefix in ("gen_ai.request.", "llm.invocation_parameters.")
            for key, value in a.items()
            if key.startswith(prefix) and key != "gen_ai.request.model"
        }
    return {key: value if is_number(value) else text(value) for key, value in found.items()}


def usage_of(a: Attributes) -> dict[str, float]:
    stated = a.get("langfuse.observation.usage_details")
    if stated:
        return json_object(stated)
    found: dict[str, float] = {}
    for key, value in a.items():
        short = re.fullmatch(r"(?:gen_ai\.usage|llm\.token_count)\.(?!cost$)(.+)", key)
        if short is not None:
            try:
                found[short[1]] = float(value)
            except (TypeError, ValueError):
                continue
    return _count(found)


def counted_for(given: Any, returned: Any) -> dict[str, float]:
    """Token counts that the server estimates for a model call without usage; the server prices them too."""
    found = {"input": given, "output": returned}
    counts: dict[str, float] = {side: len(str(value)) // 4 + 1 for side, value in found.items() if value}
    return {**counts, "total": sum(counts.values())} if counts else {}


def _count(found: dict[str, float]) -> dict[str, float]:
    counted: dict[str, float] = {}
    for whole, names in (("input", _INPUTS), ("output", _OUTPUTS)):
        stated = [found.pop(name) for name in names if name in found]
        if stated:
            counted[whole] = stated[0]
    if "total_tokens" in found:
        counted["total"] = found.pop("total_tokens")
    for part, spellings in _PARTS.items():
        stated = [found.pop(name) for name in spellings if name in found]
        if stated:
            counted[part] = stated[0]
            whole = part.partition("_")[0]
            counted[whole] = counted.get(whole, 0) - stated[0]
    return {**counted, **found}


def cost_of(a: Attributes) -> dict[str, Any]:
    stated = a.get("langfuse.observation.cost_details")
    if stated:
        return json_object(stated)
    total = first(a, "gen_ai.usage.cost", "llm.cost.total")
    return {} if total is None else {"total": total}


def completion_start_of(span: ReceivedSpan) -> datetime | None:
    stated = span.attributes.get("langfuse.observation.completion_start_time")
    if stated:
        return datetime.fromisoformat(stated.strip('"').replace("Z", "+00:00"))
    milliseconds = first(span.attributes, "ai.response.msToFirstChunk", "ai.stream.msToFirstChunk")
    return moment(span.start + int(float(milliseconds) * 1e6)) if milliseconds else None


def prompt_of(a: Attributes) -> tuple[Any, Any] | None:
    """Name and version of the prompt, of which both are needed."""
    name = first(a, "langfuse.observation.prompt.name", "langfuse.prompt.name")
    version = first(a, "langfuse.observation.prompt.version", "langfuse.prompt.version")
    if name is None and version is None:
        linked = json_object(a.get("ai.telemetry.metadata.langfusePrompt"))
        name, version = linked.get("name"), linked.get("version")
    return (name, version) if name and version is not None else None


def content_of(span: ReceivedSpan) -> tuple[Any, Any]:
    """Input and output: of the first pair of places of which one is there, although the other is blank then."""
    for places in _CONTENT:
        given, returned = (_content_at(span, place) for place in places)
        if given is not None or returned is not None:
            if places[0] == "gen_ai.input.messages" and span.attributes.get("gen_ai.system_instructions"):
                given = [span.attributes["gen_ai.system_instructions"], given]
            return given, returned
    return None, None


def _content_at(span: ReceivedSpan, place: str) -> Any:
    if place.startswith("event "):
        wanted = re.compile(re.escape(place[6:]).replace(r"\*", "[a-z]+"))
        return [event["attributes"] for event in span.events if wanted.fullmatch(event["name"])] or None
    if not place.endswith("*"):
        return span.attributes.get(place)
    place = place[:-1]
    below = {key[len(place) + 1 :]: value for key, value in span.attributes.items() if key.startswith(place + ".")}
    numbered = {key: value for key, value in below.items() if key[0].isdigit()}
    return span.attributes.get(place) or numbered or None


# --- trace attributes of a span


def session_of(a: Attributes) -> str | None:
    keys = ("langfuse.session.id", "session.id", "gen_ai.conversation.id", *_langchains("session_id"))
    return text(first(a, *keys, "ai.telemetry.metadata.sessionId"))


def user_of(a: Attributes) -> str | None:
    return text(first(a, "langfuse.user.id", "user.id", *_langchains("user_id"), "ai.telemetry.metadata.userId"))


def tags_of(a: Attributes) -> list[str]:
    keys = ("langfuse.trace.tags", "langfuse.tags", *_langchains("tags"), "ai.telemetry.metadata.tags", "tag.tags")
    found = first(a, *keys)
    if isinstance(found, str):
        found = json.loads(found) if found.strip().startswith("[") else [tag.strip() for tag in found.split(",")]
    return [str(tag) for tag in found or ()]


def environment_of(span: ReceivedSpan) -> str:
    for key in ("langfuse.environment", "deployment.environment.name", "deployment.environment"):
        found = span.attributes.get(key) or span.resource.get(key)
        if found:
            plain = re.sub(r"^(langfuse[-_]?)+", "", str(found).lower())[:40]
            return plain if re.fullmatch(r"[a-z0-9_-]+", plain) else "default"
    return "default"


def release_of(span: ReceivedSpan) -> str | None:
    return span.attributes.get("langfuse.release") or span.resource.get("langfuse.release")


def version_of(span: ReceivedSpan) -> str | None:
    return span.attributes.get("langfuse.version") or span.resource.get("service.version")


def is_public(a: Attributes) -> bool:
    return first(a, "langfuse.trace.public", "langfuse.public") in (True, "true")


def metadata_of(a: Attributes, of: str) -> dict[str, Any]:
    """Metadata that can be filtered by: the top-level keys."""
    found: dict[str, Any] = {}
    for root in (f"langfuse.{of}.metadata", "langfuse.metadata"):
        found |= json_object(a.get(root)) | _below(a, root + ".")
    return found | _below(a, "ai.telemetry.metadata.")


def further_of(span: ReceivedSpan) -> dict[str, Any]:
    """All other metadata, as texts that cannot be filtered by."""
    found = {"resourceAttributes": span.resource, "scope": {"name": span.scope}}
    if span.scope.startswith("langfuse-sdk"):
        return found
    return {"attributes": {key: text(value) for key, value in span.attributes.items()}, **found}


def _below(a: Attributes, prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in a.items() if key.startswith(prefix)}


def _langchains(field: str) -> Iterable[str]:
    return f"langfuse.observation.metadata.langfuse_{field}", f"langfuse.trace.metadata.langfuse_{field}"


def json_object(stated: Any) -> dict[str, Any]:
    """The object of a JSON text; an empty one for anything else."""
    try:
        found = json.loads(stated) if isinstance(stated, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
