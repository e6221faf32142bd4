"""Privacy of destinations: content of every instrumentation, credentials, and binary parts are removed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Link, SpanContext

from byline.export import OTLP, Langfuse
from byline.export.redaction.redactor import Redactor
from byline.export.span_copy import SpanCopy
from byline.settings import SettingError
from byline.testing import Receiver
from tests.export.replay import INSTRUMENTATIONS, MARKER, recorded, replay
from tests.export.support import CHAT, running

SECRET = "sk-proj-0123456789abcdefghij"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def wire(receiver: Receiver) -> bytes:
    """Return the bytes of all exports."""
    assert receiver.requests
    return b"".join(gzip.decompress(request.body) for request in receiver.requests)


@pytest.mark.parametrize("kind", ["Langfuse", "OTLP"])
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_privacy_removes_content_of_every_instrumentation(receiver: Receiver, instrumentation: str, kind: str) -> None:
    private: Any = (
        Langfuse("pk-lf-1", "sk-lf-1", receiver.url, privacy=True, spans="all")
        if kind == "Langfuse"
        else OTLP(receiver.url, privacy=True)
    )
    with running(private) as app, app.request(session_id="s", metadata={"plan": "gold"}):
        for item in recorded(instrumentation):
            replay(app.provider, item)
    assert MARKER.encode() not in wire(receiver)
    for item in recorded(instrumentation):
        kept = [span for span in receiver.spans if span.scope == item["scope"] and span.name == item["name"]]
        assert kept, "tokens, model and timing are sent all the same"
        assert kept[0].attributes["langfuse.trace.metadata.plan"] == "gold"


@pytest.mark.parametrize("instrumentation", [name for name in INSTRUMENTATIONS if name not in ("genai_openai",)])
def test_content_is_exported_without_privacy(receiver: Receiver, instrumentation: str) -> None:
    """Proves that the test above could fail."""
    with running(OTLP(receiver.url)) as app, app.request():
        for item in recorded(instrumentation):
            replay(app.provider, item)
    assert MARKER.encode() in wire(receiver)


PLACES = (
    "gen_ai.input.messages gen_ai.output.messages gen_ai.system_instructions gen_ai.tool.definitions "
    "gen_ai.tool.call.arguments gen_ai.tool.call.result gen_ai.prompt gen_ai.completion gen_ai.prompt.0.content "
    "gen_ai.completion.0.content gen_ai.completion.0.tool_calls.0.arguments gen_ai.prompt.variable.name "
    "traceloop.entity.input traceloop.entity.output llm.prompts llm.prompts.0.content llm.completions.0.content "
    "input.value output.value llm.input_messages.0.message.content llm.output_messages.0.message.content "
    "llm.input_messages.0.message.contents.0.message_content.image.image.url llm.prompt_template.template "
    "llm.prompt_template.variables llm.tools.0.tool.json_schema llm.invocation_parameters tool.parameters "
    "retrieval.documents.0.document.content embedding.embeddings.0.embedding.text reranker.query "
    "langfuse.observation.input langfuse.observation.output langfuse.trace.input langfuse.trace.output "
    "langfuse.observation.status_message pydantic_ai.all_messages all_messages_events final_result "
    "model_request_parameters tool_arguments tool_response request_data response_data logfire.msg "
    "llm.openai.messages llm.openai.choices llm.anthropic.messages llm.None.input hidden_params "
    "ai.prompt ai.prompt.messages ai.response.text ai.response.toolCalls ai.toolCall.args ai.toolCall.result "
    "gcp.vertex.agent.llm_request gcp.vertex.agent.tool_response mlflow.spanInputs mlflow.spanOutputs "
    "lk.user_transcript lk.response.text gen_ai.content.prompt gen_ai.content.completion gen_ai.tool.args "
    "exception.message exception.stacktrace byline.error.message error.message db.statement db.query.text "
    "http.request.body system_prompt my.question vendor.userPrompt some_answer_text haystack.component.input "
    "gen_ai.request.instructions gen_ai.request.input gen_ai.response.text gen_ai.request.messages "
    "gen_ai.request.stop_sequences "
    "crewai.task.output smolagents.inputs dspy.outputs gen_ai.agent.description "
    "http.request_body http.response.text otel.status_description process.environment_variable.HOME container.command "
    "feature_flag.error.message rpc.connect_rpc.request.metadata.x http.form "
    "mcp.tool.description rag.passage user.comments prompt1 inputMessage2 messages[0].content"
).split()


def test_privacy_removes_content_from_every_attribute(receiver: Receiver) -> None:
    """From spans, events, links, and status, in every kind of value."""
    langfuse = Langfuse("pk-lf-1", "sk-lf-1", receiver.url, privacy=True, conventions=["openinference"])
    with running(OTLP(receiver.url, privacy=True), langfuse) as app, app.request():
        for wrap in (lambda text: text, lambda text: [text, text]):
            values: dict[str, Any] = {key: wrap(f"{MARKER}{key}") for key in PLACES}
            link = Link(SpanContext(1, 2, is_remote=True), {"prompt": f"{MARKER}link"})
            with app.tracer.start_as_current_span("chat", attributes={**CHAT, **values}, links=[link]) as span:
                span.add_event("gen_ai.content.prompt", values)
                span.add_event("gen_ai.user.message", {"content": f"{MARKER}event", "body": f"{MARKER}body"})
                span.set_status(trace.Status(trace.StatusCode.ERROR, f"{MARKER}status"))
                span.set_attribute("url.full", f"https://search.example/find?q={MARKER}url")
        with pytest.raises(ValueError, match=MARKER), app.span("chat", CHAT):
            raise ValueError(f"{MARKER}raised")
    assert MARKER.encode() not in wire(receiver)


KEPT: dict[str, Any] = {
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.encoding_formats": ["float"],
    "gen_ai.response.status": "completed",
    "gen_ai.response.model": "gpt-4o-2026",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.response.time_to_first_chunk": 0.1,
    "gen_ai.usage.input_tokens": 11,
    "gen_ai.usage.output_tokens": 7,
    "gen_ai.usage.cost": 0.001,
    "gen_ai.output.type": "text",
    "gen_ai.tool.name": "search",
    "gen_ai.prompt.name": "summary",
    "llm.token_count.prompt": 11,
    "input.mime_type": "application/json",
    "openinference.span.kind": "LLM",
    "error.type": "rate_limit_error",
    "byline.gateway.name": "openrouter",
    "byline.gateway.request.id": "gen-1",
    "byline.cost.source": "gateway",
    "langfuse.trace.metadata.my_prompt_choice": "b",
    "langfuse.trace.name": "Prompt evaluation",
    "langfuse.trace.tags": ["prompt"],
    "llm.invocation_parameters": '{"temperature": 0.5}',
    "embedding.invocation_parameters": '{"encoding_format": "float"}',
    "db.system": "postgresql",
    "db.query.summary": "SELECT orders",
    "db.response.status_code": "23505",
    "rpc.response.status_code": "UNAVAILABLE",
    "messaging.destination.name": "letters",
    "messaging.kafka.message.key": "k-1",
    "feature_flag.result.variant": "b",
    "request.id": "r-1",
    "request.path": "/chat",
    "response.status": "ok",
    "url.path": "/chat",
    "http.request.header.content_type": ["application/json"],
    "http.response.header.x-ratelimit-remaining-tokens": ["99"],
    "http.route": "/chat",
    "server.address": "api.openai.com",
    "my.count": 3,
    "my.flag": True,
}


def test_privacy_keeps_everything_else(receiver: Receiver) -> None:
    """Tokens, cost, timing, model and custom metadata, as in OpenRouter's privacy mode."""
    with running(OTLP(receiver.url, privacy=True)) as app, app.request():
        app.chat("chat", **KEPT)
    attributes = receiver.spans[0].attributes
    assert {key: attributes.get(key) for key in KEPT} == KEPT


@pytest.mark.parametrize("name", ["openrouter", "litellm", "traceloop", "openinference"])
def test_privacy_keeps_custom_metadata_in_every_convention(receiver: Receiver, name: str) -> None:
    """Even if a key sounds like content: the caller chose the key."""
    metadata: Any = {"input_source": "form", "prompt_choice": "b"}
    with running(OTLP(receiver.url, privacy=True, conventions=[name])) as app, app.request(metadata=metadata):
        app.chat(**{"metadata.prompt": f"{MARKER}hi", "trace.metadata.answer": f"{MARKER}hi"})
    attributes = next(span for span in receiver.spans if span.name.startswith("chat")).attributes
    told = {
        "openrouter": "trace.metadata.input_source",
        "litellm": "metadata.input_source",
        "traceloop": "traceloop.association.properties.input_source",
        "openinference": "metadata",
    }
    assert "form" in attributes[told[name]]
    assert MARKER.encode() not in wire(receiver)


@pytest.mark.parametrize("key", ["referer", "x_title", "x_user_prompt", "location"])
def test_privacy_removes_headers_that_may_repeat_a_question(receiver: Receiver, key: str) -> None:
    with running(OTLP(receiver.url, privacy=True)) as app, app.request() as span:
        span.set_attribute(f"http.request.header.{key}", [f"https://app.example/?q={MARKER}"])
        span.set_attribute("url.original", f"https://app.example/?q={MARKER}")
        span.set_attribute("url.fragment", f"{MARKER}below")
    assert MARKER.encode() not in wire(receiver)
    assert receiver.spans[0].attributes["url.original"] == "https://app.example/"


TASK = "Find out why c0ntent-Ada left"


@pytest.mark.parametrize(
    ("name", "shown", "more"),
    [
        # As OpenLLMetry's instrumentation for CrewAI names tasks.
        (f"{TASK}.task", "chat gpt-4o", {"crewai.task.description": TASK}),
        (TASK, "chat gpt-4o", {"gen_ai.input.messages": f'[{{"content": "{TASK}"}}]'}),
        (f"{TASK}, where she went, with whom, and since when", "chat gpt-4o", {}),
        ("look_up", "look_up", {"gen_ai.input.messages": "now look_up that"}),
        ("chat gpt-4o", "chat gpt-4o", {"gen_ai.input.messages": "chat gpt-4o with me"}),
        ("Chat with {model!r} here", "Chat with {model!r} here", {"logfire.msg_template": "Chat with {model!r} here"}),
    ],
)
def test_privacy_renames_spans_named_after_a_prompt(
    receiver: Receiver, name: str, shown: str, more: dict[str, Any]
) -> None:
    with running(OTLP(receiver.url, spans="llm", privacy=True)) as app, app.request():
        app.chat(name, **more)
    assert [span.name for span in receiver.spans] == [shown]


@pytest.mark.parametrize(("name", "kept"), [(TASK, None), ("openai.chat", "openai.chat")])
def test_privacy_removes_entity_names_that_are_sentences(receiver: Receiver, name: str, kept: str | None) -> None:
    """OpenLLMetry's instrumentation for CrewAI states a task's description as the name of the entity."""
    with running(OTLP(receiver.url, spans="llm", privacy=True)) as app, app.request():
        app.chat(**{"traceloop.entity.name": name})
    assert receiver.spans[0].attributes.get("traceloop.entity.name") == kept


def test_privacy_keeps_the_generation_name_of_the_caller(receiver: Receiver) -> None:
    named: Any = {"generation_name": "Write the summary of the first of the nine chapters"}
    with running(OTLP(receiver.url, spans="llm", privacy=True)) as app, app.request(**named):
        app.chat()
    assert [span.name for span in receiver.spans] == [named["generation_name"]]


def test_privacy_applies_to_events(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, spans="llm", privacy=True)) as app, app.request(), app.span("chat", CHAT) as span:
        span.add_event("log", {"acme.blob": f"{MARKER} " * 50, "acme.list": f'["{MARKER}"]', "acme.stage": "draft"})
    assert receiver.spans[0].events[0]["attributes"] == {"acme.stage": "draft"}


def test_privacy_of_one_destination_does_not_affect_another(receiver: Receiver) -> None:
    with Receiver() as private, running(OTLP(receiver.url), OTLP(private.url, privacy=True)) as app, app.request():
        app.chat(**{"gen_ai.input.messages": f"{MARKER}hi"})
        for destination in app.destinations:
            destination.flush()
        assert MARKER.encode() in wire(receiver)
        assert MARKER.encode() not in wire(private)


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.headers": f"{{'authorization': 'Bearer {SECRET}'}}"},
        {"http.request.header.authorization": f"Bearer {SECRET}"},
        {"http.request.header.x-api-key": [SECRET]},
        {"litellm.api_key": SECRET},
        {"byline.error.message": f"Incorrect API key provided: {SECRET}."},
        {"url.full": f"https://ada:{SECRET}@api.example/v1?key={SECRET}&x=1"},
        {"gen_ai.input.messages": f'[{{"content": "my key is {SECRET}"}}]'},
        {"llm.invocation_parameters": f'{{"api_key": "{SECRET}", "temperature": 1}}'},
    ],
    ids=lambda attributes: next(iter(attributes)),
)
@pytest.mark.parametrize("privacy", [True, False])
def test_credentials_are_always_removed(receiver: Receiver, attributes: dict[str, Any], privacy: bool) -> None:
    with running(OTLP(receiver.url, privacy=privacy)) as app, app.request():
        app.chat(**attributes)
    assert SECRET.encode() not in wire(receiver)


IMAGE = "iVBORw0KGgoAAAANSUhEUgAA" * 40


@pytest.mark.parametrize(
    "text",
    [
        f'[{{"type": "image_url", "image_url": {{"url": "data:image/png;base64,{IMAGE}"}}}}]',
        f'[{{"parts": [{{"type": "blob", "mime_type": "image/png", "content": "{IMAGE}"}}]}}]',
        f'[{{"type": "input_audio", "input_audio": {{"data": "{IMAGE}", "format": "wav"}}}}]',
        f'[{{"inline_data": {{"mime_type": "image/png", "data": "{IMAGE}"}}}}]',
    ],
    ids=["data URL", "blob part", "audio", "inline data"],
)
def test_binary_parts_are_always_removed(receiver: Receiver, text: str) -> None:
    """The rest of the message stays."""
    with running(OTLP(receiver.url)) as app, app.request():
        given: dict[str, Any] = {"gen_ai.input.messages": f'[{{"content": "What is this?"}}, {text}]'}
        app.chat(**given, raw=IMAGE.encode())
    attributes = receiver.spans[0].attributes
    assert IMAGE.encode() not in wire(receiver)
    assert "What is this?" in attributes["gen_ai.input.messages"]
    assert "characters left out" in attributes["gen_ai.input.messages"]
    assert IMAGE not in str(attributes)


def test_a_mask_is_called_for_content_metadata_and_ids(receiver: Receiver) -> None:
    seen: list[str] = []

    def mask(key: str, value: str) -> str | None:
        seen.append(key)
        return None if "instructions" in key else value.replace("ada@example.com", "[email]")

    fields: Any = {"session_id": "ada@example.com", "metadata": {"contact": "ada@example.com"}}
    with running(OTLP(receiver.url, spans="llm", mask=mask)) as app, app.request(**fields):
        app.chat(**{"gen_ai.input.messages": "write to ada@example.com", "gen_ai.system_instructions": "be nice"})
    attributes = receiver.spans[0].attributes
    assert attributes["gen_ai.input.messages"] == "write to [email]"
    assert attributes["langfuse.trace.metadata.contact"] == "[email]"
    assert attributes["session.id"] == "[email]"
    assert "gen_ai.system_instructions" not in attributes
    content = {"gen_ai.input.messages", "gen_ai.system_instructions", "langfuse.trace.metadata.contact"}
    assert content | {"session.id", "span.name", "service.name"} <= set(seen)


def test_the_text_is_removed_if_the_mask_raises(receiver: Receiver, production: pytest.LogCaptureFixture) -> None:
    def mask(key: str, value: str) -> str:
        raise RuntimeError(value)

    with running(OTLP(receiver.url, spans="llm", mask=mask)) as app, app.request():
        app.chat(**{"gen_ai.input.messages": f"{MARKER}hi"})
    assert receiver.spans[0].attributes["gen_ai.input.messages"] == "[left out]"
    assert MARKER not in production.text
    assert "RuntimeError" in production.text


@pytest.mark.parametrize("wrong", [{"privacy": "yes"}, {"mask": "all"}])
def test_invalid_settings_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"byline\.E046"):
        OTLP("https://collector.example", **wrong)


PERSONAL: dict[str, Any] = {
    "byline.caller.address": "203.0.113.7",
    "byline.caller.user_agent": "curl/8",
    "client.address": "203.0.113.7",
    "http.client_ip": "203.0.113.7",
    "net.peer.ip": "203.0.113.7",
    "net.sock.peer.addr": "203.0.113.7",
    "network.peer.address": "203.0.113.7",
    "user_agent.original": "curl/8",
    "http.user_agent": "curl/8",
    "http.request.header.user_agent": ["curl/8"],
    "http.request.header.x_forwarded_for": ["203.0.113.7"],
    "http.request.header.x-real-ip": ["203.0.113.7"],
    "http.request.header.forwarded": ["for=203.0.113.7"],
}


@pytest.mark.parametrize("kind", ["langfuse", "otlp"])
def test_privacy_removes_address_and_user_agent_of_the_caller(receiver: Receiver, kind: str) -> None:
    """Under byline's names and those of HTTP instrumentations; another destination still gets them."""
    private = (
        Langfuse("pk-lf-1", "sk-lf-1", receiver.url, privacy=True, spans="all")
        if kind == "langfuse"
        else OTLP(receiver.url, privacy=True)
    )
    with Receiver() as other, running(private, OTLP(other.url)) as app, app.request() as span:
        span.set_attributes(PERSONAL)
        app.chat(**PERSONAL)
        for destination in app.destinations:
            destination.flush()
        span.end()
        for destination in app.destinations:
            destination.flush()
        assert b"203.0.113.7" in wire(other)
        assert b"203.0.113.7" not in wire(receiver)
        assert b"curl/8" not in wire(receiver)


def test_mask_input_and_mask_output_keep_the_address(receiver: Receiver) -> None:
    masks: Any = {"mask_input": True, "mask_output": True}
    with running(OTLP(receiver.url, spans="llm")) as app, app.request(metadata=masks):
        app.chat(**PERSONAL)
    assert receiver.spans[0].attributes.items() >= PERSONAL.items()


@pytest.mark.parametrize("spans", ["llm", "all"])
def test_privacy_removes_unknown_texts_from_every_span(receiver: Receiver, spans: Any) -> None:
    """Short texts too, also on spans and links that are no model call; an unknown number or choice stays."""
    unknown: dict[str, Any] = {"acme.note": MARKER, "patient": f"{MARKER}Ada", "acme.tags": [f"{MARKER}a", "b"]}
    harmless: dict[str, Any] = {"acme.kind": "draft", "acme.count": 3, "acme.buckets": [1, 2]}
    with running(OTLP(receiver.url, spans=spans, privacy=True)) as app, app.request() as server:
        server.set_attributes(unknown)
        with app.span("chat", {**CHAT, **unknown, **harmless}) as span:
            span.add_link(SpanContext(1, 2, is_remote=True), unknown)
            span.add_event(f"the caller said {MARKER} and then a good deal more than that", unknown)
    assert MARKER.encode() not in wire(receiver)
    (chat,) = [span for span in receiver.spans if span.name == "chat"]
    assert {key: chat.attributes[key] for key in harmless} == harmless
    assert [event["name"] for event in chat.events] == ["event"]


def test_privacy_keeps_the_resource_without_the_command_line(receiver: Receiver) -> None:
    resource = Resource({"team": "blue ocean", "process.command_args": ["app", MARKER], "process.command": MARKER})
    with running(OTLP(receiver.url, privacy=True), resource=resource) as app, app.request():
        app.chat()
    assert MARKER.encode() not in wire(receiver)
    assert receiver.spans[0].resource["team"] == "blue ocean"


def test_privacy_removes_unknown_mappings_that_hold_text() -> None:
    span = SpanCopy("chat", SpanContext(1, 2, is_remote=False))
    span.attributes = {
        "acme": {"counts": {"a": 1}},
        "acme.body": {"a": {"text": MARKER}},
        "byline.x": {"password": "hunter22", "kind": "a", "n": 1},
    }
    Redactor(private=True).redact(span)
    assert span.attributes == {"acme": {"counts": {"a": 1}}, "byline.x": {"kind": "a", "n": 1}}


def test_attributes_are_not_copied_if_nothing_is_redacted() -> None:
    redactor = Redactor(private=False)
    attributes = {**CHAT, "gen_ai.usage.input_tokens": 11, "gen_ai.response.finish_reasons": ("stop",)}
    assert redactor.redact_attributes(attributes) is attributes


def test_attributes_are_not_copied_for_a_text_that_was_seen_before() -> None:
    """Each response brings texts of its own that are equal to those of others, such as the model."""
    redactor = Redactor(private=False)
    for _ in range(2):
        attributes = {"gen_ai.response.model": "".join(["model-", "that-is-seen-again"]), "count": 1, "share": 0.5}
        assert redactor.redact_attributes(attributes) is attributes
    assert redactor.redact_attributes({"large": 1 << 70}) == {"large": "1.18059e+21"}
