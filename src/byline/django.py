"""Django's middleware, for ``settings.MIDDLEWARE``: sync and async, under WSGI and ASGI, with ``request.user`` as user.

Example:
    ::

        # settings.py
        MIDDLEWARE = [
            "byline.django.AttributionMiddleware",  # the first
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ]
        BYLINE = {"fields": {"session_id": "body:conversation.id"}}  # optional
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextvars import copy_context
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django import conf
from django.utils.functional import empty
from opentelemetry import context as otel_context
from opentelemetry import trace

from byline import deferred, errors, request_context
from byline.bound import Contexts, run_part
from byline.genai import caller_trace, server_span
from byline.genai.setup_check import InstrumentationCheck
from byline.genai.span_state import attach_nested_request, set_server_span
from byline.genai.tracer_provider import has_tracer_provider
from byline.genai.wsgi_server_span import WsgiServerSpan, WsgiServerSpans
from byline.inbound.reader import ClaimReader
from byline.inbound.request import DJANGO_REQUEST_KEY
from byline.inbound.wsgi_input import tee_wsgi_input
from byline.request_context import CONTEXT_KEY, DEFAULT_AFTER_RESPONSE, RequestContext, resolve_after_response
from byline.response_headers import ResponseHeaders, resolve_respond
from byline.settings import SettingError

__all__ = ["AttributionMiddleware", "logged_in_user"]

Raw = MutableMapping[str, Any]


def logged_in_user(raw: Raw) -> dict[str, Any] | None:
    """Return the user that Django's authentication found, ``None`` for an anonymous one: the default ``identity``.

    In async code only a user that the request has loaded already, because loading needs the database: call
    ``await request.auser()`` before the model call.
    """
    request = raw.get(DJANGO_REQUEST_KEY)
    user = vars(request).get("user") if request is not None else None
    if getattr(user, "_wrapped", None) is empty:
        user = getattr(request, "_acached_user", None) or getattr(request, "_cached_user", None) or _load(request, user)
    if user is None or not user.is_authenticated:
        return None
    return {"user_id": str(user.pk)}


def _load(request: Any, user: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        session = getattr(request, "session", None)
        accessed = getattr(session, "accessed", False)
        user.is_authenticated  # noqa: B018 - loads the user
        if session is not None:
            # Django would add "Vary: Cookie" to a response that does not depend on the cookie.
            session.accessed = accessed
        return user
    return None


class AttributionMiddleware:
    """Attributes the LLM spans of every request, as `byline.wsgi.AttributionMiddleware` does.

    The logged-in user is the user of the request, and claimed users are ignored. ``settings.BYLINE`` has the arguments
    of `byline.wsgi.AttributionMiddleware`; ``{"identity": None}`` accepts claimed users instead.

    Args:
        get_response: The next middleware or the view, as Django passes it.

    Raises:
        SettingError: As for `byline.wsgi.AttributionMiddleware`, when Django starts.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        options: dict[str, Any] = {"identity": logged_in_user, **(getattr(conf.settings, "BYLINE", None) or {})}
        self._app_span = server_span.resolve_app_span(options.pop("app_span", None))
        self._after_response = resolve_after_response(options.pop("after_response", DEFAULT_AFTER_RESPONSE))
        respond = resolve_respond(options.pop("respond", None))
        self._reader = ClaimReader(**options)
        self._spans: WsgiServerSpans | None = None
        InstrumentationCheck.has_middleware = True
        self.body_limit = self._reader.body_limit
        self.is_async = bool(iscoroutinefunction(get_response))
        if self.is_async:
            markcoroutinefunction(self)
        if respond:
            response_headers = ResponseHeaders(get_response, respond, self._reader)
            self.get_response = _add_response_headers(response_headers, is_async=self.is_async)

    def __call__(self, request: Any) -> Any:
        """Make a request context and call the view."""
        raw: Raw = request.scope if hasattr(request, "scope") else request.environ
        raw[DJANGO_REQUEST_KEY] = request
        outer: RequestContext | None = raw.get(CONTEXT_KEY)
        if outer is not None:
            outer.replace_automatic_reader(self._reader, self._after_response)
            return self.get_response(request)
        if InstrumentationCheck.pending:
            InstrumentationCheck.warn_if_not_instrumented()
        deferred.run_deferred()
        handled = _Request(self, request, raw)
        return handled.run_async(self.get_response) if self.is_async else handled.run(self.get_response)

    def make_context(self, raw: Raw) -> RequestContext:
        """Return a new context for a request."""
        return RequestContext(self._reader, raw, after_response=self._after_response)

    def start_server_span(self, context: RequestContext, request: Any, raw: Raw) -> WsgiServerSpan | None:
        """Start a server span if the request has none, in the current ``contextvars`` context."""
        # Under ASGI, Django describes the request by the names of WSGI too.
        environ = {"wsgi.url_scheme": request.scheme, **request.META}
        policy = self._reader.policy
        if not policy.may_isolate or policy.accepts_trace(raw):
            return self._start_server_span(context, environ)
        # A copy: the app reads the headers as they were sent.
        hidden = caller_trace.hide_in_environ(environ)
        context.is_isolated = True
        span = self._start_server_span(context, environ)
        if context.server_span is not None:
            hidden.link_from(context.server_span)
        return span

    def _start_server_span(self, context: RequestContext, environ: dict[str, Any]) -> WsgiServerSpan | None:
        present = server_span.current_server_span(trace.get_current_span())
        if present is not None or not self._app_span or not has_tracer_provider():
            set_server_span(context, present)
            return None
        try:
            if self._spans is None:
                self._spans = WsgiServerSpans()
        except SettingError as error:
            errors.warn_once("wsgi", "%s", error)
            return None
        return self._spans.start(context, environ)


def _add_response_headers(response_headers: ResponseHeaders, *, is_async: bool) -> Callable[[Any], Any]:
    """Return a function that calls the view and adds the headers of ``respond`` to its response."""
    get_response = response_headers.app

    def extend(response: Any) -> Any:
        span = server_span.current_server_span(trace.get_current_span())
        extended = response_headers.extend(list(response.items()), request_context.attached(), span)
        for name, value in extended:
            if response.get(name) != value:
                response[name] = value
        return response

    def call(request: Any) -> Any:
        return extend(get_response(request))

    async def call_async(request: Any) -> Any:
        return extend(await get_response(request))

    return call_async if is_async else call


class _Request:
    """One request: its context lasts until the response, or the stream of the response, has ended."""

    def __init__(self, middleware: AttributionMiddleware, request: Any, raw: Raw) -> None:
        self._raw = raw
        self._request = request
        self._middleware = middleware
        self.context = middleware.make_context(raw)
        raw[CONTEXT_KEY] = self.context
        tee = {**request.META, "wsgi.input": request._stream}
        self.context.body = tee_wsgi_input(tee, middleware.body_limit)
        request._stream = tee["wsgi.input"]
        self._span: WsgiServerSpan | None = None
        # A context that nobody else uses: the stream of a response runs after this middleware has returned, under ASGI
        # in another task, and the span has to end in the context in which it started.
        self._python_context = copy_context()

    def _enter(self) -> None:
        is_nested = request_context.attached() is not None
        request_context.attach(self.context)
        self._span = self._middleware.start_server_span(self.context, self._request, self._raw)
        if is_nested:
            attach_nested_request(self.context)

    def run(self, get_response: Callable[[Any], Any]) -> Any:
        try:
            self._python_context.run(self._enter)
            response = self._python_context.run(get_response, self._request)
        except BaseException as error:
            self._end(error)
            raise
        return self._watch(response)

    async def run_async(self, get_response: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            self._python_context.run(self._enter)
            # The view runs in the task of the request.
            with run_part(Contexts(self.context, self._python_context.run(otel_context.get_current))):
                response = await get_response(self._request)
        except BaseException as error:
            self._end(error)
            raise
        return self._watch(response)

    def _watch(self, response: Any) -> Any:
        # A file is sent by the server.
        if not response.streaming or getattr(response, "file_to_stream", None) is not None:
            self._end(None, response)
        elif response.is_async:
            response.streaming_content = self._stream_async(aiter(response.streaming_content), response)
        else:
            response.streaming_content = self._stream(iter(response.streaming_content), response)
        return response

    def _stream(self, chunks: Iterator[bytes], response: Any) -> Iterator[bytes]:
        try:
            while (chunk := self._python_context.run(next, chunks, None)) is not None:
                yield chunk
        finally:
            self._end(None, response)

    async def _stream_async(self, chunks: AsyncIterator[bytes], response: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                try:
                    # In a task, because only a task runs in a given context.
                    step = self._python_context.run(asyncio.ensure_future, anext(chunks))
                    yield await step
                except StopAsyncIteration:
                    break
        finally:
            self._end(None, response)

    def _end(self, error: BaseException | None = None, response: Any = None) -> None:
        try:
            server_span.set_request_attributes(self.context)
            self.context.end()
            for key in (CONTEXT_KEY, DJANGO_REQUEST_KEY):
                self._raw.pop(key, None)
            if self._span is not None:
                span, self._span = self._span, None
                if response is not None:
                    status = f"{response.status_code} {response.reason_phrase}"
                    self._python_context.run(span.wrap_start_response(lambda *_: None), status, list(response.items()))
                self._python_context.run(span.end, error)
        except Exception:
            errors.report_internal_error("django")
