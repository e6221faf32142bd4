"""The HTTP server on 127.0.0.1 that `Gateway` and `Receiver` are based on."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from byline.settings import SettingError

ServerT = TypeVar("ServerT", bound="Server")


class Request(NamedTuple):
    """A received request; header names are in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded JSON body. Raises `ValueError` if the body is not JSON."""
        return json.loads(self.body)


class Handler(BaseHTTPRequestHandler):
    """Passes each request to its `Server` and writes the response."""

    protocol_version = "HTTP/1.1"
    # Head and body are separate writes; with Nagle's algorithm the second waits for an acknowledgement.
    disable_nagle_algorithm = True
    server_object: Server

    def do_GET(self) -> None:
        """Handle a GET request."""
        self._handle_request()

    def do_POST(self) -> None:
        """Handle a POST request."""
        self._handle_request()

    def do_PUT(self) -> None:
        """Handle a PUT request."""
        self._handle_request()

    def do_PATCH(self) -> None:
        """Handle a PATCH request."""
        self._handle_request()

    def _handle_request(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            chunked = "chunked" in headers.get("transfer-encoding", "")
            body = self._read_chunks() if chunked else self.rfile.read(int(headers.get("content-length") or 0))
        except (OSError, ValueError):
            # The client disconnected, or its request is not valid HTTP.
            self.close_connection = True
            return
        request = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
        try:
            self.server_object.record_request(request)
            self.server_object.respond(request, self)
        except ConnectionError:
            self.close_connection = True

    def _read_chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole response."""
        self._send_head(status, {**headers, "content-length": str(len(body))})
        self.wfile.write(body)

    def start_stream(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of a chunked response."""
        self._send_head(status, {**headers, "transfer-encoding": "chunked"})

    def send_chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the response."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def cut(self) -> None:
        """Close the connection without completing the response."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Print no access log."""


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    # The default backlog of 5 refuses clients that connect at the same time.
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of ``HTTPServer.server_bind``."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close kept-alive connections, so that a stopped server does not answer on them."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: tests disconnect on purpose."""


class Server:
    """A server on 127.0.0.1 that runs during a ``with`` block, or from `start` to `stop`.

    Args:
        port: The port to serve on; 0 takes a free one. `start` after `stop` uses the same port again.

    Raises:
        SettingError: ``byline.E050`` if the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._http = self._bind(port)
        self._thread: threading.Thread | None = None
        #: All requests, in the order of arrival.
        self.requests: list[Request] = []
        self._arrived = threading.Condition()
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def serving(self) -> bool:
        """Whether the server runs."""
        return self._thread is not None

    def record_request(self, request: Request) -> None:
        """Append a request to `requests`."""
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()

    def respond(self, request: Request, handler: Handler) -> None:
        """Send the response to one request."""
        raise NotImplementedError

    def start(self: ServerT) -> ServerT:
        """Serve until `stop`. After `stop`, serve again on the same port."""
        if self._thread is None:
            if self._http.socket.fileno() == -1:
                self._http = self._bind(self.port)
            # The poll interval affects only how long `stop` waits.
            self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Close all connections and the port; clients get "connection refused" from now on."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._thread = None
        self._http.server_close()
        self._http.close_connections()

    def _bind(self, port: int) -> _HTTPServer:
        handler = type("BoundHandler", (Handler,), {"server_object": self})
        try:
            return _HTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise SettingError(
                "byline.E050", f"port {port} of 127.0.0.1 cannot be used: {error.strerror}", "choose another port"
            ) from None

    def __enter__(self: ServerT) -> ServerT:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
