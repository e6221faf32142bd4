"""HTTP/1.1 client of one destination; each request has one total deadline.

`requests` and urllib3 have a timeout per read only, so that a server that sends one header byte now and then keeps a
request open for minutes. Here the socket's timeout is computed anew before each read and write.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote

from byline.export.delivery import messages
from byline.export.delivery.transport import DEFAULT_TRANSPORT, Transport, read_timeout
from byline.internal_metrics import increment
from byline.urls import split_url

#: Seconds after which a blocked read looks again at the deadline, which `set_deadline` may have moved.
_POLL: Final = 0.1
#: Bytes of a response body that are read: OTLP's partial success and the start of a web page are shorter.
MAX_BODY: Final = 8 * 1024
_MAX_RETRY_AFTER: Final = 3600.0
_SAFE: Final = "/%:@!$&'()*+,;=~-._"


class HttpResponse(NamedTuple):
    """A response, or the reason why there is none.

    Attributes:
        status: The HTTP status, ``None`` without a response.
        reason: The reason phrase, or the sentence that says why there is no response.
        headers: Headers by lower-case name.
        body: The first bytes of the body.
        is_stale: Whether a connection that was kept open turned out to be closed, so that nothing was processed.
    """

    status: int | None
    reason: str
    headers: Mapping[str, str] = {}
    body: bytes = b""
    is_stale: bool = False

    @property
    def is_accepted(self) -> bool:
        """Whether the destination took the batch."""
        return self.status is not None and 200 <= self.status < 300 and not self.is_html_page

    @property
    def is_html_page(self) -> bool:
        """Whether the body is a web page, which no OTLP endpoint answers with, not even with status 200."""
        return "html" in self.headers.get("content-type", "") and self.body.lstrip().startswith(b"<")

    @property
    def rejected_spans(self) -> int:
        """Spans of an accepted batch that the server rejected (OTLP's partial success)."""
        if "protobuf" in self.headers.get("content-type", "") and len(self.body) < MAX_BODY:
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

            with contextlib.suppress(Exception):
                message = ExportTraceServiceResponse.FromString(self.body)
                return max(int(message.partial_success.rejected_spans), 0)
        return 0

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait, at most an hour; ``None`` if the server does not ask."""
        value = self.headers.get("retry-after")
        if not value:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                return None
        return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if math.isfinite(seconds) else None

    @property
    def summary(self) -> str:
        """Status and reason in one line."""
        if self.status is None:
            return self.reason
        return f"HTTP {self.status} {self.reason}".rstrip() + (", a web page" if self.is_html_page else "")


class HttpClient:
    """Sends requests to one URL over one connection that is kept open.

    Redirects are not followed, because they would carry credentials and content to another place. Of the environment
    only proxies, certificates and the timeout of OpenTelemetry's variables are used; ``~/.netrc`` is not read.

    Args:
        url: The URL of the requests.
        headers: Headers of each request.
        timeout: Seconds that one request may take, from connecting to the last byte of the response.
        transport: TLS and proxy.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout: float | None = None,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> None:
        parts = split_url(url)
        if parts is None:
            raise ValueError("not an http(s) URL")
        self._url = parts
        self._transport = transport
        self._headers = {"host": _encode_host(self._authority), **_lower_names(headers)}
        self.timeout = read_timeout() if timeout is None else timeout
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._proxy: SplitResult | None = None
        self._until = 0.0
        self._deadline = math.inf

    def set_deadline(self, until: float) -> None:
        """End every request by a moment of the monotonic clock, also the one under way. Safe from any thread."""
        self._deadline = min(self._deadline, until)

    def send_request(
        self, method: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Return the response to one request, or the reason why there is none. Does not raise for network errors."""
        self._until = time.monotonic() + self.timeout
        kept = self._connection is not None
        try:
            response = self._exchange(method, body, _lower_names(headers or {}))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            reason = messages.describe_error(error)
            return HttpResponse(None, reason, is_stale=kept and reason == messages.CLOSED)
        except BaseException:
            self.close()
            raise
        return response

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        connection, self._connection = self._connection, None
        opened, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    def after_fork(self) -> None:
        """Leave the parent's connection to the parent."""
        # Only this process's copy of the descriptor is closed; nothing is sent.
        self.close()
        self._deadline = math.inf

    def _exchange(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> HttpResponse:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        headers = {**headers, **self._headers, **self._proxy_headers}
        # A server may refuse a large batch (413) before reading the whole batch; the response can still be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, self._target, body=body, headers=headers)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in reversed(response.getheaders())}
        content, complete = self._read_body(response)
        if not complete or response.will_close:
            self.close()
        return HttpResponse(response.status, messages.one_line(response.reason), received, content)

    def _read_body(self, response: http.client.HTTPResponse) -> tuple[bytes, bool]:
        """Read the start of a body. Errors do not matter: the status has said whether the batch was accepted."""
        content = b""
        try:
            while len(content) < MAX_BODY:
                # `read` would wait until all these bytes are there.
                chunk = response.read1(MAX_BODY - len(content))
                if not chunk:
                    return content, response.isclosed() or response.length == 0
                content += chunk
            increment("backends.responses_cut")
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finally:
            response.close()
        return content, False

    @property
    def _target(self) -> str:
        path = quote(self._url.path or "/", safe=_SAFE)
        if self._url.query:
            # URLs that a server has signed; a destination's endpoint has no query.
            path = f"{path}?{quote(self._url.query, safe=_SAFE + '?')}"
        return path if self._proxy is None or self._is_tls else f"http://{self._authority}{path}"

    @property
    def _proxy_headers(self) -> dict[str, str]:
        if self._proxy is None or self._is_tls or not self._proxy.username:
            return {}
        return {"proxy-authorization": _basic_credentials(self._proxy)}

    @property
    def _authority(self) -> str:
        return self._url.netloc.rpartition("@")[2]

    @property
    def _is_tls(self) -> bool:
        return self._url.scheme == "https"

    def _left(self) -> float:
        """Return the seconds that are left for this request. Raises `TimeoutError` if there are none."""
        left = min(self._until, self._deadline) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        port = self._url.port or (443 if self._is_tls else 80)
        proxy = self._proxy = self._transport.proxy_for(self._url)
        # Before anything is sent: a certificate file that cannot be read is not the server's fault.
        context = self._transport.tls_context() if self._is_tls else None
        if proxy is None:
            self._socket = self._open(host, port)
        else:
            try:
                self._socket = self._open(proxy.hostname or "", proxy.port or 80)
                if context is not None:
                    self._open_tunnel(self._socket, proxy, f"{host}:{port}" if ":" not in host else f"[{host}]:{port}")
            except OSError as error:
                raise messages.ProxyError from error
        if context is not None:
            self._socket.settimeout(self._left())
            # OpenSSL's handshake takes a socket's timeout as a total one.
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        connection = http.client.HTTPConnection(host, port)
        wrapped: Any = _DeadlineSocket(self._socket, self._left)
        connection.sock = wrapped
        # Else a connection that was closed would be opened again without deadline, proxy and TLS.
        connection.auto_open = 0
        return connection

    def _open(self, host: str, port: int) -> socket.socket:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        error: OSError = OSError()
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(self._left() / (len(addresses) - number))
                opened.connect(address)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return opened
            except OSError as failed:
                opened.close()
                error = messages.ConnectTimeoutError() if isinstance(failed, TimeoutError) else failed
        raise error

    def _open_tunnel(self, opened: socket.socket, proxy: SplitResult, authority: str) -> None:
        authority = _encode_host(authority)
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if proxy.username:
            lines.append(f"Proxy-Authorization: {_basic_credentials(proxy)}")
        tunnel = _DeadlineSocket(opened, self._left)
        tunnel.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = b""
        # Byte by byte, because the bytes after the head belong to TLS.
        with tunnel.makefile("rb", 0) as stream:
            while not head.endswith(b"\r\n\r\n"):
                byte = stream.read(1)
                if not byte or len(head) > MAX_BODY:
                    raise ConnectionError
                head += byte
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise ConnectionError


class _DeadlineSocket:
    """The methods of a socket that `http.client` uses, with a timeout that is computed anew for each call.

    Args:
        opened: The socket.
        left: Returns the seconds that are left, or raises `TimeoutError`.
    """

    def __init__(self, opened: socket.socket, left: Callable[[], float]) -> None:
        self._socket = opened
        self._left = left

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._socket.settimeout(min(self._left(), _POLL))
            with contextlib.suppress(TimeoutError):
                view = view[self._socket.send(view) :]

    def makefile(self, mode: str = "rb", buffering: int = -1) -> Any:  # noqa: ARG002 - as sockets have it
        raw = _DeadlineReader(self._socket, self._left)
        return raw if buffering == 0 else io.BufferedReader(raw)

    def close(self) -> None:
        """Leave the socket open, because a response may still be read. `HttpClient.close` closes the socket."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, opened: socket.socket, left: Callable[[], float]) -> None:
        super().__init__()
        self._socket = opened
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._socket.settimeout(min(self._left(), _POLL))
            with contextlib.suppress(TimeoutError):
                return self._socket.recv_into(buffer)


def _lower_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _encode_host(authority: str) -> str:
    if authority.isascii():
        return authority
    # The port is no part of the last label, which has a limit of its own.
    host, colon, port = authority.partition(":")
    return f"{host.encode('idna').decode()}{colon}{port}"


def _basic_credentials(proxy: SplitResult) -> str:
    credentials = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}"
    return f"Basic {b64encode(credentials.encode()).decode()}"
