"""A small real HTTP server on loopback, on which the gateway and the receiver stand."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

S = TypeVar("S", bound="Server")


class Request(NamedTuple):
    """A request as it arrived; header names in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the server object that owns this one."""

    protocol_version = "HTTP/1.1"
    owner: Server

    def do_GET(self) -> None:
        """Answer any GET."""
        self._answer()

    def do_POST(self) -> None:
        """Answer any POST."""
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self._read_chunks() if self.headers.get("transfer-encoding") == "chunked" else self.rfile.read(length)
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
        try:
            self.owner.answer(request, self)
        except (BrokenPipeError, ConnectionResetError):
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
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def start_stream(self, status: int, headers: dict[str, str]) -> None:
        """Send the head of a chunked answer."""
        self.send_response(status)
        for name, value in {**headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the answer."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Say nothing."""


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    # Many clients may connect in the same moment.
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is part of what is tested."""


class Server:
    """A server for the length of a ``with`` block, on a free port of loopback."""

    def __init__(self, port: int = 0) -> None:
        handler = type("BoundHandler", (Handler,), {"owner": self})
        self._http = _HTTPServer(("127.0.0.1", port), handler)
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def answer(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        raise NotImplementedError

    def start(self: S) -> S:
        """Serve until `stop`."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def __enter__(self: S) -> S:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
