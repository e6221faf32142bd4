"""Destinations that fail in different ways, and count the spans that they accepted."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from byline.export.delivery import batch_sender, transport
from byline.testing import Receiver
from byline.testing.receiver import decode_export
from byline.testing.server import Handler, Request

HOST_WITHOUT_ADDRESS = "no-such-host.invalid"
#: Seconds for one request, and for which batches in memory are retried.
TIMEOUT = 0.3
PATIENCE = 0.3

Respond = Callable[["FaultyReceiver", Request, Handler], None]


class FaultyReceiver(Receiver):
    """Responds to exports as a fault says, until `recover`."""

    def __init__(self, fault: Respond) -> None:
        super().__init__()
        self._fault: Respond | None = fault
        self.over = threading.Event()
        self.posts = 0

    def respond(self, request: Request, handler: Handler) -> None:
        self.posts += 1
        if self._fault is None:
            super().respond(request, handler)
        else:
            self._fault(self, request, handler)

    def accept(self, request: Request, handler: Handler) -> None:
        """Accept an export."""
        super().respond(request, handler)

    def keep(self, request: Request, *, without: int = 0) -> None:
        """Keep the spans of an export, and respond nothing."""
        spans = decode_export(request)
        with self._arrived:
            self._spans.extend(spans[: len(spans) - without])
            self._arrived.notify_all()

    def recover(self) -> None:
        self._fault = None
        self.over.set()
        super().recover()

    def stop(self) -> None:
        self.over.set()
        super().stop()


def fail_with(status: int, times: int | None = None, **headers: str) -> Respond:
    """Respond with a status."""

    def respond(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
        if times is not None and receiver.posts > times:
            receiver.accept(request, handler)
        else:
            handler.reply(status, b"{}", {name.replace("_", "-"): value for name, value in headers.items()})

    return respond


def hang(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    receiver.over.wait()
    handler.cut()


def drip(head: bytes, *, keeps: bool) -> Respond:
    """Send a head, and then one byte after the other."""

    def respond(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
        if keeps:
            receiver.keep(request)
        handler.wfile.write(head)
        while not receiver.over.wait(0.02):
            handler.wfile.write(b"x")
        handler.cut()

    return respond


def close(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    handler.cut()


def accept_without_response(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    receiver.keep(request)
    handler.cut()


def refuse_large(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    if len(decode_export(request)) > 1:
        handler.reply(413, b"", {})
    else:
        receiver.accept(request, handler)


def refuse_one_span(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    if any(span.name == "chat 2" for span in decode_export(request)):
        handler.reply(400, b"", {})
    else:
        receiver.accept(request, handler)


def fail_for_one_batch(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    if any(span.name == "chat 0" for span in decode_export(request)):
        handler.reply(500, b"", {})
    else:
        receiver.accept(request, handler)


def reject_one_span(receiver: FaultyReceiver, request: Request, handler: Handler) -> None:
    receiver.keep(request, without=1)
    message = ExportTraceServiceResponse()
    message.partial_success.rejected_spans = 1
    handler.reply(200, message.SerializeToString(), {"content-type": "application/x-protobuf"})


class Fault(NamedTuple):
    """A way to fail.

    Attributes:
        respond: The response, if there is a server that responds.
        loses_responses: Whether spans arrive of which the sender does not know.
    """

    respond: Respond | None = None
    loses_responses: bool = False


FAULTS = {
    "refuse": Fault(),
    "hang": Fault(hang),
    "drip headers": Fault(drip(b"HTTP/1.1 200 OK\r\nX-Long: ", keeps=False)),
    "drip body": Fault(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", keeps=True)),
    "close": Fault(close),
    "close after accepting": Fault(accept_without_response, loses_responses=True),
    "400 for one span": Fault(refuse_one_span),
    "401": Fault(fail_with(401)),
    "408": Fault(fail_with(408)),
    "413": Fault(refuse_large),
    "429 with a short Retry-After": Fault(fail_with(429, times=1, retry_after="0.05")),
    "429 with an absurd Retry-After": Fault(fail_with(429, retry_after="99999999999")),
    "500 for one batch": Fault(fail_for_one_batch),
    "500 for minutes": Fault(fail_with(500)),
    "HTML": Fault(lambda _, __, handler: handler.reply(200, b"<html>Sign in</html>", {"content-type": "text/html"})),
    "partial success": Fault(reject_one_span),
    "wrong TLS": Fault(fail_with(200)),
    "no DNS": Fault(),
    "black hole": Fault(),
}


class Faulty(NamedTuple):
    """A destination that fails: its URL, and the receiver behind it, which may never be reached."""

    url: str
    receiver: FaultyReceiver


@contextmanager
def failing(name: str) -> Iterator[Faulty]:
    """Give a destination that fails until its receiver recovers."""
    fault = FAULTS[name]
    with FaultyReceiver(fault.respond or close) as receiver, contextlib.ExitStack() as stack:
        url = receiver.url
        if name == "refuse":
            with socket.create_server(("127.0.0.1", 0)) as closed:
                url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        elif name == "wrong TLS":
            url = url.replace("http:", "https:")
        elif name == "no DNS":
            url = f"http://{HOST_WITHOUT_ADDRESS}:4318"
        elif name == "black hole":
            url = stack.enter_context(_black_hole())
        yield Faulty(url, receiver)


@contextmanager
def _black_hole() -> Iterator[str]:
    """Give the URL of a port that never completes a connection: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


def make_impatient(patch: Callable[[Any, str, Any], None]) -> None:
    """Let retries follow at once and requests end soon, and let one host have no address.

    Args:
        patch: `setattr`, or the same of pytest's monkeypatch.
    """
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host == HOST_WITHOUT_ADDRESS:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return resolve(host, *args, **options)

    patch(socket, "getaddrinfo", getaddrinfo)
    patch(transport, "_TIMEOUT", TIMEOUT)
    patch(batch_sender, "_PATIENCE", PATIENCE)
    patch(batch_sender, "retry_delay", lambda failures: 0.01 * min(failures + 1, 5))
