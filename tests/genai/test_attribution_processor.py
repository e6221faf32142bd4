"""The attribution processor: every LLM span of a request has its attribution, no other span is changed."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

import byline
from byline import internal_metrics, request_context
from byline.asgi import AttributionMiddleware
from byline.gateways import keys
from byline.genai import attributes as names
from byline.genai import span_state
from byline.genai.attribution_processor import AttributionSpanProcessor, reapply
from byline.genai.span_state import SpanState
from byline.request_context import RequestContext
from byline.wsgi import AttributionMiddleware as WsgiMiddleware
from tests.support import Door, Sent, both_doors, call_model, claim, environ_of, run_asgi, run_wsgi, scope_of, tracer

Finished = Callable[[], Sequence[ReadableSpan]]
LLM = {"gen_ai.operation.name": "chat"}

WHOLE: dict[str, Any] = {
    "session_id": "s",
    "user_id": "u",
    "trace_id": "w",
    "trace_name": "T",
    "span_name": "S",
    "generation_name": "G",
    "parent_span_id": "p",
    "environment": "production",
    "release": "r",
    "version": "v",
    "tags": ("a", "b"),
    "metadata": {"k": 1, "l": "x", "m": True, "n": 1.5},
    "organization_id": "o",
    "environment_id": "e",
}
STAMP: dict[str, Any] = {
    "session.id": "s",
    "gen_ai.conversation.id": "s",
    "user.id": "u",
    "langfuse.trace.name": "T",
    "langfuse.trace.tags": ("a", "b"),
    "langfuse.release": "r",
    "langfuse.version": "v",
    "langfuse.environment": "production",
    "langfuse.trace.metadata.k": 1,
    "langfuse.trace.metadata.l": "x",
    "langfuse.trace.metadata.m": True,
    "langfuse.trace.metadata.n": 1.5,
    "byline.trace.id": "w",
    "byline.parent.id": "p",
    "byline.step.name": "S",
    "byline.generation.name": "G",
    "byline.organization.id": "o",
    "byline.environment.id": "e",
}


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_llm_span_has_all_fields_of_the_attribution(finished: Finished) -> None:
    """Every field under the names that backends read."""
    with byline.bound(**WHOLE):
        call_model()
    (span,) = finished()
    assert attributes_of(span) == {**LLM, **STAMP}
    assert span.name == "G"


def test_every_attribution_field_lands_on_spans() -> None:
    """A field that no attribute stands for would be lost without a word."""
    assert set(names.ATTRIBUTION) | {"metadata"} == set(WHOLE) == set(byline.Attribution.__struct_fields__)


def test_an_llm_span_is_known_by_its_scope(finished: Finished) -> None:
    """Some instrumentations start theirs without attributes."""
    with byline.bound(session_id="s"):
        trace.get_tracer("openlit.instrumentation.x").start_span("call").end()
        trace.get_tracer("app").start_span("chat gpt-4o").end()
    stamped, plain = finished()
    assert attributes_of(stamped)["session.id"] == "s"
    assert attributes_of(plain) == {}


def test_other_spans_of_the_request_are_untouched(finished: Finished) -> None:
    """Also those to which somebody copied a conversation's id."""
    with byline.bound(**WHOLE):
        tracer.start_span("db", attributes={"db.system": "x", "gen_ai.conversation.id": "other"}).end()
    assert attributes_of(finished()[0]) == {"db.system": "x", "gen_ai.conversation.id": "other"}


@pytest.mark.usefixtures("stamp_all")
def test_all_spans_are_attributed_with_stamp_all(finished: Finished) -> None:
    """None but model calls is renamed."""
    with byline.bound(**WHOLE):
        tracer.start_span("db", attributes={"user.id": "db user"}).end()
        call_model()
    tracer.start_span("outside").end()
    db, llm, outside = finished()
    assert attributes_of(db) == {**STAMP, "user.id": "db user"}
    assert (db.name, llm.name) == ("db", "G")
    assert attributes_of(outside) == {}


@pytest.mark.usefixtures("stamp_all")
def test_server_span_of_an_inner_tracer_is_found_with_stamp_all(finished: Finished) -> None:
    app = FastAPI()

    @app.post("/chat")
    def chat(body: dict[str, Any]) -> str:
        owner = request_context.current_context()
        assert owner is not None
        owner.totals.add(input_tokens=3)
        return "ok"

    asyncio.run(run_asgi(AttributionMiddleware(app), claim({"user": "u"}, headers=[("x-session-id", "s")])))
    span = next(span for span in finished() if span.kind is trace.SpanKind.SERVER)
    assert attributes_of(span)["byline.llm.input_tokens"] == 3
    assert (attributes_of(span)["session.id"], attributes_of(span)["user.id"]) == ("s", "u")


def test_attributes_of_the_app_are_not_overwritten(finished: Finished) -> None:
    with byline.bound(**WHOLE):
        own: dict[str, Any] = {"user.id": "mine", "gen_ai.conversation.id": "mine", "langfuse.trace.metadata.k": 2}
        tracer.start_span("chat", attributes={**LLM, **own}).end()
    assert attributes_of(finished()[0]) == {
        **LLM,
        **STAMP,
        "user.id": "mine",
        "gen_ai.conversation.id": "mine",
        "langfuse.trace.metadata.k": 2,
    }


def test_spans_outside_any_request_are_untouched(finished: Finished) -> None:
    call_model()
    with byline.bound():
        call_model()
    assert [attributes_of(span) for span in finished()] == [LLM, LLM]


def test_spans_started_before_the_body_have_the_claims_of_the_headers(finished: Finished) -> None:
    with byline.bound(session_id="s"):
        call_model()
        byline.bind(user_id="u")
        call_model()
        byline.bind(session_id="t")
        call_model()
    stamps = [(attributes_of(span)["session.id"], attributes_of(span).get("user.id")) for span in finished()]
    assert stamps == [("s", None), ("s", "u"), ("t", "u")]


LEAVES: dict[str, tuple[dict[str, Any], bool]] = {
    "chat": ({"gen_ai.operation.name": "chat"}, True),
    "embeddings": ({"gen_ai.operation.name": "embeddings"}, True),
    "generate_content": ({"gen_ai.operation.name": "generate_content"}, True),
    "agent": ({"gen_ai.operation.name": "invoke_agent"}, False),
    "agent's creation": ({"gen_ai.operation.name": "create_agent", "gen_ai.request.model": "m"}, False),
    "tool": ({"gen_ai.operation.name": "execute_tool"}, False),
    "workflow": ({"gen_ai.operation.name": "invoke_workflow"}, False),
    "memory": ({"gen_ai.operation.name": "search_memory"}, False),
    "OpenInference model": ({"openinference.span.kind": "LLM"}, True),
    "OpenInference chain": ({"openinference.span.kind": "CHAIN"}, False),
    "OpenInference agent": ({"openinference.span.kind": "AGENT"}, False),
    "Langfuse generation": ({"langfuse.observation.type": "generation"}, True),
    "Langfuse span": ({"langfuse.observation.type": "span"}, False),
    "OpenLLMetry workflow": ({"traceloop.span.kind": "workflow"}, False),
}


@pytest.mark.parametrize("case", LEAVES)
def test_the_generation_name_names_model_calls_alone(case: str, finished: Finished) -> None:
    """Agents, tools and steps carry the byline under their own names."""
    attributes, renamed = LEAVES[case]
    with byline.bound(session_id="s", generation_name="G"):
        tracer.start_span("own name", attributes=attributes).end()
    (span,) = finished()
    assert span.name == ("G" if renamed else "own name")
    assert attributes_of(span)["session.id"] == "s"


@pytest.fixture
def small() -> tuple[TracerProvider, InMemorySpanExporter]:
    """A provider with a limit of 30 attributes."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=30), shutdown_on_exit=False)
    provider.add_span_processor(AttributionSpanProcessor())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def test_refresh_saves_the_byline_from_the_attribute_limit(small: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """The SDK drops the oldest attributes, and 80 messages are more than it holds."""
    provider, exporter = small
    with byline.bound(session_id="s", user_id="u"):
        owner = request_context.current_context()
        assert owner is not None
        span = provider.get_tracer("app").start_span("chat", attributes=LLM)
        assert isinstance(span, Span)
        for number in range(29):
            span.set_attribute(f"message.{number}", "x")
        assert "session.id" not in (span.attributes or {})
        reapply(span, owner)
        for number in range(27):
            span.set_attribute(f"reply.{number}", "x")
        span.end()
    attributes = attributes_of(exporter.get_finished_spans()[0])
    assert len(attributes) == 30
    assert (attributes["session.id"], attributes["user.id"]) == ("s", "u")
    assert list(attributes)[:3] == ["session.id", "gen_ai.conversation.id", "user.id"]


def test_refresh_keeps_attributes_that_the_app_changed(small: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    provider, exporter = small
    with byline.bound(session_id="s", user_id="u", tags=["a"]):
        owner = request_context.current_context()
        assert owner is not None
        span = provider.get_tracer("app").start_span("chat", attributes=LLM)
        assert isinstance(span, Span)
        span.set_attribute("user.id", "the app's")
        byline.bind(release="r1")
        reapply(span, owner)
        span.end()
    attributes = attributes_of(exporter.get_finished_spans()[0])
    assert attributes["user.id"] == "the app's"
    assert (attributes["session.id"], attributes["langfuse.trace.tags"]) == ("s", ("a",))
    assert attributes["langfuse.release"] == "r1"


def test_refresh_of_a_span_that_has_ended_or_is_not_recording(
    small: tuple[TracerProvider, InMemorySpanExporter], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing happens, and the SDK has nothing to complain of."""
    provider, _ = small
    with byline.bound(session_id="s"):
        owner = request_context.current_context()
        assert owner is not None
        span: Any = provider.get_tracer("app").start_span("chat", attributes=LLM)
        span.end()
        reapply(span, owner)
        reapply(trace.INVALID_SPAN, owner)  # type: ignore[arg-type]
    assert caplog.text == ""


def test_disabled_processor_sets_no_attributes() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    processor = AttributionSpanProcessor()
    provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with byline.bound(session_id="s"):
        switches: list[Any] = [
            lambda: None,
            processor.switch_off,
            lambda: processor.switch_on("llm"),
            processor.shutdown,
        ]
        for switch in switches:
            switch()
            provider.get_tracer("app").start_span("chat", attributes=LLM).end()
    assert ["session.id" in attributes_of(span) for span in exporter.get_finished_spans()] == [
        True,
        False,
        True,
        False,
    ]
    assert processor.force_flush()


@pytest.mark.parametrize("stamp", ["", "LLM", "none", None, 1])
def test_invalid_stamp_fails_at_construction(stamp: Any) -> None:
    with pytest.raises(byline.SettingError, match=r"^byline.E021: ") as caught:
        AttributionSpanProcessor(stamp)
    assert caught.value.advice == 'pass "llm" or "all"'


def test_error_in_the_processor_loses_only_the_attributes(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, production: pytest.LogCaptureFixture
) -> None:
    """The span, the app and the log's secrets are safe; it is counted and said once."""

    def fail(self: RequestContext) -> Any:
        raise LookupError("sk-secret")

    with byline.bound(session_id="s"):
        monkeypatch.setattr(RequestContext, "attribution", fail)
        call_model()
        call_model()
    assert [attributes_of(span) for span in finished()] == [LLM, LLM]
    assert production.text.count("byline.E090: processor failed with LookupError") == 1
    assert "sk-secret" not in production.text
    assert internal_metrics.counter_values()["errors.processor"] == 2


def test_error_in_the_processor_fails_tests(monkeypatch: pytest.MonkeyPatch, finished: Finished) -> None:
    def fail(self: RequestContext) -> Any:
        raise LookupError

    with byline.bound(session_id="s"):
        monkeypatch.setattr(RequestContext, "attribution", fail)
        with pytest.raises(LookupError):
            call_model()


CALLER = [
    ("user-agent", "client/1.0"),
    ("x-request-id", "r-1"),
    ("authorization", "Bearer sk-test-0a1b2c3d4e5f6g7h8i9j"),
    ("cookie", "token=secret"),
]


def stamps(door: Door, sent: Sent, finished: Finished, address: str = "10.1.2.3") -> dict[str, Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        call_model()
        start_response("200 OK", [])
        return []

    run: Any
    if door == "asgi":
        scope = {**scope_of(sent), "client": (address, 5000)}
        run = asyncio.run(run_asgi(AttributionMiddleware(app, app_span=False), sent, scope))
    else:
        environ = {**environ_of(sent), "REMOTE_ADDR": address}
        run = run_wsgi(WsgiMiddleware(wsgi_app, app_span=False), sent, environ)
    assert run.error is None
    return attributes_of(finished()[-1])


@both_doors
def test_the_caller_is_noted_as_a_gateway_would(door: Door, finished: Finished) -> None:
    """Never its key, of which the hash tells one caller from another."""
    attributes = stamps(door, Sent(headers=CALLER, path="/v1/chat"), finished)
    assert attributes == {
        **LLM,
        "byline.caller.address": "10.1.2.3",
        "byline.caller.user_agent": "client/1.0",
        "byline.caller.key.hash": hashlib.sha256(b"sk-test-0a1b2c3d4e5f6g7h8i9j").hexdigest(),
        "byline.request.id": "r-1",
        "byline.route": "/v1/chat",
    }
    assert "secret" not in repr(attributes)


@both_doors
@pytest.mark.parametrize(
    ("headers", "absent"),
    [
        ([("authorization", "Basic c2VjcmV0")], "byline.caller.key.hash"),
        ([("authorization", "Bearer ")], "byline.caller.key.hash"),
        ([("x-api-key", "")], "byline.caller.key.hash"),
        ([("x-request-id", "r" * 201)], "byline.request.id"),
        ([("x-request-id", b"r\x01")], "byline.request.id"),
        ([("user-agent", b"a\x01b")], "byline.caller.user_agent"),
    ],
)
def test_odd_callers_are_not_noted(door: Door, headers: Any, absent: str, finished: Finished) -> None:
    attributes = stamps(door, Sent(headers=headers), finished)
    assert absent not in attributes
    assert attributes["byline.caller.address"] == "10.1.2.3"


@both_doors
@pytest.mark.parametrize("address", ["a" * 201, "10.1.2.3\x85evil", "\u202e1.2.3.4", "\ud800", ""])
def test_an_address_that_a_proxy_has_not_checked_is_not_noted(door: Door, address: str, finished: Finished) -> None:
    """Uvicorn's and Werkzeug's support of proxies takes any text of X-Forwarded-For for the address."""
    attributes = stamps(door, Sent(), finished, address)
    assert "byline.caller.address" not in attributes
    assert attributes["byline.route"] == "/chat"


@both_doors
def test_an_api_key_header_is_hashed(door: Door, finished: Finished) -> None:
    attributes = stamps(door, Sent(headers=[("X-Api-Key", "sk-test-0a1b2c3d4e5f6g7h8i9j")]), finished)
    assert attributes["byline.caller.key.hash"] == hashlib.sha256(b"sk-test-0a1b2c3d4e5f6g7h8i9j").hexdigest()


@both_doors
def test_long_and_odd_paths_and_agents_keep_the_limits(door: Door, finished: Finished) -> None:
    attributes = stamps(door, Sent(headers=[("user-agent", "x" * 500)], path="/" + "y" * 500), finished)
    assert attributes["byline.caller.user_agent"] == "x" * 200
    assert attributes["byline.route"] == "/" + "y" * 199


def test_text_that_no_exporter_can_encode_is_not_noted(finished: Finished) -> None:
    """A lone surrogate in one attribute would lose the whole batch of spans."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        call_model()
        start_response("200 OK", [])
        return []

    odd = {"HTTP_USER_AGENT": "a\ud800", "HTTP_AUTHORIZATION": "Bearer \ud800", "PATH_INFO": "/\ud800"}
    environ = environ_of(Sent(headers=[("x-session-id", "s")])) | odd
    assert run_wsgi(WsgiMiddleware(app, app_span=False), Sent(), environ).error is None
    attributes = attributes_of(finished()[-1])
    assert attributes["session.id"] == "s"
    repr(sorted(attributes.items())).encode()
    for value in attributes.values():
        str(value).encode()


def test_the_route_is_the_frameworks_template(finished: Finished) -> None:
    """With low cardinality, if the framework has a route."""
    app = FastAPI()

    @app.post("/chats/{chat_id}")
    def chat(chat_id: str) -> str:
        call_model()
        return "ok"

    app.add_middleware(AttributionMiddleware)
    TestClient(app).post("/chats/5")
    span = next(span for span in finished() if span.name == "chat gpt-4o")
    assert attributes_of(span)["byline.route"] == "/chats/{chat_id}"


def test_a_child_of_a_span_that_has_ended_finds_its_request(finished: Finished) -> None:
    """As a thread that goes on working after the step that started it."""
    with byline.bound(session_id="s"):
        with tracer.start_as_current_span("step"):
            carried = otel_context.get_current()
        owner = request_context.current_context()

    def work() -> None:
        otel_context.attach(carried)
        call_model()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert owner is not None
    assert attributes_of(finished()[-1])["session.id"] == "s"


def test_a_parent_that_is_given_leads_to_its_request(finished: Finished) -> None:
    """Some instrumentations start their span with a context of their own."""
    with byline.bound(session_id="s"):
        owner = request_context.current_context()
        step = tracer.start_span("step")
    tracer.start_span("chat", context=trace.set_span_in_context(step), attributes=LLM).end()
    assert owner is not None
    assert attributes_of(finished()[-1])["session.id"] == "s"


@pytest.mark.usefixtures("provider")
def test_a_job_that_never_ends_does_not_fill_the_memory() -> None:
    """Nothing of its spans outlives them."""
    gc.collect()
    with byline.bound(session_id="s"):
        ended: list[weakref.ref[Any]] = []
        for _ in range(100):
            span = tracer.start_span("step")
            span.end()
            ended.append(weakref.ref(span))
        del span
        gc.collect()
        assert [reference() for reference in ended] == [None] * 100
        states = [each for each in gc.get_objects() if type(each) is SpanState]
        assert not [state for state in states if state.request_context is request_context.current_context()]


def test_the_callers_key_has_its_name(finished: Finished) -> None:
    """If the operator has configured one."""
    keys.key_settings.configure({keys.hash_key("caller-key"): "mobile app"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()

    try:
        headers = [("authorization", "Bearer caller-key")]
        asyncio.run(run_asgi(AttributionMiddleware(app, app_span=False), claim({}, headers=headers)))
    finally:
        keys.key_settings.configure()
    assert attributes_of(finished()[0])["byline.caller.key.alias"] == "mobile app"


def test_llm_spans_name_the_dropped_claims(finished: Finished) -> None:
    """Not every destination gets the server span."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()

    sent = claim({}, headers=[("x-session-id", "s" * 300)])
    asyncio.run(run_asgi(AttributionMiddleware(app, app_span=False), sent))
    assert attributes_of(finished()[0])["byline.rejected"] == ("session_id: too long",)


class Recording:
    """A destination's processor that notes the spans it gets, or fails."""

    destination_id = 1 << 200
    selects_llm_only = False

    def __init__(self, error: Exception | None = None) -> None:
        self.names: list[str] = []
        self.error = error

    def on_span_end(self, span: ReadableSpan, state: SpanState) -> bool:
        if self.error is not None:
            raise self.error
        self.names.append(span.name)
        return True

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None: ...


def attribute(*others: SpanProcessor) -> tuple[TracerProvider, AttributionSpanProcessor]:
    """Return a provider with a processor between others, of which the first is called first."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = AttributionSpanProcessor()
    for each in (*others, processor):
        provider.add_span_processor(each)
    return provider, processor


def test_nothing_is_kept_of_spans_that_end_while_the_processor_is_switched_off() -> None:
    class SwitchOff(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            processor.switch_off()

    provider, processor = attribute(SwitchOff())
    provider.get_tracer("app").start_span("chat", attributes=LLM).end()
    assert processor._ending == {}


def test_little_is_kept_of_spans_whose_end_another_processor_keeps_back() -> None:
    class Fail(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise ValueError

    provider, processor = attribute(Fail())
    for _ in range(2000):
        with pytest.raises(ValueError):  # noqa: PT011 - the error of the test's own processor
            provider.get_tracer("app").start_span("chat", attributes=LLM).end()
    assert len(processor._ending) < 300


@pytest.mark.usefixtures("production")
def test_a_destination_that_fails_keeps_no_span_from_the_others() -> None:
    provider, processor = attribute()
    failing, working = Recording(ValueError()), Recording()
    processor.switch_on("llm", [failing, working])
    provider.get_tracer("app").start_span("chat", attributes=LLM).end()
    assert working.names == ["chat"]
    assert internal_metrics.counter_values()["errors.processor"] == 1


@pytest.mark.usefixtures("production")
def test_the_end_of_a_span_fails_for_no_reason_of_bylines(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError

    provider, processor = attribute()
    processor.switch_off()
    span = provider.get_tracer("app").start_span("chat", attributes=LLM)
    processor.switch_on("llm")
    monkeypatch.setattr(span_state, "start_state", fail)
    span.end()
    assert internal_metrics.counter_values()["errors.processor"] == 1


def test_destinations_count_the_spans_that_end_after_the_shutdown_of_the_provider() -> None:
    provider, processor = attribute()
    recording = Recording()
    processor.switch_on("llm", [recording])
    span = provider.get_tracer("app").start_span("before", attributes=LLM)
    provider.shutdown()
    span.end()
    provider.get_tracer("app").start_span("after", attributes=LLM).end()
    assert recording.names == ["before", "after"]
    processor.switch_off()
    provider.get_tracer("app").start_span("off", attributes=LLM).end()
    assert recording.names == ["before", "after"]


def test_the_attributes_of_a_parent_may_change_while_they_are_copied(finished: Finished) -> None:
    """Another thread may set some: here, the name of one does as byline looks at the name."""

    class Name(str):
        def startswith(self, *arguments: Any) -> bool:
            parent.set_attribute("another", 1)
            return super().startswith(*arguments)

    parent: Any = tracer.start_span("agent", attributes={**LLM, "session.id": "s"})
    parent._attributes._dict[Name("looked at")] = 1
    with trace.use_span(parent):
        call_model("chat")
    assert "another" in parent.attributes
    assert attributes_of(finished()[0])["session.id"] == "s"


def test_a_destination_of_llm_spans_gets_no_end_of_another_span() -> None:
    """A span that becomes an LLM span while it runs is one."""
    provider, processor = attribute()
    recording = Recording()
    recording.selects_llm_only = True
    processor.switch_on("llm", [recording])
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("request"):
        tracer.start_span("query", attributes={"db.system.name": "postgresql"}).end()
        late = tracer.start_span("late")
        late.set_attributes(LLM)
        late.end()
        tracer.start_span("chat", attributes=LLM).end()
    assert recording.names == ["late", "chat"]
