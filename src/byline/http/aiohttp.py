"""Hooks for aiohttp: ``ClientSession._request``, which all methods of a session call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from byline import errors
from byline.apis import find_api
from byline.http.call_config import configs
from byline.http.client_hooks import RunExchange, decode_headers, encode_body, may_be_retrieval
from byline.http.llm_request import LLMRequest, begin_llm_request
from byline.http.patching import LLM_REQUEST, watch_response
from byline.patching import Patches


def patch_session(patches: Patches, module: Any) -> None:
    """Hook the sessions of aiohttp."""
    patches.wrap_method(module.ClientSession, "_request", _wrap_request)


def _wrap_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, method: str, url: Any, **options: Any) -> Any:
        llm_request = None
        if configs.active and (method.upper() == "POST" or (method.upper() == "GET" and may_be_retrieval(str(url)))):
            llm_request = _begin_request(self, method.upper(), url, options)
        if llm_request is None:
            return await original(self, method, url, **options)
        with RunExchange("aiohttp", llm_request, _read_response) as exchange:
            exchange.response = await original(self, method, url, **options)
        return exchange.response

    return request


def _begin_request(session: Any, method: str, url: Any, options: dict[str, Any]) -> LLMRequest | None:
    try:
        from yarl import URL

        target = URL(url) if isinstance(url, str) else url
        if not target.absolute and session._base_url is not None:
            target = session._base_url.join(target)
        api = find_api(method, target.raw_path)
        if api is None:
            return None
        llm_request = begin_llm_request(
            api,
            target.host or "",
            target.port,
            target.raw_path,
            lambda: _read_headers(session, options),
            lambda: _read_body(session, options),
            method,
            lambda: _form_fields(options.get("data")),
        )
    except (TypeError, ValueError, AttributeError):
        # aiohttp raises an error for an invalid URL.
        return None
    except Exception:
        errors.report_internal_error("aiohttp")
        return None
    if llm_request is not None and (llm_request.headers or llm_request.body is not None):
        _add_ids(session, options, llm_request, target.origin())
    return llm_request


def _add_ids(session: Any, options: dict[str, Any], llm_request: LLMRequest, origin: Any) -> None:
    """Add headers and body to requests to this origin only; aiohttp keeps headers in redirects."""
    if hasattr(session, "_middlewares"):

        async def add_ids(request: Any, handler: Any) -> Any:
            # aiohttp calls middlewares for the request of each redirect.
            current_body = getattr(request.body, "_value", None)
            if request.url.origin() == origin and request.method == "POST":
                request.headers.update(llm_request.headers)
                if llm_request.body is not None and current_body == llm_request.content:
                    await request.update_body(_make_payload(llm_request.body))
            elif llm_request.body is not None and current_body == llm_request.body:
                # The request of a redirect gets the body of the request before.
                await request.update_body(_make_payload(llm_request.content or b""))
            return await handler(request)

        middlewares = options.get("middlewares")
        options["middlewares"] = (*(session._middlewares if middlewares is None else middlewares), add_ids)
    elif not options.get("allow_redirects", True):
        # aiohttp before 3.12 has no middlewares, so ids cannot be removed from redirects.
        options["headers"] = {**dict(options.get("headers") or {}), **llm_request.headers}


def _read_headers(session: Any, options: dict[str, Any]) -> dict[str, str]:
    headers = options.get("headers") or ()
    try:
        if not hasattr(headers, "items"):
            # An iterator can be read only once.
            headers = options["headers"] = list(headers)
        return {**decode_headers(session.headers), **decode_headers(dict(headers))}
    except (TypeError, ValueError):
        # aiohttp raises an error for invalid headers.
        return {}


def _read_body(session: Any, options: dict[str, Any]) -> bytes | None:
    data = options.get("data")
    if data is not None or options.get("json") is None:
        return encode_body(data)
    serialize = getattr(session, "_json_serialize_bytes", None) or session._json_serialize
    try:
        body = encode_body(serialize(options["json"]))
    except (TypeError, ValueError):
        return None
    if body is not None:
        # The payload saves aiohttp a second serialization.
        options["data"] = _make_payload(body)
        options["json"] = None
    return body


def _form_fields(data: Any) -> dict[str, str]:
    """Return the text fields of a form, which aiohttp encodes while it sends."""
    return {str(field[0].get("name")): field[2] for field in getattr(data, "_fields", ()) if isinstance(field[2], str)}


def _make_payload(body: bytes) -> Any:
    from aiohttp.payload import BytesPayload

    # aiohttp takes the Content-Type from the payload if the app has set none, for redirects too.
    return BytesPayload(body, content_type="application/json", encoding="utf-8")


def _read_response(llm_request: LLMRequest, response: Any) -> None:
    llm_request.on_response(response.status, decode_headers(response.headers))
    llm_request.buffer.disable_decompression()
    response.content = _WatchedContent(response.content, llm_request)
    watch_response(response, llm_request, _make_watched_response)


def _make_watched_response(response_class: Any) -> type:
    class WatchedResponse(response_class):  # type: ignore[misc]
        def close(self) -> Any:
            getattr(self, LLM_REQUEST).abandon()
            return super().close()

        def release(self) -> Any:
            getattr(self, LLM_REQUEST).abandon()
            return super().release()

    return WatchedResponse


class _WatchedContent:
    """The ``StreamReader`` of a response, with all reads reported to the LLM request."""

    def __init__(self, stream_reader: Any, llm_request: LLMRequest) -> None:
        self._wrapped = stream_reader
        self._llm_request = llm_request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    # Code that passes the content on, such as aiohttp's own payloads, uses isinstance().
    __class__ = property(lambda self: type(self._wrapped))

    def read_nowait(self, n: int = -1) -> Any:
        data = self._wrapped.read_nowait(n)
        self._llm_request.on_chunk(data)
        return data

    async def _read_chunk(self, method: str, *arguments: Any, **options: Any) -> Any:
        llm_request = self._llm_request
        try:
            data = await getattr(self._wrapped, method)(*arguments, **options)
        except BaseException as error:
            llm_request.fail(error)
            raise
        llm_request.on_chunk(data[0] if isinstance(data, tuple) else data)
        if self._wrapped.at_eof():
            llm_request.end()
        return data

    async def read(self, n: int = -1) -> Any:
        return await self._read_chunk("read", n)

    async def readany(self) -> Any:
        return await self._read_chunk("readany")

    async def readline(self, **options: Any) -> Any:
        return await self._read_chunk("readline", **options)

    async def readuntil(self, *arguments: Any, **options: Any) -> Any:
        return await self._read_chunk("readuntil", *arguments, **options)

    async def readexactly(self, n: int) -> Any:
        return await self._read_chunk("readexactly", n)

    async def readchunk(self) -> Any:
        return await self._read_chunk("readchunk")

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate(self.readline)

    def iter_any(self) -> AsyncIterator[Any]:
        return self._iterate(self.readany)

    def iter_chunked(self, n: int) -> AsyncIterator[Any]:
        return self._iterate(lambda: self.read(n))

    def iter_chunks(self) -> AsyncIterator[Any]:
        return self._iterate(self.readchunk)

    async def _iterate(self, read_next: Callable[[], Any]) -> AsyncIterator[Any]:
        while (data := await read_next()) and data != (b"", False):
            yield data
