"""An OTLP receiver on loopback, with the few endpoints by which Langfuse is known."""

from __future__ import annotations

import gzip
import json
import threading
from typing import Any, NamedTuple

from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from byline.testing.server import Handler, Request, Server

_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS = ("UNSET", "OK", "ERROR")


class ReceivedSpan(NamedTuple):
    """A span as it arrived; ids in hex, times in nanoseconds since the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    kind: str
    attributes: dict[str, Any]
    start: int
    end: int
    status: str
    status_message: str
    events: list[dict[str, Any]]
    scope: str
    resource: dict[str, Any]


class Receiver(Server):
    """Takes OTLP/HTTP exports and keeps their spans.

    Answers ``/v1/traces`` below any path, and Langfuse's ``/api/public/projects`` and
    ``/api/public/health``.

    Args:
        keys: ``(public key, secret key)`` that are asked for, as Langfuse does; ``None`` takes all.
        port: The port to serve on; by default a free one.

    Example:
        >>> with Receiver() as receiver:
        ...     receiver.spans
        []
    """

    def __init__(self, *, keys: tuple[str, str] | None = None, port: int = 0) -> None:
        super().__init__(port)
        self.keys = keys
        self.requests: list[Request] = []
        self._spans: list[ReceivedSpan] = []
        self._failures: list[tuple[int, dict[str, str]]] = []
        self._arrived = threading.Condition()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, in the order of their arrival."""
        with self._arrived:
            return list(self._spans)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedSpan]:
        """Wait until ``count`` spans are there. Raises `TimeoutError` after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._spans) >= count, timeout):
                raise TimeoutError(f"{len(self._spans)} of {count} spans arrived within {timeout} s")
            return list(self._spans)

    def clear(self) -> None:
        """Forget all spans and requests."""
        with self._arrived:
            self._spans.clear()
            self.requests.clear()

    def fail(self, status: int, times: int = 1, headers: dict[str, str] | None = None) -> None:
        """Answer the next exports with an error."""
        self._failures.extend([(status, headers or {})] * times)

    def answer(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        self.requests.append(request)
        if not self._knows(request):
            handler.reply(401, b'{"message":"Invalid credentials."}', {"content-type": "application/json"})
        elif request.method == "GET":
            self._answer_langfuse(request, handler)
        elif not request.path.endswith("/v1/traces"):
            handler.reply(404, b"not found", {})
        elif self._failures:
            status, headers = self._failures.pop(0)
            handler.reply(status, b"{}", headers)
        else:
            spans = decode(request)
            with self._arrived:
                self._spans.extend(spans)
                self._arrived.notify_all()
            handler.reply(200, b"", {"content-type": "application/x-protobuf"})

    def _answer_langfuse(self, request: Request, handler: Handler) -> None:
        answers: dict[str, Any] = {
            "/api/public/projects": {"data": [{"id": "p-1", "name": "receiver"}]},
            "/api/public/health": {"status": "OK", "version": "4.16.0"},
        }
        found = answers.get(request.path)
        body = json.dumps(found or {"message": "not found"}).encode()
        handler.reply(200 if found else 404, body, {"content-type": "application/json"})

    def _knows(self, request: Request) -> bool:
        if self.keys is None:
            return True
        import base64

        expected = base64.b64encode(":".join(self.keys).encode()).decode()
        return request.headers.get("authorization") == f"Basic {expected}"


def decode(request: Request) -> list[ReceivedSpan]:
    """Return the spans of an export, protobuf or JSON."""
    data = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    message = ExportTraceServiceRequest()
    if "json" in request.headers.get("content-type", ""):
        Parse(data, message)
    else:
        message.ParseFromString(data)
    spans: list[ReceivedSpan] = []
    for resource_spans in message.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            spans.extend(
                ReceivedSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex() or None,
                    kind=_KINDS[span.kind],
                    attributes=_attributes(span.attributes),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    status=_STATUS[span.status.code],
                    status_message=span.status.message,
                    events=[{"name": event.name, "attributes": _attributes(event.attributes)} for event in span.events],
                    scope=scope_spans.scope.name,
                    resource=resource,
                )
                for span in scope_spans.spans
            )
    return spans


def _attributes(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pair: KeyValue
    for pair in pairs:
        found[pair.key] = _value(pair.value)
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
