"""byline's own spans against OpenTelemetry's GenAI conventions: every API, whole and streamed, failed and cut off.

The rules are those of the conformance suite (open-telemetry/semantic-conventions-conformance) and of the registry
(open-telemetry/semantic-conventions-genai): which attributes a span has, their types, and the JSON of its content.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

import byline
from byline import http
from tests.genai.provider_replies import HOSTS, PROVIDER_ATTRIBUTES, SCENARIOS, Exchange
from tests.http.conftest import Finished

#: The attributes of the registry that byline writes on its spans, and their types.
REGISTRY: dict[str, type] = {
    **dict.fromkeys(
        (
            "error.type",
            "gen_ai.conversation.id",
            "gen_ai.input.messages",
            "gen_ai.operation.name",
            "gen_ai.output.messages",
            "gen_ai.output.type",
            "gen_ai.provider.name",
            "gen_ai.request.model",
            "gen_ai.request.previous_response.id",
            "gen_ai.request.reasoning.level",
            "gen_ai.response.id",
            "gen_ai.response.model",
            "gen_ai.system_instructions",
            "gen_ai.tool.definitions",
            "openai.api.type",
            "openai.request.service_tier",
            "openai.response.service_tier",
            "openai.response.system_fingerprint",
            "server.address",
            "session.id",
            "user.id",
        ),
        str,
    ),
    **dict.fromkeys(
        (
            "gen_ai.embeddings.dimension.count",
            "gen_ai.request.choice.count",
            "gen_ai.request.max_tokens",
            "gen_ai.request.seed",
            "gen_ai.request.top_k",
            "gen_ai.usage.audio.input_tokens",
            "gen_ai.usage.audio.output_tokens",
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_write.input_tokens",
            "gen_ai.usage.image.input_tokens",
            "gen_ai.usage.image.output_tokens",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.text.input_tokens",
            "gen_ai.usage.text.output_tokens",
            "gen_ai.usage.video.input_tokens",
            "http.response.status_code",
            "server.port",
        ),
        int,
    ),
    **dict.fromkeys(
        (
            "gen_ai.request.frequency_penalty",
            "gen_ai.request.presence_penalty",
            "gen_ai.request.temperature",
            "gen_ai.request.top_p",
            "gen_ai.response.time_to_first_chunk",
        ),
        float,
    ),
    **dict.fromkeys(
        (
            "gen_ai.request.encoding_formats",
            "gen_ai.request.stop_sequences",
            "gen_ai.response.finish_reasons",
        ),
        tuple,
    ),
    "gen_ai.request.stream": bool,
    # Not in the registry, which has no cost: Langfuse and OpenRouter use this name. A provider states no cost, so that
    # only estimates are written.
    "gen_ai.usage.cost": float,
}
#: Attributes that no convention defines.
OWN = "byline."
#: The spans of OpenTelemetry's GenAI instrumentations 1.3b0 in the suite's five scenarios of agents, without content.
AGENT_SCENARIOS: dict[str, Any] = json.loads((Path(__file__).parent / "agent_scenarios.json").read_text())
#: Operation → the kind of its span, the attribute that ends the span's name, and further attributes. Of an agent the
#: suite expects finish reasons and tokens as well: those are the instrumentation's to state, because tokens that
#: byline adds to an agent's span would be counted twice.
AGENT_OPERATIONS = {
    "execute_tool": (SpanKind.INTERNAL, "gen_ai.tool.name", {"gen_ai.tool.type"}),
    "invoke_agent": (SpanKind.INTERNAL, "gen_ai.agent.name", set[str]()),
    "invoke_workflow": (SpanKind.INTERNAL, "gen_ai.workflow.name", set[str]()),
}
OUTPUT_TYPES = {"text", "json", "image", "speech"}
INFERENCE = {"chat", "text_completion", "generate_content"}
REQUIRED = {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "server.address", "server.port"}
#: What a whole reply of the operation states, if the provider has it.
OF_REPLY = {
    "inference": {
        "gen_ai.response.id",
        "gen_ai.response.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
    },
    "embeddings": {"gen_ai.embeddings.dimension.count"},
}
ROLES = {"system", "user", "assistant", "tool"}
#: Type of a part → its required members; a part of another type is a generic one.
PARTS: dict[str, dict[str, type]] = {
    "text": {"content": str},
    "reasoning": {"content": str},
    "tool_call": {"name": str},
    "tool_call_response": {"response": object},
    "blob": {"modality": str, "content": str},
    "file": {"modality": str, "file_id": str},
    "uri": {"modality": str, "uri": str},
}
MESSAGES = ("gen_ai.input.messages", "gen_ai.output.messages")


def findings(span: ReadableSpan, exchange: Exchange) -> list[str]:
    """Return how a span differs from the conventions."""
    attributes = dict(span.attributes or {})
    return [
        *_shape(span, attributes),
        *_presence(attributes, exchange),
        *_values(attributes),
        *_content(attributes),
    ]


def _shape(span: ReadableSpan, attributes: Mapping[str, Any]) -> Iterator[str]:
    operation, model = attributes.get("gen_ai.operation.name"), attributes.get("gen_ai.request.model")
    if span.name not in (operation, f"{operation} {model}"):
        yield f"the span is called {span.name!r}"
    if span.kind is not SpanKind.CLIENT:
        yield f"the span's kind is {span.kind.name}"
    failed = "error.type" in attributes
    if failed != (span.status.status_code is StatusCode.ERROR):
        yield f"status {span.status.status_code.name} and error.type {attributes.get('error.type')!r}"


def _presence(attributes: Mapping[str, Any], exchange: Exchange) -> Iterator[str]:
    operation = str(attributes.get("gen_ai.operation.name"))
    expected = set(REQUIRED)
    if exchange.whole and exchange.status < 400:
        expected |= OF_REPLY["inference" if operation in INFERENCE else operation] if operation != "rerank" else set()
    if exchange.streamed:
        expected.add("gen_ai.request.stream")
        expected |= {"gen_ai.response.time_to_first_chunk"} if exchange.status < 400 else set()
    for name in sorted(expected - set(exchange.unsaid) - attributes.keys()):
        yield f"{name} is missing"
    for name, value in attributes.items():
        if name.startswith(OWN):
            continue
        if name not in REGISTRY:
            yield f"{name} is in no registry"
        elif not isinstance(value, REGISTRY[name]) or (isinstance(value, bool) and REGISTRY[name] is not bool):
            yield f"{name} is of type {type(value).__name__}"
    if attributes.get("gen_ai.provider.name") not in ("openai", "azure.ai.openai"):
        for name in attributes:
            if name.startswith("openai."):
                yield f"{name} on a span of another provider"


def _values(attributes: Mapping[str, Any]) -> Iterator[str]:
    if attributes.get("gen_ai.output.type", "text") not in OUTPUT_TYPES:
        yield f"gen_ai.output.type is {attributes['gen_ai.output.type']!r}"
    if attributes.get("gen_ai.request.choice.count") == 1:
        yield "gen_ai.request.choice.count is the default"
    if any(not reason for reason in attributes.get("gen_ai.response.finish_reasons", ())):
        yield "an empty finish reason"
    for part, whole in (
        ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.input_tokens"),
        ("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.input_tokens"),
        ("gen_ai.usage.text.input_tokens", "gen_ai.usage.input_tokens"),
        ("gen_ai.usage.image.input_tokens", "gen_ai.usage.input_tokens"),
        ("gen_ai.usage.audio.input_tokens", "gen_ai.usage.input_tokens"),
        ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.output_tokens"),
        ("gen_ai.usage.text.output_tokens", "gen_ai.usage.output_tokens"),
        ("gen_ai.usage.audio.output_tokens", "gen_ai.usage.output_tokens"),
    ):
        if part in attributes and not 0 <= attributes[part] <= attributes.get(whole, -1):
            yield f"{part} is no part of {whole}"


def _content(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name in MESSAGES:
        for message in json.loads(attributes.get(name, "[]")):
            if message.get("role") not in ROLES or not isinstance(message.get("parts"), list):
                yield f"{name} has a message without role or parts"
            if not isinstance(message.get("finish_reason", "stop"), str):
                yield f"{name} has a finish reason that is no string"
            for part in message["parts"]:
                yield from _part(name, part)
    for part in json.loads(attributes.get("gen_ai.system_instructions", "[]")):
        if part.get("type") != "text":
            yield f"gen_ai.system_instructions has a part of type {part.get('type')!r}"
        yield from _part("gen_ai.system_instructions", part)
    for tool in json.loads(attributes.get("gen_ai.tool.definitions", "[]")):
        if not isinstance(tool.get("type"), str) or not isinstance(tool.get("name"), str):
            yield "gen_ai.tool.definitions has a tool without type or name"


def _part(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    kind = part.get("type")
    if not isinstance(kind, str):
        yield f"{name} has a part without type"
        return
    for member, wanted in PARTS.get(kind, {}).items():
        if not isinstance(part.get(member), wanted):
            yield f"{name} has a {kind} part whose {member} is {part.get(member)!r}"


@pytest.fixture(autouse=True)
def recording(provider: TracerProvider) -> Iterator[None]:
    """Capture content. No host is reached."""
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=True)
    yield
    http.uninstall()


def send(exchange: Exchange) -> None:
    content = exchange.reply if isinstance(exchange.reply, bytes) else json.dumps(exchange.reply).encode()
    kind = "text/event-stream" if exchange.streamed else "application/json"

    def chunks() -> Iterator[bytes]:
        yield content
        if not exchange.whole:
            raise httpx.ReadError("The connection was reset.")

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(exchange.status, headers={"content-type": kind}, content=chunks())

    with httpx.Client(transport=httpx.MockTransport(answer)) as client, byline.bound(session_id="s-1"):
        request = client.build_request("POST", exchange.url, json=exchange.request)
        with contextlib.suppress(httpx.ReadError):
            client.send(request, stream=True).read()


@pytest.mark.parametrize("exchange", SCENARIOS.values(), ids=SCENARIOS)
def test_span_follows_the_conventions(finished: Finished, exchange: Exchange) -> None:
    send(exchange)
    (span,) = finished()
    assert findings(span, exchange) == []
    attributes = span.attributes or {}
    assert attributes["gen_ai.provider.name"] == exchange.provider
    assert {name: attributes.get(name) for name in exchange.expected} == exchange.expected


def replay(recorded: Mapping[str, Any]) -> int:
    """Make a recorded span, those below, and the model calls within. Returns the number of calls."""
    attributes = recorded["attributes"]
    at_start = {name: attributes[name] for name in recorded["at_start"]}
    kind, operation = SpanKind[recorded["kind"]], attributes["gen_ai.operation.name"]
    tracer = trace.get_tracer(recorded["scope"])
    with tracer.start_as_current_span(recorded["name"], kind=kind, attributes=at_start) as span:
        calls = sum(replay(below) for below in recorded["below"])
        if operation == "chat" or (operation == "invoke_agent" and calls == 0):
            send(SCENARIOS["OpenAI, inference"])
            calls += 1
        span.set_attributes(attributes)
    return calls


def recorded_spans(recorded: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a recorded span and those below, as they end."""
    for below in recorded["below"]:
        yield from recorded_spans(below)
    yield recorded


def agent_findings(span: ReadableSpan) -> list[str]:
    """Return how the span of an agent, a workflow or a tool differs from the conventions."""
    attributes = span.attributes or {}
    operation = str(attributes["gen_ai.operation.name"])
    kind, named_by, further = AGENT_OPERATIONS[operation]
    missing = sorted({named_by, *further} - attributes.keys())
    return [
        *(f"{name} is missing" for name in missing),
        *([] if span.kind is kind else [f"the span's kind is {span.kind.name}"]),
        *([] if span.name == f"{operation} {attributes.get(named_by)}" else [f"the span is called {span.name!r}"]),
    ]


@pytest.mark.parametrize("scenario", AGENT_SCENARIOS.values(), ids=AGENT_SCENARIOS)
def test_spans_of_agents_follow_the_conventions(finished: Finished, scenario: Any) -> None:
    """Spans of agents, workflows and tools get the session and keep the rest; each model call has one span."""
    with byline.bound(session_id="s-1"):
        calls = replay(scenario)
    exchange = SCENARIOS["OpenAI, inference"]
    chats = [span for span in finished() if (span.attributes or {})["gen_ai.operation.name"] == "chat"]
    others = [span for span in finished() if span not in chats]
    assert len(chats) == calls
    assert [finding for span in chats for finding in findings(span, exchange)] == []
    assert [finding for span in others for finding in agent_findings(span)] == []
    expected = [each for each in recorded_spans(scenario) if each["attributes"]["gen_ai.operation.name"] != "chat"]
    session = {"session.id": "s-1", "gen_ai.conversation.id": "s-1"}
    assert [(span.name, dict(span.attributes or {})) for span in others] == [
        (each["name"], {**each["attributes"], **session}) for each in expected
    ]


@pytest.mark.parametrize(("host", "provider_name"), HOSTS.items(), ids=HOSTS)
def test_provider_is_named_by_the_host(finished: Finished, host: str, provider_name: str) -> None:
    """OpenAI's API is spoken by many: only OpenAI is called so."""
    send(SCENARIOS["OpenAI, inference"]._replace(url=f"https://{host}/v1/chat/completions"))
    (span,) = finished()
    attributes = span.attributes or {}
    assert attributes["gen_ai.provider.name"] == provider_name
    is_openai = provider_name in ("openai", "azure.ai.openai")
    assert any(name.startswith("openai.") for name in attributes) is is_openai


def test_documentation_lists_the_attributes_of_each_provider(finished: Finished) -> None:
    """The table in docs/attributes.md is made of this file."""
    for exchange in SCENARIOS.values():
        send(exchange)
    found: dict[str, set[str]] = {}
    for span in finished():
        attributes = span.attributes or {}
        provider_name = str(attributes["gen_ai.provider.name"])
        operation = "embeddings" if attributes["gen_ai.operation.name"] == "embeddings" else "inference"
        names = {name for name in attributes if name.startswith(("gen_ai.", "openai.", "server."))}
        found.setdefault(f"{provider_name} {operation}", set()).update(names - {"gen_ai.usage.cost"})
    recorded = json.loads(PROVIDER_ATTRIBUTES.read_text())
    assert {key: sorted(found[key]) for key in recorded} == {key: row["byline"] for key, row in recorded.items()}


def test_checks_find_what_is_wrong(finished: Finished) -> None:
    """Each rule of this module fails for a span that breaks it."""
    tracer = trace.get_tracer("anything")
    wrong: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.top_k": 5.0,
        "gen_ai.request.response_format": "json_schema",
        "gen_ai.output.type": "json_schema",
        "openai.api.type": "responses",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "parts": [{"type": "blob", "modality": "image"}], "finish_reason": None}]
        ),
        "error.type": "429",
    }
    tracer.start_span("something", attributes=wrong).end()
    (span,) = finished()
    found = findings(span, SCENARIOS["OpenAI, inference"])
    for expected in (
        "the span is called 'something'",
        "the span's kind is INTERNAL",
        "status UNSET and error.type '429'",
        "gen_ai.provider.name is missing",
        "gen_ai.response.id is missing",
        "gen_ai.request.top_k is of type float",
        "gen_ai.request.response_format is in no registry",
        "gen_ai.output.type is 'json_schema'",
        "openai.api.type on a span of another provider",
        "gen_ai.usage.cache_read.input_tokens is no part of gen_ai.usage.input_tokens",
        "gen_ai.output.messages has a finish reason that is no string",
        "gen_ai.output.messages has a blob part whose content is None",
    ):
        assert expected in found
