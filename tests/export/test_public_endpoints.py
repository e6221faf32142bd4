"""Strangers' requests on the way out: their trace, their filters and sampling, and what gateways and audits get."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any, Literal, get_args

import httpx
import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import byline
from byline import asgi, gateways, wsgi
from byline.export import OTLP, Langfuse
from byline.export.decisions import is_sampled
from byline.gateways import LiteLLM, OpenRouter, Portkey
from byline.inbound.trust import bound_session_id
from byline.settings import SettingError
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.support import Door, Sent, both_doors, call_model, claim, run_asgi, run_wsgi

STRANGER = "11112222333344445555666677778888"
CALLER_SPAN = "aaaaaaaaaaaaaaaa"
JOINING = Sent(headers=[("traceparent", f"00-{STRANGER}-{CALLER_SPAN}-01"), ("tracestate", "a=b")])


def ada(_: Any) -> dict[str, str]:
    return {"user_id": "ada"}


@pytest.fixture
def receivers() -> Iterator[tuple[Receiver, Receiver]]:
    with Receiver() as first, Receiver() as second:
        yield first, second


@pytest.fixture
def instrumented(receivers: tuple[Receiver, Receiver]) -> Iterator[tuple[Receiver, Receiver]]:
    """Export LLM spans to a Langfuse, and all spans to an OTLP endpoint."""
    langfuse, otlp = receivers
    byline.instrument(destinations=[Langfuse("pk-lf-1", "sk-lf-1", langfuse.url), OTLP(otlp.url)], clients=())
    yield receivers
    byline.uninstrument()


def serve(door: Door, sent: Sent, seen: list[Any] | None = None, outside: Any = None, **settings: Any) -> None:
    """Handle one request, in which the app calls a model."""

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        if seen is not None:
            seen.append([value for name, value in scope["headers"] if name == b"traceparent"])
        await receive()
        call_model()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        if seen is not None:
            seen.append([environ[key].encode() for key in ("HTTP_TRACEPARENT",) if key in environ])
        environ["wsgi.input"].read()
        call_model()
        start_response("200 OK", [])
        return []

    if door == "asgi":
        app: Any = asgi.AttributionMiddleware(asgi_app, **settings)
        asyncio.run(run_asgi(outside(app) if outside else app, sent))
    else:
        wrapped: Any = wsgi.AttributionMiddleware(wsgi_app, **settings)
        copy_context().run(run_wsgi, outside(wrapped) if outside else wrapped, sent)


def the_chat(receiver: Receiver) -> ReceivedSpan:
    byline.flush()
    (chat,) = [span for span in receiver.spans if "gen_ai.operation.name" in span.attributes]
    return chat


def server_span(exporter: InMemorySpanExporter) -> ReadableSpan:
    (found,) = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    return found


@both_doors
@pytest.mark.parametrize("settings", [{"public": True}, {"trust": {"session"}}, {"trust": set()}, {"trust": ada}])
@pytest.mark.parametrize("flags", ["01", "00"])
def test_a_request_joins_no_trace_of_a_stranger(
    door: Door,
    settings: dict[str, Any],
    flags: str,
    instrumented: tuple[Receiver, Receiver],
    exporter: InMemorySpanExporter,
) -> None:
    """Neither in the app's own traces nor in those of a destination, and an unsampled traceparent hides nothing."""
    seen: list[Any] = []
    parent = f"00-{STRANGER}-{CALLER_SPAN}-{flags}"
    serve(door, Sent(headers=[("traceparent", parent)]), seen, identity=ada, **settings)
    langfuse, otlp = instrumented
    span = server_span(exporter)
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links] == [
        f"{STRANGER}-{CALLER_SPAN}"
    ]
    assert the_chat(langfuse).trace_id == the_chat(otlp).trace_id == f"{span.context.trace_id:032x}"
    assert the_chat(otlp).trace_id != STRANGER
    # The app reads its headers as they were sent.
    assert seen == [[parent.encode()]]


@both_doors
def test_what_a_stranger_sends_is_not_logged(
    door: Door,
    instrumented: tuple[Receiver, Receiver],
    exporter: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OpenTelemetry's propagator logs malformed members of the baggage with each request."""
    baggage = [("baggage", "secret"), ("baggage", "user.id=mallory,,=;;,secret two"), ("tracestate", "===,secret=\x7f")]
    for headers in (baggage, [*JOINING.headers[:1], *baggage]):
        serve(door, Sent(headers=headers), public=True)
    assert [record.getMessage() for record in caplog.records] == []
    serve(door, JOINING, public=True)
    links = [link for span in exporter.get_finished_spans() for link in span.links]
    assert [dict(link.context.trace_state) for link in links] == [{}, {"a": "b"}]


@both_doors
def test_a_trusted_caller_is_joined(
    door: Door, instrumented: tuple[Receiver, Receiver], exporter: InMemorySpanExporter
) -> None:
    for settings in ({}, {"trust": {"trace"}}, {"public": True, "trust": lambda _: {"trace"}}):
        serve(door, JOINING, **settings)
    assert {span.context.trace_id for span in exporter.get_finished_spans()} == {int(STRANGER, 16)}


@pytest.mark.parametrize("settings", [{"public": True}, {"trust": {"session"}}])
def test_a_server_span_made_outside_is_filed_elsewhere(
    settings: dict[str, Any], instrumented: tuple[Receiver, Receiver], exporter: InMemorySpanExporter
) -> None:
    """Another instrumentation has joined the stranger's trace before the middleware could prevent that."""
    serve(
        "asgi", JOINING, outside=lambda app: OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"]), **settings
    )
    assert server_span(exporter).context.trace_id == int(STRANGER, 16)
    langfuse, otlp = instrumented
    chat = the_chat(otlp)
    assert chat.trace_id == the_chat(langfuse).trace_id != STRANGER
    (server,) = [span for span in otlp.spans if span.span_id != chat.span_id]
    assert (server.trace_id, server.parent_id, chat.parent_id) == (chat.trace_id, None, server.span_id)
    assert chat.attributes["byline.app.trace_id"] == STRANGER


@both_doors
@pytest.mark.parametrize("settings", [{"public": True}, {"trust": {"session"}}])
def test_the_middleware_of_zero_code_gives_way_to_that_of_the_app(
    door: Door, settings: dict[str, Any], instrumented: tuple[Receiver, Receiver]
) -> None:
    """It trusts by default, and has made a server span in the stranger's trace."""

    def automatic(app: Any) -> Any:
        middleware: Any = (asgi if door == "asgi" else wsgi).AttributionMiddleware(app)
        middleware.mark_automatic()
        return middleware

    serve(door, JOINING, outside=automatic, identity=ada, **settings)
    langfuse, otlp = instrumented
    assert the_chat(otlp).trace_id == the_chat(langfuse).trace_id != STRANGER
    assert the_chat(otlp).attributes["user.id"] == "ada"


@both_doors
def test_a_public_middleware_within_a_trusting_one_is_said(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    outer: Any = (asgi if door == "asgi" else wsgi).AttributionMiddleware
    for _ in range(2):
        serve(door, JOINING, outside=outer, public=True)
    assert [record.getMessage()[:11] for record in caplog.records] == ["byline.E147"]
    caplog.clear()
    serve(door, JOINING, outside=lambda app: outer(app, public=True), public=True)
    serve(door, JOINING, outside=outer)
    assert not caplog.records


def test_instrumentations_inside_a_public_endpoint_see_no_caller(exporter: InMemorySpanExporter) -> None:
    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    inner = OpenTelemetryMiddleware(asgi_app, exclude_spans=["receive", "send"])
    asyncio.run(run_asgi(asgi.AttributionMiddleware(inner, public=True), JOINING))
    assert server_span(exporter).parent is None


def filtered(receiver: Receiver, sent: Sent, options: dict[str, Any], **settings: Any) -> int:
    """Return how many spans of the request a destination with these options gets."""
    receiver.clear()
    byline.instrument(destinations=[OTLP(receiver.url, spans="llm", **options)], clients=())
    try:
        serve("asgi", sent, **settings)
        byline.flush()
    finally:
        byline.uninstrument()
    return len(receiver.spans)


def test_a_claimed_tenant_passes_no_filter(receivers: tuple[Receiver, Receiver]) -> None:
    receiver, _ = receivers
    claims = claim({"trace": {"environment": "production"}, "metadata": {"_organisation": "acme"}})
    for options in ({"environments": ["production"]}, {"organizations": ["acme"]}):
        assert filtered(receiver, claims, options) == 0
    known = {"environment": "production", "organization_id": "acme"}
    for options in ({"environments": ["production"]}, {"organizations": ["acme"]}):
        assert filtered(receiver, Sent(), options, identity=lambda _: known) == 1
        # A claim of the same value takes nothing away.
        assert filtered(receiver, claims, options, identity=lambda _: known) == 1


KEPT = next(name for name in map(str, range(99)) if is_sampled(name, 0.5))
LEFT_OUT = next(name for name in map(str, range(99)) if not is_sampled(name, 0.5))


def test_nobody_chooses_a_session_that_is_left_out(receivers: tuple[Receiver, Receiver]) -> None:
    """If the app identifies its users, the user decides, and no session or trace of a caller's choice."""
    receiver, _ = receivers
    for claimed in (KEPT, LEFT_OUT):
        for sent in (claim({"session_id": claimed}), claim({"trace": {"trace_id": claimed}})):
            for user, expected in ((KEPT, 1), (LEFT_OUT, 0)):
                count = filtered(receiver, sent, {"sampling": 0.5}, identity=lambda _, user=user: {"user_id": user})
                assert count == expected
    # Without identity the callers are trusted.
    assert filtered(receiver, claim({"session_id": LEFT_OUT}), {"sampling": 0.5}) == 0
    # And anonymous requests are left to chance.
    counts = [
        filtered(receiver, claim({"session_id": LEFT_OUT}), {"sampling": 0.5}, identity=lambda _: None)
        for _ in range(20)
    ]
    assert {0, 1} == set(counts)


def test_a_caller_cannot_compute_which_sessions_are_left_out(
    receivers: tuple[Receiver, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key of the operator's, sessions that are left out by the plain hash are as good as any other."""
    receiver, _ = receivers
    chosen = [name for name in map(str, range(999)) if not is_sampled(name, 0.99)][:8]
    decisions = []
    for key in ("0123456789abcdef", "fedcba9876543210", ""):
        monkeypatch.setenv("BYLINE_SAMPLING_KEY", key)
        counts = [filtered(receiver, claim({"session_id": name}), {"sampling": 0.5}) for name in chosen]
        assert counts == [is_sampled(name, 0.5, key.encode()) for name in chosen]
        decisions.append(counts)
    assert 0 < sum(decisions[0]) < 8
    assert decisions[0] != decisions[1]
    assert sum(decisions[2]) == 0
    monkeypatch.setenv("BYLINE_SAMPLING_KEY", "short")
    with pytest.raises(SettingError, match=r"byline\.E001"):
        OTLP(receiver.url)


def test_an_audit_gets_every_call_with_its_content(
    receivers: tuple[Receiver, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_SAMPLING", "0")
    audit, other = receivers
    byline.instrument(
        destinations=[OTLP(audit.url, audit=True), OTLP(other.url, sampling=1.0, label="other")], clients=()
    )
    masks = {"mask_input": True, "mask_output": True}
    with byline.bound(metadata=masks):
        call_model(**{"gen_ai.input.messages": "the question"})
    byline.flush()
    byline.uninstrument()
    assert the_chat(audit).attributes["gen_ai.input.messages"] == "the question"
    assert "gen_ai.input.messages" not in the_chat(other).attributes


@pytest.mark.parametrize(
    "options", [{"audit": 1}, {"audit": True, "sampling": 0.5}, {"audit": True, "models": ["a"], "where": ada}]
)
def test_an_audit_leaves_nothing_out(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"byline\.E112"):
        OTLP("http://127.0.0.1:1", **options)
    assert OTLP("http://127.0.0.1:1", audit=True).options.unsampled == "record"


CLAIMS = claim({"session_id": "s", "user": "eve", "trace": {"tags": ["vip"], "plan": "paid", "trace_name": "T"}})


Place = Literal["request", "job", "job of a job", "thread", "service"]


def headers_sent(
    gateway: gateways.Gateway, received: Gateway, sent: Sent = CLAIMS, place: Place = "request", **settings: Any
) -> dict[str, str]:
    """Return the headers that the gateway gets from an app that calls it, without those of the HTTP client.

    ``place`` is the place of the call: the request itself, or work that the request has given away.
    """
    messages: list[dict[str, str]] = [{}]

    async def call(*_: Any) -> None:
        async with httpx.AsyncClient() as client:
            await client.post(f"{received.base_url}/chat/completions", json={"model": "m", "messages": []})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        byline.bind(tags=["own"], metadata={"tier": "own"})
        if place == "request":
            await call()
        elif place == "thread":
            await asyncio.to_thread(byline.carry(lambda: asyncio.run(call())))
        byline.inject(messages[0])

    async def give_away() -> None:
        if place == "service":
            raw = [(name.encode(), value.encode()) for name, value in messages[0].items()]
            scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw}
            unused: Any = None
            await asgi.AttributionMiddleware(call)(scope, unused, unused)
        elif place == "job of a job":
            with byline.carried(messages[0]):
                messages[0] = {}
                byline.inject(messages[0])
        if place.startswith("job"):
            with byline.carried(messages[0]):
                await call()

    byline.instrument(gateways=[gateway], destinations=[])
    try:
        asyncio.run(run_asgi(asgi.AttributionMiddleware(app, **settings), sent))
        asyncio.run(give_away())
    finally:
        byline.uninstrument()
    return {name.lower(): value for name, value in received.requests[-1].headers.items()}


def test_gateways_get_no_claims_by_which_they_route() -> None:
    with Gateway() as received:
        url = received.base_url
        assert headers_sent(LiteLLM(url), received)["x-litellm-tags"] == "own"
        assert headers_sent(LiteLLM(url), received)["x-litellm-end-user-id"] == "eve"
        named = LiteLLM(url, forward_claims={"tags"})
        assert headers_sent(named, received)["x-litellm-tags"] == "own,vip"
        assert '"plan"' not in headers_sent(Portkey(url), received)["x-portkey-metadata"]
        assert '"tier":"own"' in headers_sent(Portkey(url), received)["x-portkey-metadata"]
        named_portkey = Portkey(url, forward_claims=["metadata"])
        assert '"plan":"paid"' in headers_sent(named_portkey, received)["x-portkey-metadata"]


def test_gateways_of_a_public_endpoint_get_what_the_app_states() -> None:
    with Gateway() as received:
        url = received.base_url
        settings: dict[str, Any] = {"public": True, "identity": ada, "trust": {"session", "labels", "metadata"}}
        headers = headers_sent(LiteLLM(url), received, **settings)
        assert headers["x-litellm-end-user-id"] == "ada"
        assert headers["x-litellm-tags"] == "own"
        assert "x-litellm-session-id" not in headers
        assert "langfuse_trace_name" not in headers
        named = LiteLLM(url, forward_claims={"session_id", "trace_name"})
        headers = headers_sent(named, received, **settings)
        assert headers["x-litellm-session-id"] == bound_session_id("s", "ada")
        assert headers["langfuse_trace_name"] == "T"
        assert "x-session-id" not in headers_sent(OpenRouter(url), received, **settings)


@pytest.mark.parametrize("place", get_args(Place))
@pytest.mark.parametrize("key", ["", "0123456789abcdef"])
def test_claims_of_a_public_endpoint_reach_no_gateway_from_elsewhere(
    place: Place, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from jobs, threads and own services either; what the app has stated does, if nobody can forge it."""
    monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
    settings: dict[str, Any] = {"public": True, "identity": ada, "trust": {"session", "labels", "metadata"}}
    with Gateway() as received:
        headers = headers_sent(LiteLLM(received.base_url), received, place=place, **settings)
        assert "x-litellm-session-id" not in headers
        assert "langfuse_trace_name" not in headers
        assert "vip" not in str(headers)
        assert "paid" not in str(headers)
        is_forgeable = place == "service" and not key
        assert headers.get("x-litellm-end-user-id") == (None if is_forgeable else "ada")
        # The metadata has claims, so none of it counts as stated once it has left the process.
        forwarding = LiteLLM(received.base_url, forward_claims={"session_id", "user_id"})
        headers = headers_sent(forwarding, received, place=place, **settings)
        assert headers["x-litellm-session-id"] == bound_session_id("s", "ada")
        assert headers["x-litellm-end-user-id"] == "ada"


def test_a_service_that_signs_states_what_its_app_has_stated(
    receivers: tuple[Receiver, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claims stay claims: only the former pass filters, and only if they are signed."""
    receiver, _ = receivers
    for key, expected in (("0123456789abcdef", 1), ("", 0)):
        monkeypatch.setenv("BYLINE_SIGNING_KEY", key)
        for stated in ({"organization_id"}, set[str]()):
            carried: dict[str, str] = {}
            serve_and_inject(carried, {"organization_id": "acme"} if stated else {})
            sent = Sent(headers=list(carried.items()))
            count = filtered(receiver, sent, {"organizations": ["acme"]})
            assert count == (expected if stated else 0)
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "0123456789abcdef")
    serve_and_inject(carried, {"organization_id": "acme"})
    sent = Sent(headers=list(carried.items()))
    # The identity of the receiver is nearer.
    assert filtered(receiver, sent, {"organizations": ["acme"]}, identity=lambda _: {"organization_id": "own"}) == 0


def serve_and_inject(carried: dict[str, str], identified: dict[str, str]) -> None:
    """Write the header of a request with a claimed tenant, of which the app of the sender identifies these fields."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        byline.inject(carried)

    sent = claim({"metadata": {"_organisation": "acme"}})
    settings: dict[str, Any] = {"identity": lambda _: identified} if identified else {}
    asyncio.run(run_asgi(asgi.AttributionMiddleware(app, **settings), sent))


def test_a_mask_that_is_accepted_reaches_the_gateway() -> None:
    masks = claim({"metadata": {"mask_input": True, "plan": "paid"}})
    with Gateway() as received:
        settings: dict[str, Any] = {"public": True, "identity": ada, "trust": {"metadata", "masks"}}
        headers = headers_sent(LiteLLM(received.base_url), received, masks, **settings)
        assert headers["langfuse_mask_input"] == "true"
        assert "plan" not in headers["langfuse_trace_metadata"]


@pytest.mark.parametrize("fields", ["tags", {"tag"}, 3])
def test_forwarded_claims_are_checked(fields: Any) -> None:
    with pytest.raises(SettingError, match=r"byline\.E111"):
        LiteLLM("http://127.0.0.1:1", forward_claims=fields)


def test_langfuse_shows_what_the_app_has_stated(instrumented: tuple[Receiver, Receiver]) -> None:
    serve("asgi", claim({"session_id": "s", "trace": {"trace_name": "T"}}), identity=ada)
    langfuse, otlp = instrumented
    assert the_chat(otlp).attributes["byline.vouched"] == ["user_id"]
    assert the_chat(langfuse).attributes["langfuse.observation.metadata.vouched"] == ["user_id"]
