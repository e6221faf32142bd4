"""The middleware of Tornado, whose web applications are neither ASGI nor WSGI.

Example:
    >>> from tornado.web import Application
    >>> app = AttributionMiddleware(Application([]))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextvars import copy_context
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from tornado import httputil
from tornado.httpserver import HTTPServer

from byline import asgi, errors
from byline.inbound.app_protocol import check_call
from byline.request_context import current_context
from byline.settings import SettingError

__all__ = ["AttributionMiddleware"]

T = TypeVar("T")

_REQUEST: Final = "byline.tornado_request"
_CONNECTION: Final = "byline.tornado_connection"
#: Arguments of ``Application.listen`` that are not the server's.
_SOCKET_SETTINGS: Final = ("family", "backlog", "flags", "reuse_port")
_RESPONSE_END: Final = {"type": "http.response.body", "body": b"", "more_body": False}
_WEBSOCKET_END: Final = {"type": "websocket.close"}


class AttributionMiddleware(httputil.HTTPServerConnectionDelegate):
    """Attributes the LLM spans of every request, as `byline.asgi.AttributionMiddleware` does.

    The handlers know more of the request: call `byline.bind` in ``prepare()`` to state the user.

    Args:
        app: A `tornado.web.Application`, or another router.
        **settings: The arguments of `byline.asgi.AttributionMiddleware`.

    Raises:
        SettingError: ``byline.E120`` for an app of another kind, and as for `byline.asgi.AttributionMiddleware`.

    Example:
        >>> from tornado.web import Application
        >>> app = AttributionMiddleware(Application([]), trust={"session", "trace"})
        >>> # app.listen(8888), or HTTPServer(app)
    """

    @check_call(1, "write AttributionMiddleware(app, …), and app.listen(port) or HTTPServer(app) with the result")
    def __init__(self, app: httputil.HTTPServerConnectionDelegate, **settings: Any) -> None:
        kind: str = getattr(app, "__name__", type(app).__name__)
        if not isinstance(app, httputil.HTTPServerConnectionDelegate):
            raise SettingError(
                "byline.E120",
                f"byline.tornado's middleware wraps {kind}, which is no application of Tornado",
                "pass a tornado.web.Application; for other apps import AttributionMiddleware from byline.asgi or "
                "byline.wsgi",
            )
        self.app = app
        self._asgi = asgi.AttributionMiddleware(_pass_messages, **settings)

    def listen(self, port: int, address: str | None = None, **settings: Any) -> HTTPServer:
        """Serve the app on a port, as ``Application.listen`` does, and return the server.

        Args:
            port: The port.
            address: The address, all by default.
            **settings: The arguments of `tornado.web.Application.listen`.
        """
        of_socket = {name: settings.pop(name) for name in _SOCKET_SETTINGS if name in settings}
        server = HTTPServer(self, **settings)
        server.listen(port, "" if address is None else address, **of_socket)
        return server

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Return the object that Tornado tells about one request; the app's own within another middleware."""
        context = current_context()
        if context is not None and (context.root().scope_or_environ or {}).get(_CONNECTION) is request_conn:
            return self.app.start_request(server_conn, request_conn)
        return _Delegate(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Tell the app that a connection is closed."""
        self.app.on_close(server_conn)

    def start(self, scope: dict[str, Any]) -> _Request:
        """Make the context of a request."""
        return _Request(self._asgi, scope)


class _Delegate(httputil.HTTPMessageDelegate):
    """Passes one request on to the app, each step in the ``contextvars`` context of the request."""

    def __init__(
        self, middleware: AttributionMiddleware, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> None:
        self._middleware = middleware
        self._server_conn = server_conn
        self._connection: Any = request_conn
        self._request: _Request | None = None
        self._inner: httputil.HTTPMessageDelegate | None = None

    def headers_received(self, start_line: Any, headers: httputil.HTTPHeaders) -> Awaitable[None] | None:
        self._request = self._middleware.start(_make_scope(self._connection, start_line, headers))
        self._request.watch(self._connection)
        start = self._middleware.app.start_request
        self._inner = self._request.run(start, self._server_conn, self._connection)
        return self._request.run(self._inner.headers_received, start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._request is not None and self._inner is not None  # noqa: PT018, S101 - Tornado's order of calls
        self._request.append(chunk, more=True)
        return self._request.run(self._inner.data_received, chunk)

    def finish(self) -> None:
        assert self._request is not None and self._inner is not None  # noqa: PT018, S101
        self._request.append(b"", more=False)
        self._request.run(self._inner.finish)

    def on_connection_close(self) -> None:
        if self._request is not None and self._inner is not None:
            self._request.run(self._inner.on_connection_close)
            self._request.end()


class _Request:
    """One request: the ASGI middleware, which runs from the headers of the request to the end of its response.

    The middleware awaits nothing but messages, so that its coroutine is run here, step by step and without a task.
    """

    def __init__(self, middleware: asgi.AttributionMiddleware, scope: dict[str, Any]) -> None:
        self.receive: Callable[[], Coroutine[Any, Any, Any]] | None = None
        self._python_context = copy_context()
        self._is_running = False
        self._is_open = True
        self._is_handshake = scope["type"] == "websocket"
        self._chunks: deque[dict[str, Any]] = deque()
        self._headers: list[tuple[bytes, bytes]] = []
        scope[_REQUEST] = self
        self._coroutine = middleware(scope, self._next_chunk, self._take_message)
        self._step(None)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run code of the app in the context of the request."""
        if self._is_running:
            # An app that answers while the request is handed to it.
            return function(*args)
        self._is_running = True
        try:
            return self._python_context.run(function, *args)
        finally:
            self._is_running = False

    def append(self, chunk: bytes, *, more: bool) -> None:
        """Show a chunk of the body to the middleware."""
        if self._is_open and self.receive is not None:
            self._chunks.append({"type": "http.request", "body": chunk, "more_body": more})
            try:
                self.run(self.receive().send, None)
            except StopIteration:
                pass
            except Exception:
                errors.report_internal_error("tornado")

    def start_response(self, status: int, headers: httputil.HTTPHeaders) -> None:
        """Tell the middleware the status and the headers, to which it may add its own."""
        if self._is_handshake:
            return
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.get_all()]
        self._headers = []
        self._step({"type": "http.response.start", "status": status, "headers": raw})
        for name, value in self._headers:
            if name.decode("latin-1") not in headers:
                headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def end(self) -> None:
        """Tell the middleware that the response is complete, or that the client is gone."""
        self._step(_WEBSOCKET_END if self._is_handshake else _RESPONSE_END)

    def watch(self, connection: Any) -> None:
        """Observe the app's calls of the connection, an object of this request alone."""
        write_headers, finish, detach = connection.write_headers, connection.finish, connection.detach
        set_close_callback = connection.set_close_callback

        def write(start_line: Any, headers: httputil.HTTPHeaders, chunk: bytes | None = None) -> Any:
            # 1xx responses come before the response.
            if start_line.code >= 200:
                self.start_response(start_line.code, headers)
            return write_headers(start_line, headers, chunk)

        def finish_response() -> None:
            finish()
            self.end()

        def set_callback(callback: Callable[[], None] | None) -> None:
            set_close_callback(self._then_end(callback))

        def detach_stream() -> Any:
            # Such as that of a websocket. The request lasts until the stream is closed.
            stream = detach()
            set_stream_callback = stream.set_close_callback
            stream.set_close_callback = lambda callback: set_stream_callback(self._then_end(callback))
            stream.set_close_callback(None)
            return stream

        connection.write_headers, connection.finish, connection.detach = write, finish_response, detach_stream
        connection.set_close_callback = set_callback

    def _then_end(self, callback: Callable[[], None] | None) -> Callable[[], None]:
        def close() -> None:
            try:
                if callback is not None:
                    callback()
            finally:
                self.end()

        return close

    def _step(self, message: Mapping[str, Any] | None) -> None:
        if not self._is_open:
            return
        try:
            self.run(self._coroutine.send, message)
        except StopIteration:
            self._is_open = False
        except Exception:
            self._is_open = False
            errors.report_internal_error("tornado")

    async def _next_chunk(self) -> dict[str, Any]:
        return self._chunks.popleft()

    async def _take_message(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._headers = message["headers"]


class _NextMessage:
    """Waits for the next message of the app."""

    def __await__(self) -> Generator[None, Mapping[str, Any], Mapping[str, Any]]:
        return (yield)


async def _pass_messages(scope: Any, receive: Callable[[], Coroutine[Any, Any, Any]], send: Any) -> None:
    """Send the messages of Tornado's app, in place of an ASGI app."""
    scope[_REQUEST].receive = receive
    message: Mapping[str, Any] | None = None
    while message not in (_RESPONSE_END, _WEBSOCKET_END):
        message = await _NextMessage()
        await send(message)


def _make_scope(connection: Any, start_line: Any, headers: httputil.HTTPHeaders) -> dict[str, Any]:
    path, _, query = start_line.path.partition("?")
    context = getattr(connection, "context", None)
    address = getattr(context, "remote_ip", None)
    is_handshake = headers.get("upgrade", "").lower() == "websocket"
    is_decompressed = "x-consumed-content-encoding" in headers
    return {
        "type": "websocket" if is_handshake else "http",
        "asgi": {"version": "3.0"},
        "http_version": start_line.version.partition("/")[2],
        "method": start_line.method,
        "scheme": getattr(context, "protocol", "http"),
        "path": unquote(path),
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in headers.get_all()
            # The length before Tornado has decompressed the body.
            if not (is_decompressed and name.lower() == "content-length")
        ],
        "client": (address, 0) if address else None,
        "server": None,
        _CONNECTION: connection,
    }
