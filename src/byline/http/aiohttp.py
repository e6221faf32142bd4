"""aiohttp: ``ClientSession._request``, below all of its verbs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from byline import errors
from byline.http import call_config, patching
from byline.http import llm_request as calls
from byline.http.llm_request import LLMRequest


def patch(module: Any) -> None:
    """Hook the session of aiohttp."""
    patching.wrap_method(module.ClientSession, "_request", _request)


def _request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, method: str, url: Any, **options: Any) -> Any:
        call = _begin(self, url, options) if call_config.current is not None and method.upper() == "POST" else None
        if call is None:
            return await original(self, method, url, **options)
        with call.activate():
            response = await original(self, method, url, **options)
        _answered(call, response)
        return response

    return request


def _begin(session: Any, url: Any, options: dict[str, Any]) -> LLMRequest | None:
    try:
        from yarl import URL

        target = URL(url) if isinstance(url, str) else url
        if not target.absolute and session._base_url is not None:
            target = session._base_url.join(target)
        call = calls.begin_llm_request(
            target.host or "",
            target.port,
            target.raw_path,
            lambda: _headers(session, options),
            lambda: _body(session, options),
        )
    except (TypeError, ValueError, AttributeError):
        # What is no URL, aiohttp refuses itself.
        return None
    except Exception:
        errors.report_internal_error("aiohttp")
        return None
    if call is not None and (call.headers or call.body is not None):
        _write(session, options, call, target.origin())
    return call


def _write(session: Any, options: dict[str, Any], call: LLMRequest, origin: Any) -> None:
    """Write ids on the request to this origin alone; aiohttp hands headers on wherever a redirect leads."""
    if hasattr(session, "_middlewares"):

        async def write(request: Any, handler: Any) -> Any:
            # Each hop comes through here.
            if request.url.origin() == origin and request.method == "POST":
                request.headers.update(call.headers)
                if call.body is not None and getattr(request.body, "_value", None) == call.content:
                    await request.update_body(_payload(call.body))
            elif call.body is not None and getattr(request.body, "_value", None) == call.body:
                # It hands on the body of the hop before.
                await request.update_body(_payload(call.content or b""))
            return await handler(request)

        given = options.get("middlewares")
        options["middlewares"] = (*(session._middlewares if given is None else given), write)
    elif not options.get("allow_redirects", True):
        # Before 3.12 there are no middlewares.
        options["headers"] = {**dict(options.get("headers") or {}), **call.headers}


def _headers(session: Any, options: dict[str, Any]) -> dict[str, str]:
    own = options.get("headers") or ()
    try:
        if not hasattr(own, "items"):
            # It may be an iterator, which gives its pairs once.
            own = options["headers"] = list(own)
        given = [*session.headers.items(), *(own.items() if hasattr(own, "items") else own)]
        return {str(name).lower(): str(value) for name, value in given}
    except (TypeError, ValueError):
        # What are no headers, aiohttp refuses itself.
        return {}


def _body(session: Any, options: dict[str, Any]) -> bytes | None:
    data = options.get("data")
    if isinstance(data, bytes | str):
        return data.encode() if isinstance(data, str) else data
    if data is None and options.get("json") is not None:
        # As aiohttp would make it.
        dump = getattr(session, "_json_serialize_bytes", None) or session._json_serialize
        try:
            made = dump(options["json"])
        except (TypeError, ValueError):
            return None
        body = made.encode() if isinstance(made, str) else bytes(made)
        # Once is enough.
        options["data"] = _payload(body)
        options["json"] = None
        return body
    return None


def _payload(body: bytes) -> Any:
    from aiohttp.payload import BytesPayload

    # The type goes into the headers where the app has set none, also of the next hop.
    return BytesPayload(body, content_type="application/json", encoding="utf-8")


def _answered(call: LLMRequest, response: Any) -> None:
    try:
        call.on_response(response.status, {name.lower(): value for name, value in response.headers.items()})
        call.buffer.disable_decompression()
        _tee(response, call)
    except Exception:
        call.end()
        errors.report_internal_error("aiohttp")


def _tee(response: Any, call: LLMRequest) -> None:
    response.content = _Seen(response.content, call)
    patching.swap_class(response, call, _ending)


def _ending(kind: type) -> type:
    parent: Any = kind

    class Ending(parent):  # type: ignore[misc]
        def close(self) -> Any:
            getattr(self, patching.CALL).end()
            return super().close()

        def release(self) -> Any:
            getattr(self, patching.CALL).end()
            return super().release()

    return Ending


class _Seen:
    """A body's reader whose data is seen on its way, whichever method it comes through."""

    def __init__(self, inner: Any, call: LLMRequest) -> None:
        self._inner = inner
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    # What hands a body on looks at what it is.
    __class__ = property(lambda self: type(self._inner))

    def read_nowait(self, n: int = -1) -> Any:
        data = self._inner.read_nowait(n)
        self._call.on_chunk(data)
        return data

    async def _read(self, name: str, *arguments: Any, **options: Any) -> Any:
        call = self._call
        try:
            data = await getattr(self._inner, name)(*arguments, **options)
        except BaseException as error:
            call.fail(error) if isinstance(error, Exception) else call.end()
            raise
        call.on_chunk(data[0] if isinstance(data, tuple) else data)
        if self._inner.at_eof():
            call.end()
        return data

    async def read(self, n: int = -1) -> Any:
        return await self._read("read", n)

    async def readany(self) -> Any:
        return await self._read("readany")

    async def readline(self, **options: Any) -> Any:
        return await self._read("readline", **options)

    async def readuntil(self, *arguments: Any, **options: Any) -> Any:
        return await self._read("readuntil", *arguments, **options)

    async def readexactly(self, n: int) -> Any:
        return await self._read("readexactly", n)

    async def readchunk(self) -> Any:
        return await self._read("readchunk")

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate(self.readline)

    def iter_any(self) -> AsyncIterator[Any]:
        return self._iterate(self.readany)

    def iter_chunked(self, n: int) -> AsyncIterator[Any]:
        return self._iterate(lambda: self.read(n))

    def iter_chunks(self) -> AsyncIterator[Any]:
        return self._iterate(self.readchunk)

    async def _iterate(self, read: Callable[[], Any]) -> AsyncIterator[Any]:
        while (data := await read()) and data != (b"", False):
            yield data
