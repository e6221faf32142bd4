"""requests: ``Session.send``."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

from byline import guard
from byline.calls import call as calls
from byline.calls import rules
from byline.calls.call import Call
from byline.calls.clients import patches

#: The call around a redirect, which requests follows by calling ``send`` anew.
_outer: Final[ContextVar[tuple[Call, str, int, Any] | None]] = ContextVar("byline_requests_call", default=None)


def patch(module: Any) -> None:
    """Hook the session of requests."""
    patches.replace(module.Session, "send", _send)


def _send(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        outer = _outer.get()
        # A redirect may turn a POST into a GET, whose headers are those of the POST.
        if rules.in_force is None or (request.method != "POST" and outer is None):
            return original(self, request, **options)
        parts = urlsplit(request.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if outer is not None:
            # The hop of a redirect is part of the call around it.
            if (host, port) != outer[1:3]:
                _take_back(request, outer)
            return original(self, request, **options)
        call = calls.begin(
            host,
            port,
            parts.path,
            lambda: {name.lower(): _text(value) for name, value in request.headers.items()},
            lambda: request.body.encode() if isinstance(request.body, str) else _bytes(request.body),
        )
        if call is None:
            return original(self, request, **options)
        token = _outer.set((call, host, port, request.body))
        try:
            _write(request, call)
            with call.current():
                # Read by hand below, so that a stream stays one.
                response = original(self, request, **options)
        except BaseException as error:
            call.fail(error)
            raise
        finally:
            _outer.reset(token)
        _answered(call, response, streamed=bool(options.get("stream")))
        return response

    return send


def _write(request: Any, call: Call) -> None:
    request.headers.update(call.headers)
    if call.body is not None:
        request.body = call.body
        request.headers["Content-Length"] = str(len(call.body))


def _take_back(request: Any, outer: tuple[Call, str, int, Any]) -> None:
    call, _, _, body = outer
    for name in call.headers:
        request.headers.pop(name, None)
    if call.body is not None and request.body == call.body:
        request.body = body
        request.headers["Content-Length"] = str(call.length)


def _answered(call: Call, response: Any, *, streamed: bool) -> None:
    try:
        call.answered(response.status_code, {name.lower(): value for name, value in response.headers.items()})
        if not streamed:
            call.end(response.content)
            return
        _tee(response, call)
    except Exception:
        guard.report("requests")


def _tee(response: Any, call: Call) -> None:
    """See what ``iter_content`` hands out; its chunks are decoded already."""
    call.seen.is_decoded()
    kind = type(response)
    # Bound methods would hold the response in a circle, and it would not go when the app lets go of it.
    itself = weakref.ref(response)

    def iter_content(*arguments: Any, **options: Any) -> Any:
        try:
            for chunk in kind.iter_content(itself(), *arguments, **options):
                call.see(chunk if isinstance(chunk, bytes) else str(chunk).encode())
                yield chunk
        except Exception as error:
            call.fail(error)
            raise
        finally:
            call.end()

    def closing() -> None:
        call.end()
        kind.close(itself())

    response.iter_content = iter_content
    response.close = closing
    weakref.finalize(response, call.end).atexit = False


def _bytes(body: Any) -> bytes | None:
    return body if isinstance(body, bytes) else None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
