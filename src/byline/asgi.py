"""The ASGI door: FastAPI, Starlette, Litestar, Quart, Django under ASGI and every other ASGI app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from byline import errors, lifespan, request_context
from byline.genai import server_span
from byline.genai.attribution_processor import InstrumentationCheck
from byline.genai.server_span import ServerSpanSetting
from byline.genai.span_state import set_server_span
from byline.genai.tracer_provider import has_tracer_provider
from byline.inbound.body import DEFAULT_LIMIT, BodyBuffer, is_json, parse_length
from byline.inbound.reader import GROUPS, ClaimReader, Identity, Trust
from byline.inbound.request import plain_headers, require_protocol
from byline.request_context import RequestContext

#: Marks a scope that has passed a door, so that a second door on the same request stands open.
_MARK: Final = "byline.request_context"
_ENDS: Final = frozenset(
    {
        "http.response.body",
        "http.response.pathsend",
        "http.response.trailers",
        # A websocket has no last message: its client may just go.
        "websocket.accept",
        "websocket.close",
    }
)


class AttributionMiddleware:
    """Signs the LLM spans of every request with who asked, in which conversation.

    Safe where the callers are your own: services, back-ends, gateways, or a front-end whose users
    may see only their own conversations anyway. By default every claim is accepted from everybody,
    as LLM gateways do with their callers. Not safe on a public endpoint whose reports must not be
    forged: there pass ``identity``, which beats every claimed user, and a narrower ``trust``.

    Args:
        app: The ASGI app.
        fields: Where the app's own API carries an attribution field, e.g.
            ``{"session_id": "body:conversation.id"}``; also ``header:``, ``query:``, ``path:``
            (a router's parameter, or a template as ``path:/chat/{id}/messages``) and ``cookie:``.
        identity: Function of the scope that returns the authenticated values, as a mapping of
            attribution fields, or ``None``. It is asked late, when an LLM span or the app needs it,
            so that authentication further inside has run. Claimed users and organizations are
            ignored once it is set.
        trust: Which claims are accepted and from whom: a set of the groups ``session``, ``user``,
            ``trace``, ``labels`` and ``metadata``, or a function of the scope that returns such a
            set or a bool.
        body_limit: Bytes of a JSON body that are kept until it has been read. A longer body is
            handed on like any other, its claims are not read.
        app_span: ``"auto"`` makes a server span where the request has none and a tracer provider
            is set; ``False`` never does; ``True`` does so even where the app inside seems to make its own.

    Raises:
        SettingError: ``byline.E011`` to ``byline.E016`` and ``byline.E018``, at construction.

    Example:
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> app.add_middleware(AttributionMiddleware, trust={"session", "trace"})
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        fields: Mapping[str, str | Iterable[str]] | None = None,
        identity: Identity | None = None,
        trust: Trust = GROUPS,
        body_limit: int = DEFAULT_LIMIT,
        app_span: ServerSpanSetting = "auto",
    ) -> None:
        require_protocol(app, "asgi")
        self.app = app
        self._reader = ClaimReader(fields=fields, identity=identity, trust=trust, body_limit=body_limit)
        self._app_span = server_span.validate_app_span(app_span)
        self._traced: ASGIApp | None = None
        self._inner: server_span.ServerSpanDetector | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a record for http and websocket scopes; everything else passes untouched."""
        if scope["type"] not in ("http", "websocket") or _MARK in scope:
            if scope["type"] == "lifespan":
                await lifespan.run_lifespan(self.app, scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        try:
            span = server_span.current_server_span(trace.get_current_span())
            if span is not None or not self._app_span or not has_tracer_provider():
                await self._sign(scope, receive, send, span, watch=span is not None and span.is_recording())
            elif self._app_span is not True and self._traces_inside(scope):
                await self._sign(scope, receive, send, None, watch=True)
            else:
                await self._trace(scope, receive, send)
        finally:
            # Else the record, the scope and the body would keep each other alive.
            scope.pop(_MARK, None)

    async def _trace(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._traced is None:
            self._traced = OpenTelemetryMiddleware(self._enter, exclude_spans=["receive", "send"])
        token = server_span.detach_ended_span()
        try:
            await self._traced(scope, receive, send)
        except Exception:
            # What OpenTelemetry stumbles over before it calls the app must not fail the request.
            if _MARK in scope:
                raise
            errors.warn_once(
                "otel.asgi", "byline.E091: the server span could not be created; requests continue without one"
            )
            await self._sign(scope, receive, send, None, watch=False)
        finally:
            if token is not None:
                otel_context.detach(token)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        # None where OpenTelemetry leaves this request out, e.g. by OTEL_PYTHON_EXCLUDED_URLS.
        span = server_span.created_by_otel_middleware(trace.get_current_span())
        await self._sign(scope, receive, send, span, watch=span is not None)

    async def _sign(self, scope: Scope, receive: Receive, send: Send, span: trace.Span | None, *, watch: bool) -> None:
        if InstrumentationCheck.pending:
            InstrumentationCheck.warn_if_not_instrumented()
        owner = RequestContext(self._reader, scope)
        if watch:
            set_server_span(owner, span)
            send = _watch(owner, send)
        if scope["type"] == "http" and scope.get("method") in _WITH_BODY and self._reader.body_limit:
            receive = _tee(owner, scope, receive, self._reader.body_limit)
        scope[_MARK] = owner
        token = request_context.attach(owner)
        try:
            await self.app(scope, receive, send)
        finally:
            try:  # noqa: SIM105 - suppress() takes longer than all the rest of this block
                request_context.detach(token)
            except ValueError:
                # Driven by something that changes contexts in mid-call, the value dies with them.
                pass
            if watch:
                server_span.set_request_attributes(owner)

    def _traces_inside(self, scope: Scope) -> bool:
        if self._inner is None:
            self._inner = server_span.ServerSpanDetector(self.app)
        return self._inner.will_create(scope)


_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "QUERY"})


def _watch(owner: RequestContext, send: Send) -> Send:
    """Enrich the app span just before the message that makes its owner end it."""

    async def watched(message: Message) -> None:
        if message["type"] in _ENDS and not message.get("more_body", False):
            server_span.set_request_attributes(owner)
        await send(message)

    return watched


def _tee(owner: RequestContext, scope: Scope, receive: Receive, limit: int) -> Receive:
    """Keep references to the chunks of a body as the app reads them."""
    body = owner.body = BodyBuffer(limit, None, _describe, scope)

    async def teed() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            body.append(message.get("body", b""), not message.get("more_body", False))
        return message

    return teed


def _describe(scope: MutableMapping[str, Any]) -> tuple[bool, int | None]:
    """Say whether the body is one JSON text, and how long it is announced to be."""
    plain = plain_headers(scope)
    if plain is not None:
        if plain.get(b"content-encoding", b"identity").lower() != b"identity":
            return False, None
        readable = is_json(plain.get(b"content-type", b"").decode("latin-1"))
        return readable, parse_length(plain.get(b"content-length", b"").decode("latin-1"))
    expected: int | None = None
    readable = False
    for name, value in scope.get("headers") or ():
        if len(name) == 12 and name.lower() == b"content-type":
            readable = is_json(value.decode("latin-1"))
        elif len(name) == 14 and name.lower() == b"content-length":
            expected = parse_length(value.decode("latin-1"))
        elif len(name) == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
            return False, None
    return readable, expected
