"""Reads OTLP exports into plain objects."""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Any, Final, NamedTuple

from google.protobuf.json_format import MessageToJson, Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from byline.testing.server import Request

_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS: Final = ("UNSET", "OK", "ERROR")


class ReceivedSpan(NamedTuple):
    """A span as it arrived.

    Attributes:
        trace_id: 32 hex digits; ``span_id`` and ``parent_id`` have 16, the latter is ``None`` for a root.
        kind: ``INTERNAL``, ``SERVER``, ``CLIENT``, ``PRODUCER`` or ``CONSUMER``.
        start: Nanoseconds since the epoch, like ``end``.
        status: ``UNSET``, ``OK`` or ``ERROR``.
        scope: The name of the instrumentation that made it.
    """

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


def decode(request: Request) -> list[ReceivedSpan]:
    """Return the spans of an export, protobuf or JSON. Raises where it is neither."""
    body = request.body
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "gzip":
        body = gzip.decompress(body)
    elif encoding == "deflate":
        body = zlib.decompress(body)
    message = ExportTraceServiceRequest()
    if "json" in request.headers.get("content-type", ""):
        _parse_json(body, message)
    else:
        message.ParseFromString(body)
    return [
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
            resource=_attributes(resource_spans.resource.attributes),
        )
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def partial_success(rejected: int, *, as_json: bool) -> bytes:
    """Return the answer to an export of whose spans some were rejected, 0 for none."""
    message = ExportTraceServiceResponse()
    if rejected:
        message.partial_success.rejected_spans = rejected
        message.partial_success.error_message = "The testing receiver was told to reject them."
    return MessageToJson(message).encode() if as_json else message.SerializeToString()


def _parse_json(body: bytes, message: ExportTraceServiceRequest) -> None:
    Parse(body, message)
    # OTLP's JSON has ids in hex, where protobuf's own JSON has base64.
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                span.trace_id = _from_hex(span.trace_id)
                span.span_id = _from_hex(span.span_id)
                span.parent_span_id = _from_hex(span.parent_span_id)


def _from_hex(misread: bytes) -> bytes:
    # Hex digits are base64 digits too, and came out as three bytes for each four of them.
    return bytes.fromhex(base64.b64encode(misread).decode())


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
    # Bytes as hex, so that a span can be written as JSON.
    return value.bytes_value.hex() if kind == "bytes_value" else getattr(value, kind)
