"""The ASGI middleware: FastAPI, Starlette, Litestar, Quart, Django under ASGI and every other ASGI app."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from types import MethodType
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import INVALID_SPAN
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from byline import errors, request_context, shutdown
from byline.genai import caller_trace, server_span
from byline.genai.server_span import ServerSpanSetting
from byline.genai.setup_check import InstrumentationCheck
from byline.genai.span_state import (
    accept_server_span,
    attach_nested_request,
    is_below_other_request,
    refuse_server_span,
    set_server_span,
)
from byline.genai.tracer_provider import has_tracer_provider
from byline.inbound.app_protocol import check_call, require_no_loop, require_protocol
from byline.inbound.body import BodyBuffer, is_json, parse_length
from byline.inbound.reader import ClaimReader
from byline.inbound.request import plain_headers
from byline.inbound.trust import Identity, Trust
from byline.request_context import CONTEXT_KEY, DEFAULT_AFTER_RESPONSE, RequestContext, resolve_after_response
from byline.response_headers import Respond, ResponseHeaders, resolve_respond

__all__ = ["AttributionMiddleware"]

#: Frameworks have types of their own for scope, receive and send.
AnyASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]

_LAST_MESSAGES: Final = frozenset(
    {
        "http.response.body",
        "http.response.pathsend",
        "http.response.trailers",
        # A websocket has no last message: the client may disconnect at any time.
        "websocket.accept",
        "websocket.close",
    }
)
_LAST_LIFESPAN_MESSAGES: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class AttributionMiddleware:
    """Attributes the LLM spans of every request to the user, session and trace that the caller sent.

    Safe if the callers are your own: services, back-ends, gateways, or a front-end whose users see only their
    own conversations anyway. By default every claim is accepted from everybody, as LLM gateways do with their
    callers. Not safe if strangers call the endpoint: pass ``public=True`` and ``identity`` there.

    Args:
        app: The ASGI app.
        fields: The sources of attribution fields in the app's own API, e.g.
            ``{"session_id": "body:conversation.id"}``; also ``header:``, ``query:``, ``path:``
            (a router's parameter, or a template as ``path:/chat/{id}/messages``) and ``cookie:``.
        identity: Function of the scope that returns the authenticated values, as a mapping of
            attribution fields, or ``None``. Called late, when an LLM span or the app needs them,
            so that authentication further inside has run. Claimed users and organizations are
            ignored once this is set.
        trust: Which claims are accepted and from whom: a set of the groups ``session``, ``user``,
            ``trace``, ``labels``, ``metadata`` and ``masks``, or a function of the scope that returns such a
            set or a bool. By default all groups but ``masks`` (``mask_input`` and ``mask_output``, which hide
            content from you). Without ``trace``, the request does not join the trace of its ``traceparent``
            either; that is decided when the request begins.
        public: Whether strangers call the endpoint. Only sessions are accepted unless ``trust`` names more, and
            only as sessions of the user that ``identity`` returns. The request starts a trace of its own, linked
            to the caller's. Header names count exactly as written. Gateways get no claims, unless the gateway's
            ``forward_claims`` names them. The caller's API key is the one that ``identity`` returns as
            ``api_key`` or ``key_alias``.
        body_limit: Bytes of a JSON body that are buffered until the app has read the body. A longer
            body is passed on unchanged, but claims in the body are not read.
        app_span: ``"auto"`` creates a server span if the request has none and a tracer provider is
            set; ``False`` never does; ``True`` does so even if the app inside seems to create one.
        after_response: Seconds after the response in which tasks and threads that the request left behind are still
            attributed to it; ``None`` for no limit. See `byline.unbound`.
        respond: Ids that responses tell the client: ``"session"`` adds ``x-session-id``, ``"trace"`` adds
            ``traceresponse`` (the server span, as in W3C's draft of response headers for Trace Context) and
            ``x-trace-id`` (the trace at the destinations). Nothing by default. See docs/hops.md.

    A setting that is not passed comes from the environment or the configuration file, as docs/settings.md says.

    Raises:
        SettingError: ``byline.E010`` to ``byline.E016``, ``byline.E018``, ``byline.E107`` to ``byline.E110`` and
            ``byline.E146``, at construction.

    Example:
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> app.add_middleware(AttributionMiddleware, trust={"session", "trace"})
    """

    @check_call(
        1,
        "write app.add_middleware(AttributionMiddleware, …) or Middleware(AttributionMiddleware, …) in Starlette and "
        "FastAPI, app = AttributionMiddleware(app, …) elsewhere",
    )
    def __init__(
        self,
        app: AnyASGIApp,
        *,
        fields: Mapping[str, str | Iterable[str]] | None = None,
        identity: Identity | None = None,
        trust: Trust | None = None,
        public: bool | None = None,
        body_limit: int | None = None,
        app_span: ServerSpanSetting | None = None,
        after_response: float | None = DEFAULT_AFTER_RESPONSE,
        respond: Respond | None = None,
    ) -> None:
        require_protocol(app, "asgi")
        InstrumentationCheck.has_middleware = True
        self.app = app
        self._reader = ClaimReader(fields=fields, identity=identity, trust=trust, public=public, body_limit=body_limit)
        self._app_span = server_span.resolve_app_span(app_span)
        self._after_response = resolve_after_response(after_response)
        if ids := resolve_respond(respond):
            self.app = ResponseHeaders(app, ids, self._reader).asgi
        # Asked in each request.
        self._body_limit = self._reader.body_limit
        self._may_isolate = self._reader.policy.may_isolate
        self._find_server_span = server_span.current_server_span
        #: This middleware in a server span of its own making, and OpenTelemetry's middleware around that.
        self._inner: AttributionMiddleware | None = None
        self._otel_middleware: ASGIApp | None = None
        self._is_inner = False
        self._detector: server_span.ServerSpanDetector | None = None

    def mark_automatic(self) -> None:
        """Let a middleware of the app's own, further inside, read the claims of its requests by its own settings."""
        self._reader.is_automatic = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make a request context for http and websocket scopes; pass every other scope on."""
        protocol = scope["type"]
        if (protocol != "http" and protocol != "websocket") or CONTEXT_KEY in scope:
            await self._pass_on(scope, receive, send)
            return
        if self._may_isolate and caller_trace.KEY not in scope and not self._reader.policy.accepts_trace(scope):
            scope[caller_trace.KEY] = caller_trace.hide_in_scope(scope)
        # Looked up once: a look-up takes as long as all the rest of a request without claims.
        current = trace.get_current_span()
        span = None if current is INVALID_SPAN else self._find_server_span(current)
        adds_attributes = False
        if span is not None:
            adds_attributes = span.is_recording()
        elif self._app_span and has_tracer_provider():
            if self._app_span is True or not self._app_makes_server_span(scope):
                await self._call_traced(scope, receive, send)
                return
            adds_attributes = True
        if InstrumentationCheck.pending:
            InstrumentationCheck.warn_if_not_instrumented()
        context = RequestContext(self._reader, scope, None, self._after_response)
        if self._may_isolate and caller_trace.KEY in scope:
            self._isolate(context, scope, span)
        if adds_attributes:
            set_server_span(context, span)
            send = _add_attributes_before_end(context, send)
        if self._body_limit and protocol == "http" and scope.get("method") in _METHODS_WITH_BODY:
            receive = _tee_body(context, scope, receive, self._body_limit)
        otel_token = None
        outer = request_context.attached()
        if outer is not None or (span is None and current is not INVALID_SPAN):
            otel_token = _attach_if_nested(context, outer, current)
        token = request_context.attach(context)
        scope[CONTEXT_KEY] = context
        try:
            await self.app(scope, receive, send)
        finally:
            if otel_token is not None:
                server_span.detach_quietly(otel_token)
            try:  # noqa: SIM105 - contextlib.suppress takes longer than the rest of this block
                request_context.detach(token)
            except ValueError:
                # A driver that changes the context during the call drops the value with that context.
                pass
            if adds_attributes:
                server_span.set_request_attributes(context)
            context.end()
            if not self._is_inner:
                # Otherwise the request context, the scope and the body would keep each other alive.
                scope.pop(CONTEXT_KEY, None)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_no_loop(self, self.app)
        if scope["type"] == "lifespan":
            await run_lifespan(self.app, scope, receive, send)
            return
        if CONTEXT_KEY in scope:
            scope[CONTEXT_KEY].replace_automatic_reader(self._reader, self._after_response)
        await self.app(scope, receive, send)

    async def _call_traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = self._inner
        if inner is None or self._otel_middleware is None:
            inner = copy.copy(self)
            inner._app_span, inner._is_inner = False, True
            # None if OpenTelemetry leaves this request out, e.g. because of OTEL_PYTHON_EXCLUDED_URLS.
            inner._find_server_span = server_span.created_by_otel_middleware
            # A subclass may have a `__call__` of its own, which has run.
            self._otel_middleware = OpenTelemetryMiddleware(
                MethodType(AttributionMiddleware.__call__, inner), exclude_spans=["receive", "send"]
            )
            self._inner = inner
        # May have been replaced since the last request.
        inner.app = self.app
        token = server_span.detach_ended_span()
        outer = request_context.attached()
        if outer is not None:
            refuse_server_span(outer)
        try:
            await self._otel_middleware(scope, receive, send)
        except Exception:
            # An error in OpenTelemetry's middleware before the app is called must not fail the request.
            if CONTEXT_KEY in scope:
                raise
            errors.warn_once(
                "otel.asgi", "byline.E091: the server span could not be created; requests continue without one"
            )
            await AttributionMiddleware.__call__(inner, scope, receive, send)
        finally:
            scope.pop(CONTEXT_KEY, None)
            if token is not None:
                server_span.detach_quietly(token)

    def _isolate(self, context: RequestContext, scope: Scope, span: trace.Span | None) -> None:
        hidden: caller_trace.HiddenTrace = scope.pop(caller_trace.KEY)
        context.is_isolated = True
        if span is not None:
            hidden.link_from(span)
        if span is not None or not self._reader.policy.public:
            # On a public endpoint no instrumentation inside may see them either.
            scope["headers"] = hidden.headers

    def _app_makes_server_span(self, scope: Scope) -> bool:
        if self._detector is None:
            self._detector = server_span.ServerSpanDetector(self.app)
        return self._detector.will_create(scope)


_METHODS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "QUERY"})


def _attach_if_nested(context: RequestContext, outer: RequestContext | None, current: trace.Span) -> Any:
    """Attach a request that runs within another one to OpenTelemetry's context if needed; return the token."""
    if outer is not None:
        accept_server_span(outer)
    elif not is_below_other_request(context, current):
        return None
    return attach_nested_request(context)


def _add_attributes_before_end(context: RequestContext, send: Send) -> Send:
    """Set the request attributes on the server span just before the message that makes its owner end the span."""

    async def send_message(message: Message) -> None:
        kind = message["type"]
        if kind in _LAST_MESSAGES and not message.get("more_body", False):
            server_span.set_request_attributes(context)
            if kind != "websocket.accept" and kind != "websocket.close":
                context.response_sent = True
        await send(message)

    return send_message


def _tee_body(context: RequestContext, scope: Scope, receive: Receive, limit: int) -> Receive:
    """Keep references to the chunks of the body as the app reads them."""
    body = context.body = BodyBuffer(limit, None, _inspect_headers, scope)

    async def receive_message() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            body.append(message.get("body", b""), not message.get("more_body", False))
        return message

    return receive_message


def _inspect_headers(scope: MutableMapping[str, Any]) -> tuple[bool, int | None]:
    """Return whether the body is one JSON text, and its announced length."""
    plain = plain_headers(scope)
    if plain is not None:
        if plain.get(b"content-encoding", b"identity").lower() != b"identity":
            return False, None
        readable = is_json(plain.get(b"content-type", b"").decode("latin-1"))
        return readable, parse_length(plain.get(b"content-length", b"").decode("latin-1"))
    length: int | None = None
    readable = False
    for name, value in scope.get("headers") or ():
        if len(name) == 12 and name.lower() == b"content-type":
            readable = is_json(value.decode("latin-1"))
        elif len(name) == 14 and name.lower() == b"content-length":
            length = parse_length(value.decode("latin-1"))
        elif len(name) == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
            return False, None
    return readable, length


async def run_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the lifespan of an app, and flush the destinations when the app has shut down.

    The end of the lifespan is the last message of a server that stops: uvicorn, for example, ends by the signal
    that stopped it, without the exit of the interpreter. For an app without a lifespan, such as Django's,
    byline answers the messages.
    """
    is_used = is_shutting_down = False

    async def receive_message() -> Message:
        nonlocal is_used, is_shutting_down
        is_used = True
        message = await receive()
        is_shutting_down = message["type"] == "lifespan.shutdown"
        return message

    async def send_message(message: Message) -> None:
        nonlocal is_used, is_shutting_down
        is_used = True
        if message["type"] in _LAST_LIFESPAN_MESSAGES:
            is_shutting_down = False
            await _flush_destinations()
        await send(message)

    try:
        try:
            await app(scope, receive_message, send_message)
        finally:
            if is_shutting_down:
                # The app failed, or does not answer.
                await _flush_destinations()
        return
    except Exception:
        # An app that fails in a lifespan of its own has received a message.
        if is_used or not shutdown.hooks.has_hooks():
            raise
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await _flush_destinations()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "lifespan.startup.complete"})


async def _flush_destinations() -> None:
    # With a limiter of its own, because the threads of the app may all be in use for long.
    await to_thread.run_sync(shutdown.hooks.on_server_stop, limiter=CapacityLimiter(1))
