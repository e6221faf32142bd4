"""A gateway on loopback that answers like OpenRouter, and like the providers behind it."""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from byline.testing import replies
from byline.testing.openrouter import Around
from byline.testing.replies import chat
from byline.testing.replies.model import Ask
from byline.testing.server import Handler, Request, Server

_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream"}
#: No two replies of a process have the same id, whichever gateway gave them.
_numbers = itertools.count(1)
_TOLD = "The testing gateway was told to fail."


class _Act(NamedTuple):
    """What is to happen with one call; by default the usual answer."""

    status: int = 200
    headers: dict[str, str] | None = None
    body: bytes | None = None
    chunks: Sequence[bytes] | None = None
    after: int | None = None
    hangs: bool = False


class Gateway(Server):
    """Answers chat and text completions, embeddings, responses, Anthropic's messages and Gemini.

    Streams where it is asked to, calls a tool where there are tools, and states usage and cost as
    OpenRouter does; also its routing metadata and response cache for those who ask for them, and
    ``GET`` on ``/models``, ``/key`` and ``/generation?id=``. Endpoints are told by how their paths
    end. What it was asked stands in ``requests``.

    Args:
        port: The port to serve on; by default a free one.

    Raises:
        SettingError: ``byline.E050`` where the port is taken.

    Example:
        >>> with Gateway() as gateway:
        ...     gateway.fail(429, headers={"retry-after": "1"})  # the next call fails
        ...     gateway.answer({"choices": []})  # the one after that gets just this
        ...     gateway.base_url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        #: What SDKs that speak OpenAI's API take as their base URL.
        self.base_url = f"{self.url}/api/v1"
        #: Headers of every reply besides the usual ones.
        self.headers: dict[str, str] = {}
        self._script: deque[_Act] = deque()
        self._around = Around()
        self._flow = threading.Condition()
        #: How many chunks each stream may send, ``None`` for all; and whether calls may hang.
        self._allowed: int | None = None
        self._released = 0

    def fail(
        self,
        status: int,
        times: int = 1,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        after: int | None = None,
    ) -> None:
        """Answer the next calls with an error.

        Args:
            status: The HTTP status; 0 closes the connection instead.
            times: How many calls fail.
            headers: Headers of the error, e.g. ``{"retry-after": "1"}``.
            body: Its body; by default an error in the shape of the API that was called.
            after: Fail after so many chunks of a stream that began well, with an error in the
                stream, as OpenRouter does when a provider fails in the middle.
        """
        self._script.extend([_Act(status, headers, body, after=after)] * times)

    def answer(
        self,
        body: dict[str, Any] | list[Any] | str | bytes | Iterable[bytes],
        status: int = 200,
        headers: dict[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Answer the next calls with just this.

        Args:
            body: A JSON object; text or bytes as they are; or the chunks of a stream, as an
                iterable of bytes.
            status: The HTTP status.
            headers: Headers besides the content type, which they may change.
            times: How many calls get it.
        """
        act = _Act(status, headers)
        if isinstance(body, (str, bytes)):
            act = act._replace(body=body.encode() if isinstance(body, str) else body)
        elif isinstance(body, dict) or (isinstance(body, list) and not all(isinstance(part, bytes) for part in body)):
            act = act._replace(body=json.dumps(body).encode())
        else:
            act = act._replace(chunks=tuple(body))
        self._script.extend([act] * times)

    def hang(self, times: int = 1) -> None:
        """Leave the next calls without an answer until `release`."""
        self._script.extend([_Act(hangs=True)] * times)

    def hold(self, after: int = 1) -> None:
        """Let streams wait after so many chunks, until `step` or `release`."""
        with self._flow:
            self._allowed = after

    def step(self, chunks: int = 1) -> None:
        """Let each stream that waits send so many chunks more."""
        with self._flow:
            if self._allowed is not None:
                self._allowed += chunks
            self._flow.notify_all()

    def release(self) -> None:
        """Let calls that hang and streams that wait go on."""
        with self._flow:
            self._allowed = None
            self._released += 1
            self._flow.notify_all()

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Request]:
        """Wait until ``count`` requests have arrived. Raises `TimeoutError` after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests arrived within {timeout} s")
            return list(self.requests)

    def stop(self) -> None:
        """Stop serving; what hangs or waits ends."""
        super().stop()
        self.release()

    def respond(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        if request.method == "GET":
            found = self._around.question(request)
            self._send(handler, 200 if found else 404, found or chat.error(404, "There is nothing at this path."))
            return
        act = self._script.popleft() if self._script else _Act()
        if act.hangs and not self._wait_for_release():
            handler.cut()
        elif act.chunks is not None:
            handler.start_stream(act.status, {**_EVENTS, **(act.headers or {})})
            self._send_chunks(handler, act.chunks, None)
        elif act.body is not None and act.after is None:
            handler.reply(act.status, act.body, {**_JSON, **(act.headers or {})})
        else:
            self._call(request, handler, act)

    def _call(self, request: Request, handler: Handler, act: _Act) -> None:
        api = replies.find(request.path)
        if act.status == 0 and act.after is None:
            handler.cut()
        elif act.status >= 400 and act.after is None:
            self._send(handler, act.status, (api.error if api else chat.error)(act.status, _TOLD), act.headers)
        elif api is None:
            self._send(handler, 404, chat.error(404, "There is nothing at this path."))
        else:
            try:
                body = request.json()
            except ValueError:
                body = None
            if isinstance(body, dict):
                self._answer_usually(request, handler, api, body, act)
            else:
                self._send(handler, 400, api.error(400, "The body is no JSON object."))

    def _answer_usually(
        self, request: Request, handler: Handler, api: replies.Api, body: dict[str, Any], act: _Act
    ) -> None:
        identifier = f"{api.prefix}-{next(_numbers):08d}"
        model = str(body.get("model") or api.model_of(request.path))
        through_gateway = api.priced or request.path.startswith("/api/")
        cache = self._around.cache(request, identifier) if through_gateway else {}
        hit = cache.get("x-openrouter-cache-status") == "HIT"
        ask = Ask(
            body,
            identifier,
            model,
            priced=through_gateway,
            sse=request.query.get("alt") == ["sse"],
            cached=hit,
            # A reply out of the cache was not routed anywhere.
            extra={} if hit or not through_gateway else self._around.routing(request, model),
        )
        self._around.remember(request, ask)
        named = "x-generation-id" if through_gateway else "request-id"
        headers = {named: identifier, **cache, **self.headers, **(act.headers or {})}
        if api.stream is None or not (body.get("stream") or request.path.endswith(":streamGenerateContent")):
            self._send(handler, 200, api.whole(ask), headers)
            return
        kind = _JSON if request.path.endswith(":streamGenerateContent") and not ask.sse else _EVENTS
        handler.start_stream(200, {**kind, **headers})
        broken: bytes | None = None
        if act.after is not None:
            broken = b"" if act.status == 0 else act.body or api.stream_error(ask, act.status, _TOLD)
        self._send_chunks(handler, itertools.islice(api.stream(ask), act.after), broken)

    def _send_chunks(self, handler: Handler, chunks: Iterable[bytes], broken: bytes | None) -> None:
        for chunk in self._flowing(chunks):
            handler.send_chunk(chunk)
        if broken == b"" or not self.serving:
            handler.cut()
            return
        if broken:
            handler.send_chunk(broken)
        handler.send_chunk(b"")

    def _flowing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield chunks as far as `hold` and `step` allow."""
        for sent, chunk in enumerate(chunks):
            with self._flow:
                self._flow.wait_for(lambda sent=sent: self._allowed is None or sent < self._allowed)  # type: ignore[misc]
            if not self.serving:
                return
            yield chunk

    def _wait_for_release(self) -> bool:
        with self._flow:
            before = self._released
            self._flow.wait_for(lambda: self._released > before)
        return self.serving

    def _send(self, handler: Handler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        handler.reply(status, json.dumps(value).encode(), {**_JSON, **(headers or {})})
