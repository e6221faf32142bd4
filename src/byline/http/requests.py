"""requests: ``Session.send``, and the reading of its responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

from byline import errors
from byline.http import call_config, patching
from byline.http import llm_request as calls
from byline.http.llm_request import LLMRequest

#: The call around a redirect, which requests follows by calling ``send`` anew.
_outer: Final[ContextVar[tuple[LLMRequest, str, int, Any] | None]] = ContextVar("byline_requests_call", default=None)


def patch(module: Any) -> None:
    """Hook the session of requests and its responses."""
    patching.wrap_method(module.Session, "send", _send)
    patching.wrap_method(module.Response, "iter_content", _iter_content)
    patching.wrap_method(module.Response, "close", _close)


def _send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        outer = _outer.get()
        # A redirect may turn a POST into a GET, whose headers are those of the POST.
        if call_config.current is None or (request.method != "POST" and outer is None):
            return original(self, request, **options)
        try:
            parts = urlsplit(request.url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return original(self, request, **options)
        if outer is not None:
            # The hop of a redirect is part of the call around it.
            if (host, port) != outer[1:3]:
                _take_back(request, outer[0], outer[3])
            return original(self, request, **options)
        call = calls.begin_llm_request(
            host,
            port,
            parts.path,
            lambda: {name.lower(): _text(value) for name, value in request.headers.items()},
            lambda: request.body.encode() if isinstance(request.body, str) else _bytes(request.body),
        )
        if call is None:
            return original(self, request, **options)
        body = request.body
        token = _outer.set((call, host, port, body))
        response = None
        try:
            with call.activate():
                _write(request, call)
                # Read by hand below, so that a stream stays one.
                response = original(self, request, **options)
        finally:
            _outer.reset(token)
            _restore(request, response, call, body)
        _answered(call, response)
        return response

    return send


def _write(request: Any, call: LLMRequest) -> None:
    request.headers.update(call.headers)
    if call.body is not None:
        request.body = call.body
        request.headers["Content-Length"] = str(len(call.body))


def _take_back(request: Any, call: LLMRequest, body: Any) -> None:
    call.restore_headers(request.headers)
    if call.body is not None and request.body is call.body:
        request.body = body
        request.headers["Content-Length"] = str(len(call.content or b""))


def _restore(request: Any, response: Any, call: LLMRequest, body: Any) -> None:
    """Give the app its requests back as they were, for it may send them again on behalf of somebody else."""
    try:
        requests = [request]
        if response is not None:
            requests += [response.request, response.next, *(hop.request for hop in response.history)]
        for each in requests:
            if each is not None:
                _take_back(each, call, body)
    except Exception:
        errors.report_internal_error("requests")


def _answered(call: LLMRequest, response: Any) -> None:
    try:
        call.on_response(response.status_code, {name.lower(): value for name, value in response.headers.items()})
        # Whether it is to be streamed may stand with the call or with the session, and a hook may have read it.
        if response._content_consumed:
            call.end(response.content)
            return
        _tee(response, call)
    except Exception:
        call.end()
        errors.report_internal_error("requests")


def _tee(response: Any, call: LLMRequest) -> None:
    # The chunks that it hands out are decoded already.
    call.buffer.disable_decompression()
    setattr(response, patching.CALL, call)
    patching.finalize_with(response, call)


def _iter_content(original: Callable[..., Any]) -> Callable[..., Any]:
    def iter_content(self: Any, *arguments: Any, **options: Any) -> Any:
        chunks = original(self, *arguments, **options)
        call = self.__dict__.get(patching.CALL)
        return chunks if call is None else _watch(chunks, call)

    return iter_content


def _close(original: Callable[..., Any]) -> Callable[..., Any]:
    def close(self: Any) -> None:
        call = self.__dict__.get(patching.CALL)
        if call is not None:
            call.end()
        original(self)

    return close


def _watch(chunks: Any, call: LLMRequest) -> Iterator[Any]:
    try:
        for chunk in chunks:
            call.on_chunk(chunk if isinstance(chunk, bytes) else str(chunk).encode())
            yield chunk
    except Exception as error:
        call.fail(error)
        raise
    finally:
        call.end()


def _bytes(body: Any) -> bytes | None:
    return body if isinstance(body, bytes) else None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
