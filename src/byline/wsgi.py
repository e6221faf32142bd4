"""The WSGI middleware: Flask, Django under WSGI, Falcon, Bottle and every other WSGI app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import Context, copy_context
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN

from byline import deferred, errors, request_context
from byline.genai import caller_trace, server_span
from byline.genai.server_span import ServerSpanSetting
from byline.genai.setup_check import InstrumentationCheck
from byline.genai.span_state import attach_nested_request, is_below_other_request, set_server_span
from byline.genai.tracer_provider import has_tracer_provider
from byline.genai.wsgi_server_span import WsgiServerSpan, WsgiServerSpans
from byline.inbound.app_protocol import check_call, require_no_loop, require_protocol
from byline.inbound.reader import ClaimReader
from byline.inbound.trust import Identity, Trust
from byline.inbound.wsgi_input import tee_wsgi_input
from byline.request_context import CONTEXT_KEY, DEFAULT_AFTER_RESPONSE, RequestContext, resolve_after_response
from byline.response_headers import Respond, ResponseHeaders, resolve_respond
from byline.settings import SettingError

__all__ = ["AttributionMiddleware"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class AttributionMiddleware:
    """Attributes the LLM spans of every request to the user, session and trace that the caller sent.

    Safe if the callers are your own: services, back-ends, gateways, or a front-end whose users see only their
    own conversations anyway. By default every claim is accepted from everybody, as LLM gateways do with their
    callers. Not safe if strangers call the endpoint: pass ``public=True`` and ``identity`` there.

    The app, every step of its response body and its ``close()`` run in one copied context, so that generators
    keep the attribution and nothing is left behind on the worker's thread.

    Args:
        app: The WSGI app.
        fields: The sources of attribution fields in the app's own API, e.g.
            ``{"session_id": "body:conversation.id"}``; also ``header:``, ``query:``, ``path:``
            (a router's parameter, or a template as ``path:/chat/{id}/messages``) and ``cookie:``.
        identity: Function of the environ that returns the authenticated values, as a mapping of
            attribution fields, or ``None``. Called late, when an LLM span or the app needs them.
            Claimed users and organizations are ignored once this is set.
        trust: Which claims are accepted and from whom: a set of the groups ``session``, ``user``,
            ``trace``, ``labels``, ``metadata`` and ``masks``, or a function of the environ that returns such a
            set or a bool. By default all groups but ``masks`` (``mask_input`` and ``mask_output``, which hide
            content from you). Without ``trace``, the request does not join the trace of its ``traceparent``
            either; that is decided when the request begins.
        public: Whether strangers call the endpoint. Only sessions are accepted unless ``trust`` names more, and
            only as sessions of the user that ``identity`` returns. The request starts a trace of its own, linked
            to the caller's. Gateways get no claims, unless the gateway's
            ``forward_claims`` names them. The caller's API key is the one that ``identity`` returns as
            ``api_key`` or ``key_alias``.
        body_limit: Bytes of a JSON body that are buffered until the app has read the body. A longer
            body is passed on unchanged, but claims in the body are not read.
        app_span: ``"auto"`` creates a server span if the request has none and a tracer provider is
            set (needs ``byline[wsgi]``); ``False`` never does; ``True`` does so even if the app
            inside seems to create one.
        after_response: Seconds after the response in which threads that the request left behind are still attributed
            to it; ``None`` for no limit. See `byline.unbound`.
        respond: Ids that responses tell the client: ``"session"`` adds ``x-session-id``, ``"trace"`` adds
            ``traceresponse`` (the server span, as in W3C's draft of response headers for Trace Context) and
            ``x-trace-id`` (the trace at the destinations). Nothing by default. See docs/hops.md.

    A setting that is not passed comes from the environment or the configuration file, as docs/settings.md says.

    Raises:
        SettingError: ``byline.E010`` to ``byline.E018``, ``byline.E107`` to ``byline.E110`` and ``byline.E146``, at
            construction.

    Example:
        >>> def app(environ, start_response):
        ...     start_response("200 OK", [])
        ...     return [b"hello"]
        >>> app = AttributionMiddleware(app, trust={"session", "trace"})
    """

    @check_call(
        1,
        "write app.wsgi_app = AttributionMiddleware(app.wsgi_app, …) in Flask, app = AttributionMiddleware(app, …) "
        "elsewhere",
    )
    def __init__(
        self,
        app: WSGIApp,
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
        require_protocol(app, "wsgi")
        InstrumentationCheck.has_middleware = True
        self.app = app
        self._reader = ClaimReader(fields=fields, identity=identity, trust=trust, public=public, body_limit=body_limit)
        self._app_span = server_span.resolve_app_span(app_span)
        self._after_response = resolve_after_response(after_response)
        if ids := resolve_respond(respond):
            self.app = ResponseHeaders(app, ids, self._reader).wsgi
        self._spans = WsgiServerSpans() if self._app_span is True else None
        self._detector: server_span.ServerSpanDetector | None = None

    def mark_automatic(self) -> None:
        """Let a middleware of the app's own, further inside, read the claims of its requests by its own settings."""
        self._reader.is_automatic = True

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Make a request context and run the app in a copied context."""
        if CONTEXT_KEY in environ:
            require_no_loop(self, self.app)
            environ[CONTEXT_KEY].replace_automatic_reader(self._reader, self._after_response)
            return self.app(environ, start_response)
        if InstrumentationCheck.pending:
            InstrumentationCheck.warn_if_not_instrumented()
        deferred.run_deferred()
        python_context = copy_context()
        context = RequestContext(self._reader, environ, after_response=self._after_response)
        environ[CONTEXT_KEY] = context
        context.body = tee_wsgi_input(environ, self._reader.body_limit)
        python_context.run(request_context.attach, context)
        # Looked up once: a look-up takes as long as all the rest of a request without claims.
        current = trace.get_current_span()
        if self._reader.policy.may_isolate and not self._reader.policy.accepts_trace(environ):
            span = self._start_isolated_server_span(python_context, context, environ, current)
        else:
            span = self._start_server_span(python_context, context, environ, current)
        if request_context.attached() is not None or (
            context.server_span is None and current is not INVALID_SPAN and is_below_other_request(context, current)
        ):
            # The copied context is the request's own: nothing has to be restored.
            python_context.run(attach_nested_request, context)
        try:
            if span is not None:
                start_response = span.wrap_start_response(start_response)
            else:
                start_response = _add_attributes_at_start(context, start_response)
            response = python_context.run(self.app, environ, start_response)
        except BaseException as error:
            _finish(context, span, python_context, error)
            raise
        # A list runs no app code while it is read, and servers look at its length; a file wrapper is for the
        # server, which sends the file itself.
        if isinstance(response, list | tuple) or _is_file(response, environ):
            _finish(context, span, python_context)
            return response
        return _ResponseBody(response, python_context, context, span)

    def _start_server_span(
        self, python_context: Context, context: RequestContext, environ: Environ, current: trace.Span
    ) -> WsgiServerSpan | None:
        present = server_span.current_server_span(current)
        if present is not None or not self._app_span or not has_tracer_provider():
            set_server_span(context, present)
            return None
        if self._app_span == "auto" and self._app_makes_server_span(environ):
            return None
        if self._spans is None:
            try:
                self._spans = WsgiServerSpans()
            except SettingError as error:
                errors.warn_once("wsgi", "%s", error)
                return None
        return python_context.run(self._spans.start, context, environ)

    def _start_isolated_server_span(
        self, python_context: Context, context: RequestContext, environ: Environ, current: trace.Span
    ) -> WsgiServerSpan | None:
        hidden = caller_trace.hide_in_environ(environ)
        context.is_isolated = True
        span = self._start_server_span(python_context, context, environ, current)
        if context.server_span is not None:
            hidden.link_from(context.server_span)
        if context.server_span is not None or not self._reader.policy.public:
            # On a public endpoint no instrumentation inside may see them either.
            environ.update(hidden.headers)
        return span

    def _app_makes_server_span(self, environ: Environ) -> bool:
        if self._detector is None:
            self._detector = server_span.ServerSpanDetector(self.app)
        return self._detector.will_create(environ)


def _add_attributes_at_start(context: RequestContext, start_response: StartResponse) -> StartResponse:
    """Set the request attributes on a span that the app made, because Flask's ends before the body is read."""

    def call(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        if context.server_span is not None:
            server_span.set_request_attributes(context)
        return start_response(status, headers, *error)

    return call


def _is_file(response: object, environ: Environ) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(response, wrapper)


def _finish(
    context: RequestContext, span: WsgiServerSpan | None, python_context: Context, error: BaseException | None = None
) -> None:
    server_span.set_request_attributes(context)
    context.end()
    # Otherwise the request context, the environ and the body would keep each other alive.
    if context.scope_or_environ is not None:
        context.scope_or_environ.pop(CONTEXT_KEY, None)
    if span is not None:
        try:
            python_context.run(span.end, error)
        except Exception:
            errors.report_internal_error("server span")


class _ResponseBody:
    """A response body of which every step runs in the context of the request."""

    def __init__(
        self,
        response: Iterable[bytes],
        python_context: Context,
        context: RequestContext,
        span: WsgiServerSpan | None,
    ) -> None:
        self._response = response
        self._python_context = python_context
        self._context = context
        self._span = span
        self._iterator: Iterator[bytes] | None = None
        self._is_open = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = self._python_context.run(iter, self._response)
            return self._python_context.run(next, self._iterator)
        except StopIteration:
            # The body is complete; not every server calls close().
            self._end()
            raise
        except BaseException as error:
            self._end(error)
            raise

    def close(self) -> None:
        """Close the body of the app, as PEP 3333 asks of every middleware."""
        try:
            close = getattr(self._response, "close", None)
            if close is not None:
                self._python_context.run(close)
        finally:
            self._end()

    def __del__(self) -> None:
        # The server has not called close().
        if self._is_open:
            deferred.defer(self._end)

    def _end(self, error: BaseException | None = None) -> None:
        if self._is_open:
            self._is_open = False
            _finish(self._context, self._span, self._python_context, error)
