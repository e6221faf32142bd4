"""Hooks for httpx and httpx2: ``Client.send`` and ``AsyncClient.send``, because those see every transport."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

from byline import deferred, errors
from byline.apis import find_api
from byline.http.call_config import configs
from byline.http.client_hooks import RunExchange, decode_headers, default_port
from byline.http.llm_request import LLMRequest, begin_llm_request
from byline.patching import Patches

#: Request extension that holds the `AddedIds`; httpx copies extensions to the requests of redirects.
_EXTENSION: Final = "byline.call"
_BUILD_REDIRECT: Final = "_build_redirect_request"
#: Most chunks end with "}\n\n". Comparing one byte is the cheapest way to find one that may end with "[DONE]".
_BRACE: Final = ord("}")

WrapStream = Callable[[Any, LLMRequest], Any]


def patch_clients(patches: Patches, module: Any) -> None:
    """Hook the clients of ``httpx`` or ``httpx2``."""
    sync_stream, async_stream = _make_stream_classes(module)
    patches.wrap_method(module.Client, "send", lambda send: _wrap_send(send, module, sync_stream))
    patches.wrap_method(module.AsyncClient, "send", lambda send: _wrap_async_send(send, module, async_stream))
    classes = {*module.Client.__mro__, *module.AsyncClient.__mro__}
    # Without this method ids would follow redirects to other origins, so a client without it is not patched.
    for owner in [each for each in classes if _BUILD_REDIRECT in vars(each)] or [module.Client]:
        patches.wrap_method(owner, _BUILD_REDIRECT, _wrap_build_redirect)


def _wrap_send(original: Callable[..., Any], module: Any, wrap_stream: WrapStream) -> Callable[..., Any]:
    def send(self: Any, request: Any, **options: Any) -> Any:
        llm_request = _begin_request(request, module)
        if llm_request is None:
            return original(self, request, **options)
        with _run_exchange(llm_request, request, options, wrap_stream) as exchange:
            exchange.response = original(self, request, **options)
        return exchange.response

    return send


def _wrap_async_send(original: Callable[..., Any], module: Any, wrap_stream: WrapStream) -> Callable[..., Any]:
    async def send(self: Any, request: Any, **options: Any) -> Any:
        llm_request = _begin_request(request, module)
        if llm_request is None:
            return await original(self, request, **options)
        with _run_exchange(llm_request, request, options, wrap_stream) as exchange:
            exchange.response = await original(self, request, **options)
        return exchange.response

    return send


def _begin_request(request: Any, module: Any) -> LLMRequest | None:
    if not configs.active:
        return None
    url = request.url
    path = url.raw_path.partition(b"?")[0].decode("ascii", "replace")
    api = find_api(request.method, path)
    if api is None:
        return None
    port = url.port or default_port(url.scheme)
    # Absent if the body is produced while it is sent.
    content = getattr(request, "_content", None)
    llm_request = begin_llm_request(
        api,
        url.host,
        port,
        path,
        lambda: _decode_headers(request.headers),
        lambda: content if isinstance(content, bytes) else None,
        request.method,
        lambda: _form_fields(request.stream),
    )
    if llm_request is not None and (llm_request.headers or llm_request.body is not None):
        AddedIds(llm_request, (url.host, port), request.stream, module).add_to(request)
    return llm_request


def _form_fields(stream: Any) -> dict[str, str]:
    """Return the text fields of a form with files, which httpx encodes while it sends."""
    texts: dict[str, str] = {}
    for field in getattr(stream, "fields", ()):
        value = getattr(field, "value", None)
        if isinstance(value, str | bytes):
            texts[str(field.name)] = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return texts


def _decode_headers(headers: Any) -> Mapping[str, str]:
    """Return headers as text, names in lower case; httpx's own methods take four times as long."""
    try:
        # Name as sent, name in lower case, and value.
        listed = headers._list
        texts = {name.decode(): value.decode() for _, name, value in listed}
    except (AttributeError, TypeError, ValueError):
        # Another version of httpx, or an encoding that httpx finds out.
        return decode_headers(headers)
    # httpx joins the values of repeated headers.
    return texts if len(texts) == len(listed) else decode_headers(headers)


class AddedIds:
    """The headers and the body that byline gave to a request, so that they can be removed again."""

    def __init__(self, llm_request: LLMRequest, origin: tuple[str, int], app_stream: Any, module: Any) -> None:
        self.origin = origin
        self._llm_request = llm_request
        self._app_stream = app_stream
        self._stream = None if llm_request.body is None else module.ByteStream(llm_request.body)

    def add_to(self, request: Any) -> None:
        """Add headers and body to the request."""
        request.extensions = {**request.extensions, _EXTENSION: self}
        request.headers.update(self._llm_request.headers)
        if self._stream is not None:
            _set_body(request, self._stream, self._llm_request.body)

    def remove_from(self, request: Any) -> None:
        """Remove headers and body that were not changed since by the app, a hook or the authentication."""
        request.extensions = {name: value for name, value in request.extensions.items() if name != _EXTENSION}
        self._llm_request.restore_headers(request.headers)
        if self._stream is not None and request.stream is self._stream:
            _set_body(request, self._app_stream, self._llm_request.content)


def _set_body(request: Any, stream: Any, content: bytes | None) -> None:
    request.stream = stream
    # Transports of other libraries send `Request.content`, not the stream.
    if hasattr(request, "_content"):
        request._content = content
    if content is not None and "content-length" in request.headers:
        request.headers["content-length"] = str(len(content))


def _run_exchange(
    llm_request: LLMRequest, request: Any, options: dict[str, Any], wrap_stream: WrapStream
) -> RunExchange:
    def read_response(llm_request: LLMRequest, response: Any) -> None:
        llm_request.on_response(response.status_code, _decode_headers(response.headers))
        if not options.get("stream") or response.is_stream_consumed:
            llm_request.end(response.content)
        else:
            response.stream = wrap_stream(response.stream, llm_request)

    has_added = bool(llm_request.headers) or llm_request.body is not None
    restore_request = functools.partial(_remove_added, request) if has_added else None
    return RunExchange("httpx", llm_request, read_response, restore_request)


def _remove_added(request: Any, response: Any) -> None:
    # The app may send any of them again, on behalf of another user.
    sent = [request]
    if response is not None:
        sent += [response.request, response.next_request, *(redirect.request for redirect in response.history)]
    for each in sent:
        added = None if each is None else each.extensions.get(_EXTENSION)
        if added is not None:
            added.remove_from(each)


def _wrap_build_redirect(original: Callable[..., Any]) -> Callable[..., Any]:
    """Remove ids from the request of a redirect to another origin."""

    def build_redirect_request(self: Any, request: Any, response: Any) -> Any:
        redirect = original(self, request, response)
        try:
            added = request.extensions.get(_EXTENSION)
            url = redirect.url
            if added is not None and added.origin != (url.host, url.port or default_port(url.scheme)):
                added.remove_from(redirect)
        except Exception:
            errors.report_internal_error("redirect")
        return redirect

    return build_redirect_request


def _make_stream_classes(module: Any) -> tuple[WrapStream, WrapStream]:
    """Return the sync and the async class that watch a streamed body.

    httpx accepts only subclasses of its own classes. Chunks of a long stream cost one append to a deque.
    ``BoundSyncStream``, a loop around another stream, is bypassed, so that there is one loop only.
    """
    client_module = getattr(module, "_client", types.SimpleNamespace())
    bound_stream = getattr(client_module, "BoundSyncStream", None)
    bound_async_stream = getattr(client_module, "BoundAsyncStream", None)

    class WatchedStream(module.SyncByteStream):  # type: ignore[misc]
        """A streamed body."""

        def __init__(self, stream: Any, llm_request: LLMRequest) -> None:
            self._wrapped = stream
            self._llm_request = llm_request

        def __getattr__(self, name: str) -> Any:
            return _get_from_wrapped(self, name)

        def __iter__(self) -> Iterator[bytes]:
            llm_request, stream = self._llm_request, self._wrapped
            try:
                chunks = iter(stream._stream if type(stream) is bound_stream else stream)
                for chunk in chunks:
                    only_tail = llm_request.on_chunk(chunk)
                    yield chunk
                    if only_tail:
                        break
                else:
                    # An iterator over a queue would block if asked again after the end.
                    llm_request.end()
                    return
                append_to_tail, brace = llm_request.buffer.tail.append, _BRACE
                for chunk in chunks:
                    append_to_tail(chunk)
                    try:
                        if chunk[-3] != brace:
                            llm_request.end_if_done()
                    except IndexError:
                        llm_request.end_if_done()
                    yield chunk
            except BaseException as error:
                llm_request.fail(error)
                raise
            llm_request.end()

        def close(self) -> None:
            self._llm_request.abandon()
            self._wrapped.close()

        def __del__(self) -> None:
            _abandon_later(self)

    class WatchedAsyncStream(module.AsyncByteStream):  # type: ignore[misc]
        """A streamed body."""

        def __init__(self, stream: Any, llm_request: LLMRequest) -> None:
            self._wrapped = stream
            self._llm_request = llm_request

        def __getattr__(self, name: str) -> Any:
            return _get_from_wrapped(self, name)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            llm_request, stream = self._llm_request, self._wrapped
            chunks = aiter(stream._stream if type(stream) is bound_async_stream else stream)
            try:
                async for chunk in chunks:
                    only_tail = llm_request.on_chunk(chunk)
                    yield chunk
                    if only_tail:
                        break
                else:
                    llm_request.end()
                    return
                append_to_tail, brace = llm_request.buffer.tail.append, _BRACE
                async for chunk in chunks:
                    append_to_tail(chunk)
                    try:
                        if chunk[-3] != brace:
                            llm_request.end_if_done()
                    except IndexError:
                        llm_request.end_if_done()
                    yield chunk
            except BaseException as error:
                llm_request.fail(error)
                raise
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            llm_request.end()

        async def aclose(self) -> None:
            self._llm_request.abandon()
            await self._wrapped.aclose()

        def __del__(self) -> None:
            _abandon_later(self)

    return WatchedStream, WatchedAsyncStream


def _get_from_wrapped(watched: Any, name: str) -> Any:
    # Response.elapsed is set by httpx's own stream. copy.copy() makes instances without calling `__init__`.
    if name.startswith("__") or "_wrapped" not in watched.__dict__:
        raise AttributeError(name)
    return getattr(watched._wrapped, name)


def _abandon_later(watched: Any) -> None:
    if "_llm_request" in watched.__dict__:
        deferred.defer(watched._llm_request.abandon)
