"""The ASGI door: FastAPI, Starlette, Litestar, Quart, Django under ASGI and every other ASGI app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from byline import guard, lifespan, record
from byline.inbound import interface
from byline.inbound.body import DEFAULT_LIMIT, Body, is_json, parse_length
from byline.inbound.reader import Identity, InboundReader
from byline.inbound.request import plain_headers
from byline.inbound.trust import GROUPS, Trust
from byline.record import Record
from byline.spans import absence, server
from byline.spans.server import AppSpan

#: Marks a scope that has passed a door, so that a second door on the same request stands open.
_MARK: Final = "byline.record"
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
        app_span: AppSpan = "auto",
    ) -> None:
        interface.check(app, "asgi")
        self.app = app
        self._reader = InboundReader(fields=fields, identity=identity, trust=trust, body_limit=body_limit)
        self._app_span = server.check(app_span)
        self._traced: ASGIApp | None = None
        self._inner: server.InnerTracing | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a record for http and websocket scopes; everything else passes untouched."""
        if scope["type"] not in ("http", "websocket") or _MARK in scope:
            if scope["type"] == "lifespan":
                await lifespan.live(self.app, scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        try:
            span = server.of_request(trace.get_current_span())
            if span is not None or not self._app_span or not server.is_configured():
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
        token = server.leave_ended_span()
        try:
            await self._traced(scope, receive, send)
        except Exception:
            # What OpenTelemetry stumbles over before it calls the app must not fail the request.
            if _MARK in scope:
                raise
            guard.warn_once("otel.asgi", "byline.E091: the server span could not be made; requests go on without it")
            await self._sign(scope, receive, send, None, watch=False)
        finally:
            if token is not None:
                otel_context.detach(token)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        # None where OpenTelemetry leaves this request out, e.g. by OTEL_PYTHON_EXCLUDED_URLS.
        span = server.made_here(trace.get_current_span())
        await self._sign(scope, receive, send, span, watch=span is not None)

    async def _sign(self, scope: Scope, receive: Receive, send: Send, span: trace.Span | None, *, watch: bool) -> None:
        if absence.unsaid:
            absence.say()
        owner = Record(self._reader, scope)
        if watch:
            server.adopt(owner, span)
            send = _watch(owner, send)
        if scope["type"] == "http" and scope.get("method") in _WITH_BODY and self._reader.body_limit:
            receive = _tee(owner, scope, receive, self._reader.body_limit)
        scope[_MARK] = owner
        token = record.enter(owner)
        try:
            await self.app(scope, receive, send)
        finally:
            try:  # noqa: SIM105 - suppress() takes longer than all the rest of this block
                record.leave(token)
            except ValueError:
                # Driven by something that changes contexts in mid-call, the value dies with them.
                pass
            if watch:
                server.enrich(owner)

    def _traces_inside(self, scope: Scope) -> bool:
        if self._inner is None:
            self._inner = server.InnerTracing(self.app)
        return self._inner.covers(scope)


_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "QUERY"})


def _watch(owner: Record, send: Send) -> Send:
    """Enrich the app span just before the message that makes its owner end it."""

    async def watched(message: Message) -> None:
        if message["type"] in _ENDS and not message.get("more_body", False):
            server.enrich(owner)
        await send(message)

    return watched


def _tee(owner: Record, scope: Scope, receive: Receive, limit: int) -> Receive:
    """Keep references to the chunks of a body as the app reads them."""
    body = owner.body = Body(limit, None, _describe, scope)

    async def teed() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            body.feed(message.get("body", b""), not message.get("more_body", False))
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
