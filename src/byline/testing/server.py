"""A small real HTTP server on loopback, on which the gateway and the receiver stand."""

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

S = TypeVar("S", bound="Server")


class Request(NamedTuple):
    """A request as it arrived; header names in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body. Raises `ValueError` where it is no JSON."""
        return json.loads(self.body)


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the server object that owns this one."""

    protocol_version = "HTTP/1.1"
    # Head and body go out in writes of their own; neither waits for the other's acknowledgement.
    disable_nagle_algorithm = True
    owner: Server

    def do_GET(self) -> None:
        """Answer any GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer any POST."""
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            chunked = "chunked" in headers.get("transfer-encoding", "")
            body = self._read_chunks() if chunked else self.rfile.read(int(headers.get("content-length") or 0))
        except (OSError, ValueError):
            # The client went away, or what it sends is no HTTP.
            self.close_connection = True
            return
        request = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
        try:
            self.owner.note(request)
            self.owner.respond(request, self)
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
        """Send a whole answer."""
        self._send_head(status, {**headers, "content-length": str(len(body))})
        self.wfile.write(body)

    def start_stream(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of a chunked answer."""
        self._send_head(status, {**headers, "transfer-encoding": "chunked"})

    def send_chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the answer."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def cut(self) -> None:
        """Close the connection in mid-answer."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Say nothing."""


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    # Many clients may connect in the same moment.
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking any name server who 127.0.0.1 is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close what clients keep open, so that a stopped server does not answer on it."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is part of what is tested."""


class Server:
    """A server for the length of a ``with`` block, on a free port of loopback.

    Args:
        port: The port to serve on; 0 takes a free one, which `start` after `stop` takes again.

    Raises:
        SettingError: ``byline.E050`` where the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._http = self._bind(port)
        self._thread: threading.Thread | None = None
        #: Everything that was asked, in the order of arrival.
        self.requests: list[Request] = []
        self._arrived = threading.Condition()
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def serving(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._thread is not None

    def note(self, request: Request) -> None:
        """Keep a request, before it is answered."""
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()

    def respond(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        raise NotImplementedError

    def start(self: S) -> S:
        """Serve until `stop`; also again after it, on the same port."""
        if self._thread is None:
            if self._http.socket.fileno() == -1:
                self._http = self._bind(self.port)
            # How often it looks whether it shall stop: nothing waits for it but `stop`.
            self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving, close what is open and free the port: clients are refused from now on."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._thread = None
        self._http.server_close()
        self._http.close_connections()

    def _bind(self, port: int) -> _HTTPServer:
        handler = type("BoundHandler", (Handler,), {"owner": self})
        try:
            return _HTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise SettingError(
                "byline.E050", f"port {port} of 127.0.0.1 cannot be used: {error.strerror}", "choose another port"
            ) from None

    def __enter__(self: S) -> S:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
