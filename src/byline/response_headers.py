"""The headers that tell the client its session and its traces: the middlewares' ``respond``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, Final, Literal

from opentelemetry import trace
from opentelemetry.instrumentation import propagators

from byline import errors, request_context, settings
from byline.genai.server_span import current_server_span
from byline.inbound.reader import ClaimReader
from byline.inbound.request import HeaderNames
from byline.inbound.trust import bound_session_id
from byline.request_context import RequestContext
from byline.settings import SettingError

Respond = Collection[Literal["session", "trace"]]

_SESSION: Final = "x-session-id"
_TRACE: Final = "x-trace-id"
#: The span that has handled the request: spec/21-http_response_header_format.md of W3C's trace-context, a draft.
_SPAN: Final = "traceresponse"
#: Scripts of other origins may read the headers that this header names (Fetch, 3.2.3).
_EXPOSE: Final = "access-control-expose-headers"
#: The beginning of a session that is bound to its user, or the whole of a long one.
_DIGEST: Final = re.compile(r"[0-9a-f]{32}(?::|$)", re.ASCII)
_COOKIE: Final = HeaderNames({"cookie": "cookie"})


def resolve_respond(respond: Any) -> frozenset[str]:
    """Return the argument, the setting for ``None``. Raises `SettingError` ``byline.E146`` for any other value."""
    respond = settings.resolve("respond", respond)
    if isinstance(respond, Collection) and not isinstance(respond, str | bytes):
        valid = [each for each in respond if each in ("session", "trace")]
        if len(valid) == len(respond):
            return frozenset(valid)
    raise SettingError("byline.E146", f"respond={respond!r}", 'pass a set of "session" and "trace", or an empty one')


class ResponseHeaders:
    """Adds the headers to the responses of one app; a middleware calls `asgi` or `wsgi` instead of the app.

    Args:
        app: The app inside the middleware.
        respond: The validated setting, not empty.
        reader: The reader of the middleware. If a request has another one, another middleware decides: one around
            this one, or the app's own inside one that zero code has added.
    """

    def __init__(self, app: Any, respond: frozenset[str], reader: ClaimReader) -> None:
        #: Under the name by which detectors of server spans look for apps.
        self.app = app
        self._respond = respond
        self._reader = reader

    async def asgi(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Call the ASGI app, and add the headers to the start of its HTTP response."""
        context = request_context.attached()
        if context is None or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        span = current_server_span(trace.get_current_span())

        async def send_message(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = self._extend_message(message, context, span)
            await send(message)

        await self.app(scope, receive, send_message)

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Call the WSGI app, and add the headers to its response."""
        context = request_context.attached()
        span = current_server_span(trace.get_current_span())

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            return start_response(status, self.extend(headers, context, span), *error)

        response: Iterable[bytes] = self.app(environ, start)
        return response

    def extend(
        self,
        headers: list[tuple[str, str]],
        context: RequestContext | None,
        span: trace.Span | None,
        *,
        besides: Collection[str] = (),
    ) -> list[tuple[str, str]]:
        """Return the headers of a response with those that the client gets; a header of the app's own stays.

        Args:
            headers: The headers of the app.
            context: The context of the request.
            span: The server span if it was made around the app, for a request that was not sampled.
            besides: Names of headers that other code adds later.
        """
        try:
            root = None if context is None else context.root()
            if root is None or root.reader is not self._reader or _is_for_all_clients(headers):
                return headers
            added = self._headers(root, span)
            present = {*besides, *(name.lower() for name, _ in headers)}
            added = {name: value for name, value in added.items() if name not in present}
            return [*_expose(headers, added), *added.items()] if added else headers
        except Exception:
            errors.report_internal_error("response headers")
            return headers

    def _extend_message(self, message: Any, context: RequestContext, span: trace.Span | None) -> Any:
        # The specification allows any iterable, which may be one that can be read once.
        raw = list(message.get("headers") or ())
        message = {**message, "headers": raw}
        try:
            # OpenTelemetry's middleware would add a second one.
            propagator = propagators.get_global_response_propagator()  # type: ignore[no-untyped-call]
            besides = (_SPAN,) if isinstance(propagator, propagators.TraceResponsePropagator) else ()
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
            extended = self.extend(headers, context, span, besides=besides)
            if extended is not headers:
                encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in extended]
                message["headers"] = encoded
        except Exception:
            errors.report_internal_error("response headers")
        return message

    def _headers(self, context: RequestContext, around: trace.Span | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        # The rest of the body may state another session or trace.
        is_complete = context.is_complete()
        if "session" in self._respond and is_complete:
            session = _session_of_client(context)
            if session and _is_header_value(session) and not _is_in_cookies(context, session):
                headers[_SESSION] = session
        span = context.server_span or around
        span_context = trace.INVALID_SPAN_CONTEXT if span is None else span.get_span_context()
        if "trace" in self._respond:
            if span_context.is_valid:
                ids = f"{span_context.trace_id:032x}-{span_context.span_id:016x}"
                headers[_SPAN] = f"00-{ids}-{int(span_context.trace_flags):02x}"
            exported = context.exported_trace_id(span_context.trace_id) if is_complete else 0
            if exported:
                headers[_TRACE] = f"{exported:032x}"
        return headers


def _session_of_client(context: RequestContext) -> str | None:
    """Return the session as the client may send it again: on a public endpoint without the digest of its user."""
    attribution = context.attribution()
    session = attribution.session_id
    if session is None or not context.is_public or context.vouched().session_id == session:
        return session
    own = session.partition(":")[2]
    if own and bound_session_id(own, attribution.user_id, attribution.organization_id) == session:
        return own
    return None if _DIGEST.match(session) else session


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()


def _is_in_cookies(context: RequestContext, text: str) -> bool:
    """Return whether the request has a cookie with this value, which scripts must not learn: it may be HttpOnly."""
    request = context.request()
    if request is None:
        return False
    lines = request.collect_headers(_COOKIE).get("cookie", ())
    return text in request.cookies(lines).values()


def _is_for_all_clients(headers: list[tuple[str, str]]) -> bool:
    """Return whether shared caches may store the response, and tell others its ids (RFC 9111, 5.2.2)."""
    values = (value.lower() for name, value in headers if name.lower() == "cache-control")
    return any("public" in value or "s-maxage" in value for value in values)


def _expose(headers: list[tuple[str, str]], added: Iterable[str]) -> list[tuple[str, str]]:
    """Return the headers with the names of the added ones in the list of readable headers."""
    extended, names = list(headers), ", ".join(added)
    for number, (name, value) in enumerate(extended):
        if name.lower() == _EXPOSE:
            extended[number] = (name, f"{value}, {names}" if value.strip() else names)
            return extended
    return [*extended, (_EXPOSE, names)]
