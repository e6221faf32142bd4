"""The middleware of aiohttp.web, whose apps are neither ASGI nor WSGI.

Example:
    >>> from aiohttp import web
    >>> app = web.Application(middlewares=[AttributionMiddleware()])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.payload import AsyncIterablePayload

from byline import asgi
from byline.inbound.app_protocol import check_call
from byline.inbound.body import BodyBuffer, is_json
from byline.request_context import CONTEXT_KEY, current_context
from byline.settings import SettingError

__all__ = ["AttributionMiddleware"]

_CALL: Final = "byline.aiohttp_call"
_REQUEST: Final = "aiohttp.request"
_USAGE: Final = "write web.Application(middlewares=[AttributionMiddleware(…)]), with the parentheses"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _CheckedByAiohttp(type):
    @property
    def __middleware_version__(cls) -> int:
        """Raise an error, because aiohttp asks its middlewares as the app starts, and the class itself is none."""
        raise SettingError("byline.E107", "middlewares has the class AttributionMiddleware, not an instance", _USAGE)


class AttributionMiddleware(metaclass=_CheckedByAiohttp):
    """Attributes the LLM spans of every request, as `byline.asgi.AttributionMiddleware` does.

    Put it first in ``middlewares``, which makes it the outermost one. Claims in the JSON body are known once the
    handler has read the body with ``request.json()``, ``text()`` or ``read()``; a handler that reads
    ``request.content`` itself has those of the headers only.

    Args:
        **settings: The arguments of `byline.asgi.AttributionMiddleware`. ``identity`` gets a mapping with aiohttp's
            request as ``"aiohttp.request"``. ``respond`` adds no headers to a response that the handler has prepared.

    Raises:
        SettingError: ``byline.E107`` as the app starts, if ``middlewares`` has the class instead of an instance, and as
            for `byline.asgi.AttributionMiddleware`.

    Example:
        >>> from aiohttp import web
        >>> def identify(scope):
        ...     return {"user_id": scope["aiohttp.request"].get("user")}
        >>> app = web.Application(middlewares=[AttributionMiddleware(identity=identify)])
    """

    @check_call(0, _USAGE)
    def __init__(self, **settings: Any) -> None:
        #: A coroutine function of request and handler, in aiohttp's words.
        self.__middleware_version__ = 1
        self._asgi = asgi.AttributionMiddleware(_call_handler, **settings)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make a request context, unless an outer app or middleware has made one, and call the handler."""
        context = current_context()
        if context is not None and (context.root().scope_or_environ or {}).get(_REQUEST) is request:
            return await handler(request)
        call = _Call(request, handler)
        await self._asgi(call.make_scope(), call.receive, call.send)
        if isinstance(call.response, Exception):
            raise call.response
        # Also an object that is no response, about which aiohttp tells the developer.
        return cast("web.StreamResponse", call.response)


class _Call:
    """One call of the handler, as the ASGI middleware sees it."""

    def __init__(self, request: web.Request, handler: Handler) -> None:
        self.request = request
        self.handler = handler
        self.response: web.StreamResponse | None = None

    def make_scope(self) -> dict[str, Any]:
        request = self.request
        resource = request.match_info.route.resource
        pattern = None if resource is None else resource.canonical
        is_handshake = request.headers.get("upgrade", "").lower() == "websocket"
        return {
            "type": "websocket" if is_handshake else "http",
            "asgi": {"version": "3.0"},
            "http_version": f"{request.version.major}.{request.version.minor}",
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path,
            "raw_path": request.rel_url.raw_path.encode(),
            "query_string": request.rel_url.raw_query_string.encode(),
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
            "client": (request.remote, 0) if request.remote else None,
            "server": _server_address(request),
            "path_params": dict(request.match_info),
            "route": SimpleNamespace(path=pattern, path_format=pattern),
            _REQUEST: request,
            _CALL: self,
        }

    async def receive(self) -> dict[str, Any]:
        """Return the end of the body, which the handler reads from aiohttp's request."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take the headers of ``respond`` to the response; aiohttp sends all else itself."""
        response = self.response
        if message["type"] == "http.response.start" and response is not None and not response.prepared:
            for name, value in message["headers"]:
                if response.headers.get(name.decode("latin-1")) is None:
                    response.headers[name.decode("latin-1")] = value.decode("latin-1")


def _server_address(request: web.Request) -> tuple[str, int] | None:
    """Return the address on which the server listens. The host that the client names may be none."""
    address = None if request.transport is None else request.transport.get_extra_info("sockname")
    return (address[0], address[1]) if isinstance(address, tuple) else None


async def _call_handler(scope: Any, _: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    call: _Call = scope[_CALL]
    context = scope.get(CONTEXT_KEY)
    if context is not None and context.body is not None:
        context.body = _CachedBody(call.request, context.body.limit)
    try:
        call.response = await call.handler(call.request)
    except web.HTTPException as raised:
        # The handler's response, such as a redirect.
        call.response = raised
    # No type: a handler may return an object that is no response.
    response: Any = call.response
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    if not isinstance(response, web.StreamResponse):
        return
    headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if isinstance(response, web.Response) and isinstance(response.body, AsyncIterablePayload):
        # aiohttp would run this generator after the middleware, outside the context of the request.
        try:
            await response.prepare(call.request)
            await response.write_eof()
        except ConnectionError:
            # The client is gone. aiohttp notices the same at the end of the response, which it writes now.
            response.body = None
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class _CachedBody(BodyBuffer):
    """The JSON body, once the handler has read it: aiohttp keeps it for further calls of ``read()``."""

    __slots__ = ("_request",)

    def __init__(self, request: web.Request, limit: int) -> None:
        super().__init__(limit, request.content_length)
        self._request = request
        self.ignored = not is_json(request.content_type)

    def is_complete(self) -> bool:
        if not self.ended:
            read = self._request._read_bytes
            if read is not None:
                self.append(read, True)
        return super().is_complete()
