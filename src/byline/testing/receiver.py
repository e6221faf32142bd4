"""An OTLP receiver on 127.0.0.1, with the endpoints of Langfuse that byline calls."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from google.protobuf.json_format import MessageToJson, Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from byline.testing.server import Handler, Request, Server

_JSON: Final = {"content-type": "application/json"}
_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS: Final = ("UNSET", "OK", "ERROR")
_MEDIA: Final = "/api/public/media"
_STORE: Final = "/bucket/"
_URL_SAFE: Final = str.maketrans("+/", "-_")


class ReceivedSpan(NamedTuple):
    """An exported span as the `Receiver` got it.

    Attributes:
        trace_id: 32 hex digits; ``span_id`` and ``parent_id`` have 16, ``parent_id`` is ``None`` for a root span.
        kind: ``INTERNAL``, ``SERVER``, ``CLIENT``, ``PRODUCER`` or ``CONSUMER``.
        start: Nanoseconds since the epoch, like ``end``.
        status: ``UNSET``, ``OK`` or ``ERROR``.
        scope: The name of the instrumentation scope.
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


class ReceivedMedia(NamedTuple):
    """An image or another binary part that was uploaded to the `Receiver`.

    Attributes:
        content_type: The media type, e.g. ``image/png``.
        data: The bytes.
        places: Where it is shown: trace id, observation id, and ``input``, ``output`` or ``metadata``.
    """

    content_type: str
    data: bytes
    places: list[tuple[str, str | None, str]]


class Receiver(Server):
    """A server that accepts OTLP/HTTP exports, as protobuf or JSON, and keeps their spans.

    Accepts exports at every path that ends in ``/v1/traces``, so it can replace a collector or, with
    ``/api/public/projects``, ``/api/public/health`` and ``/api/public/media``, Langfuse. ``requests`` has the requests
    with their headers. `stop` closes the port, `start` opens it again.

    Args:
        keys: ``(public key, secret key)`` that every request must send as Basic authentication, as
            for Langfuse; ``None`` accepts every request.
        port: The port to serve on; by default a free one.

    Raises:
        SettingError: ``byline.E050`` if the port is taken.

    Example:
        >>> with Receiver() as receiver:
        ...     receiver.fail(503)  # the next export
        ...     receiver.spans
        []
    """

    def __init__(self, *, keys: tuple[str, str] | None = None, port: int = 0) -> None:
        super().__init__(port)
        self.keys = keys
        self._spans: list[ReceivedSpan] = []
        self._media: dict[str, ReceivedMedia] = {}
        self._shown_media: set[str] = set()
        self._failures: deque[tuple[int, dict[str, str]]] = deque()
        self._always: tuple[int, dict[str, str]] | None = None
        self._rejecting = 0
        self._open = threading.Event()
        self._open.set()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All received spans, in the order of arrival."""
        with self._arrived:
            return list(self._spans)

    @property
    def media(self) -> dict[str, ReceivedMedia]:
        """The uploaded binary parts by their id in Langfuse: those whose upload was reported as complete."""
        with self._arrived:
            return {name: media for name, media in self._media.items() if name in self._shown_media}

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedSpan]:
        """Return all spans as soon as there are ``count``. Raises `TimeoutError` after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._spans) >= count, timeout):
                raise TimeoutError(f"{len(self._spans)} of {count} spans arrived within {timeout} s")
            return list(self._spans)

    def clear(self) -> None:
        """Forget all spans, media and requests."""
        with self._arrived:
            self._spans.clear()
            self._media.clear()
            self._shown_media.clear()
            self.requests.clear()

    def fail(self, status: int, times: int | None = 1, headers: dict[str, str] | None = None) -> None:
        """Answer the next exports with an error, e.g. 401, 429 with ``{"retry-after": "1"}`` or 503.

        Args:
            status: The HTTP status; 0 closes the connection without a response.
            times: How many exports fail; ``None`` lets all fail until `recover`.
            headers: Headers of the error response.
        """
        if times is None:
            self._always = (status, headers or {})
        else:
            self._failures.extend([(status, headers or {})] * times)

    def reject(self, spans: int) -> None:
        """Reject this many spans of the next export with OTLP's partial success."""
        self._rejecting = spans

    def recover(self) -> None:
        """Accept all exports again."""
        self._always = None
        self._failures.clear()

    def hold(self) -> None:
        """Answer no export until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Answer the held exports, and later ones immediately."""
        self._open.set()

    def stop(self) -> None:
        """Stop serving; `start` serves again on the same port."""
        super().stop()
        self.release()

    def respond(self, request: Request, handler: Handler) -> None:
        """Send the response to one request."""
        if request.method == "PUT" and request.path.startswith(_STORE):
            self._store_media(request, handler)
        elif not self._is_authorized(request):
            handler.reply(401, b'{"message":"Invalid credentials. Confirm that you have the right host."}', _JSON)
        elif request.method == "GET":
            self._answer_langfuse(request, handler)
        elif request.path.endswith("/v1/traces"):
            self._accept_export(request, handler)
        elif request.method == "POST" and request.path == _MEDIA:
            self._name_media(request, handler)
        elif request.method == "PATCH" and request.path.startswith(f"{_MEDIA}/"):
            self._report_media(request, handler)
        else:
            handler.reply(404, b"not found", {})

    def _accept_export(self, request: Request, handler: Handler) -> None:
        self._open.wait()
        failure = self._failures.popleft() if self._failures else self._always
        if not self.serving or (failure is not None and failure[0] == 0):
            handler.cut()
            return
        if failure is not None:
            handler.reply(failure[0], b"{}", {**_JSON, **failure[1]})
            return
        try:
            spans = decode_export(request)
        except Exception as error:
            handler.reply(400, f"not OTLP: {type(error).__name__}".encode(), {})
            return
        rejected, self._rejecting = self._rejecting, 0
        with self._arrived:
            self._spans.extend(spans[: len(spans) - rejected])
            self._arrived.notify_all()
        kind = request.headers.get("content-type", "application/x-protobuf")
        handler.reply(200, _export_response(rejected, as_json="json" in kind), {"content-type": kind})

    def _name_media(self, request: Request, handler: Handler) -> None:
        """Return id and signed URL of a binary part, no URL if its bytes are there."""
        asked = request.json()
        digest = str(asked.get("sha256Hash"))
        kinds = (("contentType", str), ("contentLength", int), ("traceId", str))
        is_valid = all(isinstance(asked.get(name), kind) for name, kind in kinds) and len(digest) == 44
        if not is_valid or asked.get("field") not in ("input", "output", "metadata"):
            handler.reply(400, b'{"message":"Invalid request data"}', _JSON)
            return
        name = digest.translate(_URL_SAFE)[:22]
        with self._arrived:
            media = self._media.setdefault(name, ReceivedMedia(asked["contentType"], b"", []))
            media.places.append((asked["traceId"], asked.get("observationId"), asked["field"]))
            is_shown = name in self._shown_media
        url = None if is_shown else f"{self.url}{_STORE}{name}?X-Amz-Expires=3600&X-Amz-Signature=0a%2F1"
        handler.reply(201, json.dumps({"mediaId": name, "uploadUrl": url}).encode(), _JSON)

    def _store_media(self, request: Request, handler: Handler) -> None:
        """Keep the bytes of a binary part, as S3 does: other credentials than the signature are refused."""
        media = self._media.get(request.path.removeprefix(_STORE))
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        if media is None or "authorization" in request.headers or "X-Amz-Signature" not in request.query:
            handler.reply(400, b"<Error><Code>InvalidArgument</Code></Error>", {})
        elif request.headers.get("x-amz-checksum-sha256") != digest:
            handler.reply(400, b"<Error><Code>BadDigest</Code></Error>", {})
        else:
            with self._arrived:
                self._media[request.path.removeprefix(_STORE)] = media._replace(data=request.body)
            handler.reply(200, b"", {})

    def _report_media(self, request: Request, handler: Handler) -> None:
        name = request.path.rpartition("/")[2]
        if name not in self._media:
            handler.reply(404, b'{"message":"Media asset not found"}', _JSON)
            return
        with self._arrived:
            if request.json().get("uploadHttpStatus") in (200, 201):
                self._shown_media.add(name)
        handler.reply(200, b"{}", _JSON)

    def _answer_langfuse(self, request: Request, handler: Handler) -> None:
        answers: dict[str, Any] = {
            "/api/public/projects": {"data": [{"id": "p-1", "name": "receiver", "metadata": {}}]},
            "/api/public/health": {"status": "OK", "version": "4.16.0"},
        }
        answer = answers.get(request.path)
        handler.reply(200 if answer else 404, json.dumps(answer or {"message": "not found"}).encode(), _JSON)

    def _is_authorized(self, request: Request) -> bool:
        # Langfuse's health endpoint needs no keys.
        if self.keys is None or request.path.endswith("/health"):
            return True
        expected = base64.b64encode(":".join(self.keys).encode()).decode()
        return request.headers.get("authorization") == f"Basic {expected}"


def decode_export(request: Request) -> list[ReceivedSpan]:
    """Return the spans of an export request. Raises if the body is neither protobuf nor JSON of OTLP."""
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


def _export_response(rejected: int, *, as_json: bool) -> bytes:
    """Return the body of a successful response, with the number of rejected spans."""
    message = ExportTraceServiceResponse()
    if rejected:
        message.partial_success.rejected_spans = rejected
        message.partial_success.error_message = "Rejected by byline.testing.Receiver."
    return MessageToJson(message).encode() if as_json else message.SerializeToString()


def _parse_json(body: bytes, message: ExportTraceServiceRequest) -> None:
    Parse(body, message)
    # OTLP's JSON encodes ids as hex; protobuf's JSON parser reads them as base64.
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                span.trace_id = _decode_hex(span.trace_id)
                span.span_id = _decode_hex(span.span_id)
                span.parent_span_id = _decode_hex(span.parent_span_id)


def _decode_hex(misread: bytes) -> bytes:
    # Hex digits are valid base64, so encoding the misread bytes gives the hex text back.
    return bytes.fromhex(base64.b64encode(misread).decode())


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _plain_value(pair.value) for pair in pairs}


def _plain_value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_plain_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    # Bytes become hex, so that a span can be dumped as JSON.
    return value.bytes_value.hex() if kind == "bytes_value" else getattr(value, kind)
