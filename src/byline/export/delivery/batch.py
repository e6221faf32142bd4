"""Batches of spans as OTLP bytes: encoded and compressed once, counted, split, and decoded for exporters of users."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

#: Splits in a row after which no part has been accepted: the destination refuses everything then.
MAX_REFUSALS: Final = 12
#: Bytes of one batch before compression. OpenTelemetry's own exporter refuses larger requests too.
MAX_BYTES: Final = 64 * 1024 * 1024
#: ``SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`` of OTLP.
_IS_REMOTE: Final = 0x200


class Batch(NamedTuple):
    """A batch that is ready to be sent.

    Attributes:
        data: Gzipped OTLP request.
        spans: Number of spans in the request.
    """

    data: bytes
    spans: int


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans as an OTLP request, not compressed."""
    # Protobuf takes longer to import than all of byline; apps without destinations do not need it.
    from opentelemetry.exporter.otlp.proto.common import trace_encoder

    data: bytes = trace_encoder.encode_spans(spans).SerializePartialToString()
    return data


def encode_batches(spans: Sequence[ReadableSpan]) -> Iterator[Batch | int]:
    """Yield spans as batches of at most `MAX_BYTES`, and the number of spans that cannot be encoded."""
    try:
        data = encode_spans(spans)
    except Exception:
        data = b""
    if data and (len(data) <= MAX_BYTES or len(spans) == 1):
        yield Batch(gzip.compress(data, compresslevel=5, mtime=0), len(spans))
    elif len(spans) > 1:
        # One span that cannot be encoded must not cost the other spans of the batch.
        half = len(spans) // 2
        yield from encode_batches(spans[:half])
        yield from encode_batches(spans[half:])
    elif spans:
        yield 1


def read_batch(data: bytes) -> Batch | None:
    """Return a batch with the number of spans in the data, ``None`` if the data is no gzipped OTLP request."""
    try:
        spans = _count_spans(_parse(data))
    except Exception:
        return None
    return Batch(data, spans) if spans else None


def split_batch(batch: Batch) -> list[Batch]:
    """Return the two halves of a batch; nothing for a single span.

    Raises:
        google.protobuf.message.DecodeError: If the batch is no OTLP request.
    """
    whole = _parse(batch.data)
    count = _count_spans(whole)
    if count < 2:
        return []
    return [_select_spans(whole, 0, count // 2), _select_spans(whole, count // 2, count)]


def decode_spans(batch: Batch) -> list[ReadableSpan]:
    """Return the spans of a batch as an exporter of the SDK takes them.

    OpenTelemetry encodes no sampled flag; exported spans are sampled.
    """
    spans = []
    for of_resource in _parse(batch.data).resource_spans:
        resource = Resource(_decode_attributes(of_resource.resource.attributes), of_resource.schema_url)
        for of_scope in of_resource.scope_spans:
            scope = InstrumentationScope(
                of_scope.scope.name,
                of_scope.scope.version or None,
                of_scope.schema_url or None,
                _decode_attributes(of_scope.scope.attributes),
            )
            spans += [_decode_span(message, resource, scope) for message in of_scope.spans]
    return spans


def _parse(data: bytes) -> ExportTraceServiceRequest:
    # A small file can unpack to gigabytes.
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = unpacker.decompress(data, MAX_BYTES)
    if not unpacker.eof:
        raise ValueError("cut short or too large")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return ExportTraceServiceRequest.FromString(unpacked)


def _count_spans(request: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def _select_spans(whole: ExportTraceServiceRequest, first: int, last: int) -> Batch:
    part = type(whole)()
    at = 0
    for resource in whole.resource_spans:
        of_resource = None
        for scope in resource.scope_spans:
            selected = scope.spans[max(first - at, 0) : max(last - at, 0)]
            at += len(scope.spans)
            if not selected:
                continue
            if of_resource is None:
                of_resource = part.resource_spans.add(resource=resource.resource, schema_url=resource.schema_url)
            of_resource.scope_spans.add(scope=scope.scope, spans=selected, schema_url=scope.schema_url)
    return Batch(gzip.compress(part.SerializeToString(), compresslevel=5, mtime=0), last - first)


def _decode_span(message: SpanMessage, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    trace_id = int.from_bytes(message.trace_id, "big")
    state = TraceState.from_header([message.trace_state])
    context = SpanContext(
        trace_id, int.from_bytes(message.span_id, "big"), False, TraceFlags(TraceFlags.SAMPLED), state
    )
    parent = None
    if message.parent_span_id:
        parent_id = int.from_bytes(message.parent_span_id, "big")
        parent = SpanContext(trace_id, parent_id, _is_remote(message.flags), TraceFlags(TraceFlags.SAMPLED), state)
    attributes = BoundedAttributes(attributes=_decode_attributes(message.attributes))
    attributes.dropped = message.dropped_attributes_count
    return ReadableSpan(
        message.name,
        context,
        parent,
        resource,
        attributes,
        [Event(each.name, _decode_attributes(each.attributes), each.time_unix_nano) for each in message.events],
        [_decode_link(each) for each in message.links],
        # OTLP counts kinds from 1.
        SpanKind(max(message.kind - 1, 0)),
        status=Status(StatusCode(message.status.code), message.status.message or None),
        start_time=message.start_time_unix_nano,
        end_time=message.end_time_unix_nano,
        instrumentation_scope=scope,
    )


def _decode_link(message: SpanMessage.Link) -> Link:
    context = SpanContext(
        int.from_bytes(message.trace_id, "big"),
        int.from_bytes(message.span_id, "big"),
        _is_remote(message.flags),
        TraceFlags(message.flags & 0xFF),
        TraceState.from_header([message.trace_state]),
    )
    return Link(context, _decode_attributes(message.attributes))


def _is_remote(flags: int) -> bool:
    return bool(flags & _IS_REMOTE)


def _decode_attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _decode_value(pair.value) for pair in pairs}


def _decode_value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_decode_value(each) for each in value.array_value.values)
    if kind == "kvlist_value":
        return _decode_attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
