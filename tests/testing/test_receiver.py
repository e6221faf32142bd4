"""The testing receiver accepts the spans of real exporters, and fails as backends fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from byline.testing import Receiver, assert_signed

KEYS = ("pk-lf-1", "sk-lf-1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def make_spans() -> list[Any]:
    """A parent and a child, as a real tracer makes them."""
    tracer = TracerProvider(resource=Resource({"service.name": "app"}), shutdown_on_exit=False).get_tracer(
        "tests.scope"
    )
    parent = tracer.start_span("POST /chat", kind=SpanKind.SERVER)
    attributes: Any = {"session.id": "s-1", "langfuse.trace.tags": ["a", "b"], "tokens": 3, "cost": 0.5, "on": True}
    child = tracer.start_span("chat", set_span_in_context(parent), kind=SpanKind.CLIENT, attributes=attributes)
    child.add_event("token", {"n": 1})
    child.set_status(Status(StatusCode.ERROR, "refused"))
    child.end()
    parent.end()
    return [parent, child]


def export(url: str, spans: list[ReadableSpan], **more: Any) -> SpanExportResult:
    # The short timeout leaves no time for the SDK's retries.
    exporter = OTLPSpanExporter(endpoint=f"{url}/v1/traces", timeout=0.5, **more)
    try:
        return exporter.export(spans)
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.Deflate, Compression.NoCompression])
def test_spans_arrive_as_plain_objects(receiver: Receiver, compression: Compression) -> None:
    """All parts of a span, with every compression."""
    parent, child = make_spans()
    assert export(receiver.url, [parent, child], compression=compression) is SpanExportResult.SUCCESS
    server, call = receiver.wait_for(2)
    assert (server.name, server.kind, server.parent_id, server.status) == ("POST /chat", "SERVER", None, "UNSET")
    assert call.parent_id == server.span_id == f"{parent.context.span_id:016x}"
    assert call.trace_id == server.trace_id == f"{parent.context.trace_id:032x}"
    assert (call.kind, call.status, call.status_message) == ("CLIENT", "ERROR", "refused")
    assert call.attributes == {
        "session.id": "s-1",
        "langfuse.trace.tags": ["a", "b"],
        "tokens": 3,
        "cost": 0.5,
        "on": True,
    }
    assert (call.start, call.end) == (child.start_time, child.end_time)
    assert call.events == [{"name": "token", "attributes": {"n": 1}}]
    assert call.scope == "tests.scope"
    assert call.resource["service.name"] == "app"
    assert_signed(call, tags=("a", "b"))


def test_json_has_its_ids_in_hex(receiver: Receiver) -> None:
    """OTLP's JSON encodes ids as hex, protobuf's own JSON as base64."""
    value = {"arrayValue": {"values": [{"intValue": "3"}, {"kvlistValue": {"values": []}}, {"bytesValue": "q80="}, {}]}}
    span = {
        "name": "chat",
        "traceId": "0123456789abcdef0123456789ABCDEF",
        "spanId": "0123456789abcdef",
        "kind": 3,
        "attributes": [{"key": "all", "value": value}],
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    reply = httpx2.post(f"{receiver.url}/v1/traces", json=body)
    assert (reply.status_code, reply.json()) == (200, {})
    (found,) = receiver.spans
    assert found.trace_id == "0123456789abcdef0123456789abcdef"
    assert (found.span_id, found.parent_id) == ("0123456789abcdef", None)
    assert json.loads(json.dumps(found.attributes)) == {"all": [3, {}, "abcd", None]}


def test_bodies_that_are_not_otlp_are_refused(receiver: Receiver) -> None:
    for headers in ({"content-type": "application/json"}, {"content-encoding": "gzip"}, {}):
        assert httpx2.post(f"{receiver.url}/v1/traces", content=b"\xff{", headers=headers).status_code == 400
    assert httpx2.post(f"{receiver.url}/v1/logs", content=b"").status_code == 404
    assert receiver.spans == []


def test_fail_applies_to_the_given_number_of_exports(receiver: Receiver) -> None:
    """Later exports are accepted."""
    receiver.fail(401)
    receiver.fail(429, times=2, headers={"retry-after": "3"})
    replies = [httpx2.post(f"{receiver.url}/v1/traces", content=b"") for _ in range(4)]
    assert [reply.status_code for reply in replies] == [401, 429, 429, 200]
    assert replies[1].headers["retry-after"] == "3"


def test_fails_until_it_recovers(receiver: Receiver) -> None:
    receiver.fail(503, times=None)
    assert export(receiver.url, make_spans()) is SpanExportResult.FAILURE
    receiver.recover()
    assert export(receiver.url, make_spans()) is SpanExportResult.SUCCESS
    assert len(receiver.spans) == 2


def test_status_0_closes_the_connection(receiver: Receiver) -> None:
    receiver.fail(0)
    with pytest.raises(httpx2.TransportError):
        httpx2.post(f"{receiver.url}/v1/traces", content=b"")


def test_held_exports_are_answered_on_release(receiver: Receiver) -> None:
    receiver.hold()
    results: list[int] = []

    def send() -> None:
        results.append(httpx2.post(f"{receiver.url}/v1/traces", content=b"", timeout=20).status_code)

    sending = threading.Thread(target=send)
    sending.start()
    while not receiver.requests:
        sending.join(0.01)
    assert results == []
    receiver.release()
    sending.join(20)
    assert results == [200]


def test_rejects_some_spans_as_partial_success(receiver: Receiver) -> None:
    receiver.reject(1)
    export(receiver.url, make_spans())
    assert [span.name for span in receiver.spans] == ["POST /chat"]


def test_stop_refuses_connections_and_start_reopens_the_same_port() -> None:
    """Kept-alive connections are closed as well."""
    receiver = Receiver().start()
    with httpx2.Client() as client:
        url = f"{receiver.url}/v1/traces"
        assert client.post(url, content=b"").status_code == 200
        receiver.stop()
        with pytest.raises(httpx2.TransportError):
            client.post(url, content=b"")
        receiver.start()
        try:
            assert client.post(url, content=b"").status_code == 200
        finally:
            receiver.stop()
    assert len(receiver.requests) == 2


def test_receiver_replaces_langfuse() -> None:
    """All requests except those of the health endpoint need credentials."""
    with Receiver(keys=KEYS) as langfuse:
        projects = f"{langfuse.url}/api/public/projects"
        assert httpx2.get(projects, auth=KEYS).json()["data"][0]["name"] == "receiver"
        assert httpx2.get(projects, auth=("pk-lf-1", "sk-lf-2")).status_code == 401
        assert httpx2.get(projects).status_code == 401
        assert httpx2.get(f"{langfuse.url}/api/public/health").json()["status"] == "OK"
        assert httpx2.get(f"{langfuse.url}/api/public/other", auth=KEYS).status_code == 404
        traces = f"{langfuse.url}/api/public/otel/v1/traces"
        assert [httpx2.post(traces, content=b"", auth=auth).status_code for auth in (KEYS, None)] == [200, 401]


def test_the_timeout_error_has_the_number_of_spans(receiver: Receiver) -> None:
    export(receiver.url, make_spans())
    with pytest.raises(TimeoutError, match="2 of 3 spans"):
        receiver.wait_for(3, timeout=0.01)
    receiver.clear()
    assert (receiver.spans, receiver.requests) == ([], [])
