"""Spans as OTLP bytes, written without protobuf messages.

OpenTelemetry's encoder makes three messages for each attribute and hashes the resource for each span, which takes four
times as long as the bytes. The field numbers are those of ``opentelemetry/proto/trace/v1/trace.proto``,
``common/v1/common.proto`` and ``resource/v1/resource.proto``, which never change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, TraceState

from byline.fork import before_fork, fork_safe_lock

#: ``SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`` and ``SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK``.
_HAS_IS_REMOTE: Final = 0x100
IS_REMOTE: Final = 0x200
#: OTLP counts kinds from 1.
_KINDS: Final = {kind: kind.value + 1 for kind in SpanKind}
#: Bytes of name and value below which all lengths of an attribute take one byte.
_MAX_SHORT: Final = 0x80 - 4

#: Seconds for which a fork waits for a thread that imports protobuf.
_FORK_TIMEOUT: Final = 5.0
_import_lock: Final = fork_safe_lock()

_pack_double: Final[Callable[[float], bytes]] = struct.Struct("<d").pack
_pack_fixed64: Final[Callable[[int], bytes]] = struct.Struct("<Q").pack
_pack_fixed32: Final[Callable[[int], bytes]] = struct.Struct("<I").pack


def import_messages() -> Any:
    """Return the module of OTLP's messages, for requests and responses that have to be decoded.

    Protobuf takes longer to import than all of byline; most apps never need to decode.
    """
    with _import_lock:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    return trace_service_pb2


def _wait_for_import() -> None:
    """Wait until no thread imports protobuf: a child process would inherit the locks of that import for ever."""
    if _import_lock.acquire(timeout=_FORK_TIMEOUT):
        _import_lock.release()


before_fork(_wait_for_import)


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans as an OTLP request, not compressed.

    An attribute whose value OTLP does not know is left out, and counted with the attributes that the span has dropped.

    Raises:
        Exception: If a span has a kind, time or id that OTLP does not know.
    """
    resources: list[tuple[Resource, list[tuple[InstrumentationScope | None, list[bytes]]]]] = []
    resource: Resource | None = None
    scope: InstrumentationScope | None = None
    encoded: list[bytes] = []
    for span in spans:
        # Nearly all spans of a batch have the same objects.
        if not resources or span.resource is not resource or span.instrumentation_scope is not scope:
            resource, scope = span.resource, span.instrumentation_scope
            encoded = _group(_group(resources, resource), scope)
        encoded.append(_field(0x12, _encode_span(span)))
    return b"".join([_field(0x0A, _encode_resource_spans(each, scopes)) for each, scopes in resources])


def _group(groups: list[tuple[Any, list[Any]]], key: object) -> list[Any]:
    """Return the group of a resource or scope, made if there is none. There are few."""
    for known, group in groups:
        if known is key or known == key:
            return group
    group = []
    groups.append((key, group))
    return group


def _encode_resource_spans(
    resource: Resource, scopes: Sequence[tuple[InstrumentationScope | None, Sequence[bytes]]]
) -> bytes:
    attributes, dropped = _encode_attributes(0x0A, resource.attributes)
    parts = [_field(0x0A, attributes + _optional_integer(0x10, dropped))]
    for scope, spans in scopes:
        parts.append(_field(0x12, b"".join([_field(0x0A, _encode_scope(scope)), *spans, _schema_url(scope)])))
    parts.append(_schema_url(resource))
    return b"".join(parts)


def _encode_scope(scope: InstrumentationScope | None) -> bytes:
    if scope is None:
        return b""
    attributes, dropped = _encode_attributes(0x1A, scope.attributes)
    return b"".join(
        [
            _optional_text(0x0A, scope.name),
            _optional_text(0x12, scope.version),
            attributes,
            _optional_integer(0x20, dropped),
        ]
    )


def _schema_url(owner: Resource | InstrumentationScope | None) -> bytes:
    return b"" if owner is None else _optional_text(0x1A, owner.schema_url)


def _encode_span(span: ReadableSpan) -> bytes:
    context, parent = span.context, span.parent
    attributes, dropped = _encode_attributes(0x4A, span.attributes)
    parts = [
        b"\x0a\x10%b\x12\x08%b" % (context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")),
        _optional_text(0x1A, _trace_state(context.trace_state)),
        b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8, "big"),
        _optional_text(0x2A, span.name),
        b"\x30%c" % _KINDS[span.kind],
        _optional_fixed64(0x39, span.start_time),
        _optional_fixed64(0x41, span.end_time),
        attributes,
        _optional_integer(0x50, span.dropped_attributes + dropped),
    ]
    if span.events:
        parts += [_field(0x5A, _encode_event(event)) for event in span.events]
    parts.append(_optional_integer(0x60, span.dropped_events))
    if span.links:
        parts += [_field(0x6A, _encode_link(link)) for link in span.links]
    parts.append(_optional_integer(0x70, span.dropped_links))
    parts.append(_field(0x7A, _encode_status(span.status)))
    parts.append(b"\x85\x01" + _flags(parent))
    return b"".join(parts)


def _encode_event(event: Event) -> bytes:
    attributes, dropped = _encode_attributes(0x1A, event.attributes)
    return b"".join(
        [
            _optional_fixed64(0x09, event.timestamp),
            _optional_text(0x12, event.name),
            attributes,
            _optional_integer(0x20, event.dropped_attributes + dropped),
        ]
    )


def _encode_link(link: Link) -> bytes:
    context = link.context
    attributes, dropped = _encode_attributes(0x22, link.attributes)
    return b"".join(
        [
            b"\x0a\x10%b\x12\x08%b" % (context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")),
            attributes,
            _optional_integer(0x28, link.dropped_attributes + dropped),
            b"\x35" + _flags(context),
        ]
    )


def _encode_status(status: Status) -> bytes:
    code = status.status_code.value
    return _optional_text(0x12, status.description) + (b"\x18%c" % code if code else b"")


def _flags(context: SpanContext | None) -> bytes:
    return _pack_fixed32(_HAS_IS_REMOTE | IS_REMOTE if context is not None and context.is_remote else _HAS_IS_REMOTE)


def _trace_state(state: TraceState | None) -> str | None:
    return ",".join([f"{key}={value}" for key, value in state.items()]) if state else None


def _encode_attributes(tag: int, attributes: Mapping[str, Any] | None) -> tuple[bytes, int]:
    """Return the attributes as fields with this tag, and the number of those that OTLP cannot carry."""
    parts: list[bytes] = []
    dropped = 0
    for name, value in (attributes or {}).items():
        try:
            key = _encode_name(name) if len(name) < _MAX_SHORT else _field(0x0A, name.encode())
            if type(value) is str:
                data = value.encode()
                size = len(data)
                if len(key) + size < _MAX_SHORT:
                    parts.append(b"%c%c%b\x12%c\x0a%c%b" % (tag, len(key) + size + 4, key, size + 2, size, data))
                    continue
                encoded = _field(0x0A, data)
            else:
                encoded = _encode_value(value)
                size = len(encoded)
                if len(key) + size < _MAX_SHORT:
                    parts.append(b"%c%c%b\x12%c%b" % (tag, len(key) + size + 2, key, size, encoded))
                    continue
            parts.append(_field(tag, key + _field(0x12, encoded)))
        except (TypeError, ValueError, AttributeError, OverflowError, struct.error, RecursionError):
            dropped += 1
    return b"".join(parts), dropped


# Of short names only: an instrumentation may make names of the keys of a stranger's JSON.
@lru_cache(maxsize=4096)
def _encode_name(name: str) -> bytes:
    return _field(0x0A, name.encode())


def _encode_value(value: Any) -> bytes:
    """Return a value as ``AnyValue``. Raises `TypeError`, `ValueError` if there is none for the value."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return _field(0x0A, value.encode())
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError
        return b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _pack_double(value)
    if isinstance(value, bytes):
        return _field(0x3A, value)
    if isinstance(value, Sequence):
        return _field(0x2A, b"".join([_field(0x0A, _encode_value(each)) for each in value]))
    if isinstance(value, Mapping):
        members = [_field(0x0A, str(key).encode()) + _field(0x12, _encode_value(each)) for key, each in value.items()]
        return _field(0x32, b"".join([_field(0x0A, member) for member in members]))
    raise TypeError


def _field(tag: int, data: bytes) -> bytes:
    """Return a field of texts, bytes or messages. All of these have tags of one byte."""
    size = len(data)
    return b"%c%c%b" % (tag, size, data) if size < 0x80 else b"%c%b%b" % (tag, _varint(size), data)


def _optional_text(tag: int, text: str | None) -> bytes:
    return _field(tag, text.encode()) if text else b""


def _optional_integer(tag: int, number: int) -> bytes:
    return b"%c%b" % (tag, _varint(number)) if number else b""


def _optional_fixed64(tag: int, number: int | None) -> bytes:
    return b"%c%b" % (tag, _pack_fixed64(number)) if number else b""


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
