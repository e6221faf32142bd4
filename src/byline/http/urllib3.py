"""urllib3: ``PoolManager.urlopen``, below all of its own requests. requests and botocore go past it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

from byline import errors
from byline.http import call_config, patching
from byline.http import llm_request as calls
from byline.http.llm_request import LLMRequest

#: The call around a redirect, which the manager follows by calling ``urlopen`` anew.
_outer: Final[ContextVar[tuple[LLMRequest, str, int, Any] | None]] = ContextVar("byline_urllib3_call", default=None)


def patch(module: Any) -> None:
    """Hook the pool manager."""
    patching.wrap_method(module.PoolManager, "urlopen", _urlopen)


def _urlopen(original: Callable[..., Any]) -> Callable[..., Any]:
    def urlopen(self: Any, method: str, url: str, redirect: bool = True, **options: Any) -> Any:
        if call_config.current is None or (method.upper() != "POST" and _outer.get() is None):
            return original(self, method, url, redirect, **options)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            # It has rules of its own for what is a URL.
            return original(self, method, url, redirect, **options)
        outer = _outer.get()
        if outer is not None:
            # The hop of a redirect is part of the call around it.
            if (host, port) != outer[1:3]:
                _take_back(options, outer)
            return original(self, method, url, redirect, **options)
        given = options.get("headers", self.headers)
        body = options.get("body")
        call = calls.begin_llm_request(
            host,
            port,
            parts.path,
            lambda: {str(name).lower(): str(value) for name, value in (given or {}).items()},
            lambda: body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else None,
        )
        if call is None:
            return original(self, method, url, redirect, **options)
        if call.headers:
            # A copy of the same kind: it may hold one name several times.
            options["headers"] = given.copy() if hasattr(given, "copy") else dict(given or {})
            options["headers"].update(call.headers)
        if call.body is not None:
            options["body"] = call.body
        token = _outer.set((call, host, port, body))
        try:
            with call.activate():
                response = original(self, method, url, redirect, **options)
        finally:
            _outer.reset(token)
        answered(call, response, whole=options.get("preload_content", True), decoded=options.get("decode_content"))
        return response

    return urlopen


def _take_back(options: dict[str, Any], outer: tuple[LLMRequest, str, int, Any]) -> None:
    call, _, _, body = outer
    given = options.get("headers")
    if given is not None and call.headers:
        kept = given.copy() if hasattr(given, "copy") else dict(given)
        call.restore_headers(kept)
        options["headers"] = kept
    if call.body is not None and options.get("body") is call.body:
        options["body"] = body


def answered(call: LLMRequest, response: Any, *, whole: bool, decoded: bool | None = True) -> None:
    """Take note of a response of urllib3, and see its body as it is read."""
    try:
        call.on_response(response.status, {name.lower(): value for name, value in response.headers.items()})
        if whole:
            call.end(response.data)
            return
        if decoded is not False:
            call.buffer.disable_decompression()
        tee(response, call)
    except Exception:
        call.end()
        errors.report_internal_error("urllib3")


def tee(response: Any, call: LLMRequest) -> None:
    """See what the reading methods hand out; ``stream`` and all others rest on these."""
    patching.swap_class(response, call, _seen)


def _seen(kind: type) -> type:
    parent: Any = kind

    class Seen(parent):  # type: ignore[misc]
        def read(self, amt: int | None = None, *arguments: Any, **options: Any) -> Any:
            return _reading(self, super().read, amt, *arguments, **options)

        def read1(self, amt: int | None = None, *arguments: Any, **options: Any) -> Any:
            return _reading(self, super().read1, amt, *arguments, **options)

        def read_chunked(self, *arguments: Any, **options: Any) -> Iterator[Any]:
            call: LLMRequest = getattr(self, patching.CALL)
            try:
                for chunk in super().read_chunked(*arguments, **options):
                    call.on_chunk(chunk)
                    yield chunk
            except Exception as error:
                call.fail(error)
                raise
            finally:
                call.end()

        def close(self) -> None:
            getattr(self, patching.CALL).end()
            super().close()

    return Seen


def _reading(response: Any, read: Callable[..., Any], amt: int | None, *arguments: Any, **options: Any) -> Any:
    call: LLMRequest = getattr(response, patching.CALL)
    try:
        data = read(amt, *arguments, **options)
    except Exception as error:
        call.fail(error)
        raise
    if data:
        call.on_chunk(data)
    if amt is None or (not data and amt != 0) or response.isclosed():
        call.end()
    return data
