"""An OTLP receiver on loopback, with the few endpoints by which Langfuse is known."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from typing import Any, Final

from byline.testing.otlp import ReceivedSpan, decode, partial_success
from byline.testing.server import Handler, Request, Server

_JSON: Final = {"content-type": "application/json"}


class Receiver(Server):
    """Takes OTLP/HTTP exports, protobuf or JSON, gzipped or not, and keeps their spans.

    Answers ``/v1/traces`` below any path, so that it stands in for a collector and, below
    ``/api/public/otel``, for Langfuse, with whose ``/api/public/projects`` and
    ``/api/public/health`` it answers as well. ``requests`` holds what was posted, with headers.
    `stop` closes it, `start` opens it again on the same port.

    Args:
        keys: ``(public key, secret key)`` that every request must bring as Basic credentials, as
            Langfuse wants it; ``None`` takes all.
        port: The port to serve on; by default a free one.

    Raises:
        SettingError: ``byline.E050`` where the port is taken.

    Example:
        >>> with Receiver() as receiver:
        ...     receiver.fail(503)  # the next export
        ...     receiver.spans
        []
    """

    def __init__(self, *, keys: tuple[str, str] | None = None, port: int = 0) -> None:
        super().__init__(port)
        self.keys = keys
        self._spans: list[ReceivedSpan] = []
        self._failures: deque[tuple[int, dict[str, str]]] = deque()
        self._always: tuple[int, dict[str, str]] | None = None
        self._rejecting = 0
        self._open = threading.Event()
        self._open.set()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, in the order of their arrival."""
        with self._arrived:
            return list(self._spans)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[ReceivedSpan]:
        """Wait until ``count`` spans are there. Raises `TimeoutError` after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._spans) >= count, timeout):
                raise TimeoutError(f"{len(self._spans)} of {count} spans arrived within {timeout} s")
            return list(self._spans)

    def clear(self) -> None:
        """Forget all spans and requests."""
        with self._arrived:
            self._spans.clear()
            self.requests.clear()

    def fail(self, status: int, times: int | None = 1, headers: dict[str, str] | None = None) -> None:
        """Answer exports with an error, e.g. 401, 429 with ``{"retry-after": "1"}`` or 503.

        Args:
            status: The HTTP status; 0 closes the connection without an answer.
            times: How many exports fail; ``None`` lets all fail until `recover`.
            headers: Headers of the error.
        """
        if times is None:
            self._always = (status, headers or {})
        else:
            self._failures.extend([(status, headers or {})] * times)

    def reject(self, spans: int) -> None:
        """Let the next export be accepted but for so many of its spans, as OTLP's partial success says."""
        self._rejecting = spans

    def recover(self) -> None:
        """Take all exports again."""
        self._always = None
        self._failures.clear()

    def hold(self) -> None:
        """Be slow: answer no export until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Answer the exports that wait, and all others at once."""
        self._open.set()

    def stop(self) -> None:
        """Stop serving; `start` opens it again on the same port."""
        super().stop()
        self.release()

    def respond(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        if not self._knows(request):
            handler.reply(401, b'{"message":"Invalid credentials. Confirm that you have the right host."}', _JSON)
        elif request.method == "GET":
            self._answer_langfuse(request, handler)
        elif request.path.endswith("/v1/traces"):
            self._take(request, handler)
        else:
            handler.reply(404, b"not found", {})

    def _take(self, request: Request, handler: Handler) -> None:
        self._open.wait()
        failure = self._failures.popleft() if self._failures else self._always
        if not self.serving or (failure is not None and failure[0] == 0):
            handler.cut()
            return
        if failure is not None:
            handler.reply(failure[0], b"{}", {**_JSON, **failure[1]})
            return
        try:
            spans = decode(request)
        except Exception as error:
            handler.reply(400, f"no OTLP: {type(error).__name__}".encode(), {})
            return
        rejected, self._rejecting = self._rejecting, 0
        with self._arrived:
            self._spans.extend(spans[: len(spans) - rejected])
            self._arrived.notify_all()
        kind = request.headers.get("content-type", "application/x-protobuf")
        handler.reply(200, partial_success(rejected, as_json="json" in kind), {"content-type": kind})

    def _answer_langfuse(self, request: Request, handler: Handler) -> None:
        answers: dict[str, Any] = {
            "/api/public/projects": {"data": [{"id": "p-1", "name": "receiver", "metadata": {}}]},
            "/api/public/health": {"status": "OK", "version": "4.16.0"},
        }
        found = answers.get(request.path)
        handler.reply(200 if found else 404, json.dumps(found or {"message": "not found"}).encode(), _JSON)

    def _knows(self, request: Request) -> bool:
        # Langfuse tells everybody how it is.
        if self.keys is None or request.path.endswith("/health"):
            return True
        expected = base64.b64encode(":".join(self.keys).encode()).decode()
        return request.headers.get("authorization") == f"Basic {expected}"
