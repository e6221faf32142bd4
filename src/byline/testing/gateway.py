"""A gateway on 127.0.0.1 that answers like OpenRouter, OpenAI, Anthropic and Gemini."""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from byline.testing import replies
from byline.testing.openrouter import OpenRouterState
from byline.testing.server import Handler, Request, Server
from byline.testing.simulated_model import ModelCall

_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream"}
#: Response ids are unique within the process, also between two gateways.
_numbers: Final = itertools.count(1)
_ERROR_MESSAGE: Final = "The testing gateway was told to fail."
#: Below this path the gateway answers as a provider without costs.
PROVIDER_PATH: Final = "/provider/"
_NOT_FOUND: Final = replies.openai_error(404, "There is nothing at this path.")


class _Endpoint(NamedTuple):
    """The responses of one API endpoint.

    Attributes:
        path_ending: The end of the path.
        id_prefix: The beginning of response ids.
        build: Returns a whole response.
        stream: Yields the chunks of a stream; ``None`` if the endpoint does not stream.
        error: Returns the body of an error response from status and message.
        stream_error: Returns the chunk that reports an error within a stream.
        model: The model in the response if the request names none.
        priced: Whether responses state a cost at every path, or below ``/api/`` only.
    """

    path_ending: str
    id_prefix: str
    build: Callable[[ModelCall], dict[str, Any]]
    stream: Callable[[ModelCall], Iterator[bytes]] | None = None
    error: Callable[[int, str], dict[str, Any]] = replies.openai_error
    stream_error: Callable[[ModelCall, int, str], bytes] = replies.chat_stream_error
    model: str = "openai/gpt-4o"
    priced: bool = True

    def model_in_path(self, path: str) -> str:
        """Return the model that a Gemini path names, else the endpoint's default."""
        name, colon, _ = path.rpartition("/")[2].partition(":")
        return name if colon and name else self.model


_ANTHROPIC: Final = (
    replies.anthropic_error,
    replies.anthropic_stream_error,
    "claude-sonnet-4-5",
    False,
)
_GEMINI: Final = (replies.gemini_error, replies.gemini_stream_error, "gemini-2.5-flash", False)

_ENDPOINTS: Final = (
    _Endpoint("/chat/completions", "gen", replies.chat_completion, replies.chat_completion_stream),
    _Endpoint("/completions", "gen", replies.text_completion, replies.text_completion_stream),
    _Endpoint("/embeddings", "gen-emb", replies.embedding_list),
    _Endpoint(
        "/responses",
        "resp",
        replies.openai_response,
        replies.openai_response_stream,
        stream_error=replies.responses_stream_error,
    ),
    _Endpoint(
        "/messages",
        "msg",
        replies.anthropic_message,
        replies.anthropic_message_stream,
        *_ANTHROPIC,
    ),
    _Endpoint(":generateContent", "gem", replies.gemini_response, None, *_GEMINI),
    _Endpoint(
        ":streamGenerateContent",
        "gem",
        replies.gemini_response,
        replies.gemini_response_stream,
        *_GEMINI,
    ),
    _Endpoint(":embedContent", "gem", replies.gemini_embedding, None, *_GEMINI),
    _Endpoint(":batchEmbedContents", "gem", replies.gemini_embedding, None, *_GEMINI),
)


def is_answered(path: str) -> bool:
    """Return whether the gateway answers LLM requests at this path."""
    return path.endswith(tuple(endpoint.path_ending for endpoint in _ENDPOINTS))


class _ScriptedReply(NamedTuple):
    """The behaviour of one call; the defaults give the usual response."""

    status: int = 200
    headers: dict[str, str] | None = None
    body: bytes | None = None
    chunks: Sequence[bytes] | None = None
    after: int | None = None
    hangs: bool = False


class Gateway(Server):
    """A server with the APIs of OpenAI, Anthropic and Gemini, as OpenRouter answers them.

    Supports chat and text completions, embeddings, responses, Anthropic's messages and Gemini's
    generateContent, whole and streamed. Responses call a tool if the request has tools, and state
    usage and cost as OpenRouter does. Routing metadata, the response cache and ``GET`` on ``/models``,
    ``/key`` and ``/generation?id=`` work as well. An endpoint is recognised by the end of its path.
    ``requests`` has all requests.

    Args:
        port: The port to serve on; by default a free one.

    Raises:
        SettingError: ``byline.E050`` if the port is taken.

    Example:
        >>> with Gateway() as gateway:
        ...     gateway.fail(429, headers={"retry-after": "1"})  # the next call fails
        ...     gateway.answer({"choices": []})  # the call after that gets this body
        ...     gateway.base_url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        #: The base URL for SDKs of OpenAI's API.
        self.base_url = f"{self.url}/api/v1"
        #: Additional headers of every response.
        self.headers: dict[str, str] = {}
        self._script: deque[_ScriptedReply] = deque()
        self._openrouter = OpenRouterState()
        self._stream_control = threading.Condition()
        #: How many chunks each stream may send; ``None`` for all.
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
            headers: Headers of the error response, e.g. ``{"retry-after": "1"}``.
            body: Body of the error response; by default an error of the API that was called.
            after: Send this many chunks of a stream first, then an error in the stream, as
                OpenRouter does if a provider fails during a stream.
        """
        self._script.extend([_ScriptedReply(status, headers, body, after=after)] * times)

    def answer(
        self,
        body: dict[str, Any] | list[Any] | str | bytes | Iterable[bytes],
        status: int = 200,
        headers: dict[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Answer the next calls with this body.

        Args:
            body: A JSON object; text or bytes, sent as they are; or the chunks of a stream, as an
                iterable of bytes.
            status: The HTTP status.
            headers: Additional headers; they may replace the content type.
            times: How many calls get this response.
        """
        scripted = _ScriptedReply(status, headers)
        if isinstance(body, (str, bytes)):
            scripted = scripted._replace(body=body.encode() if isinstance(body, str) else body)
        elif isinstance(body, dict) or (isinstance(body, list) and not all(isinstance(part, bytes) for part in body)):
            scripted = scripted._replace(body=json.dumps(body).encode())
        else:
            scripted = scripted._replace(chunks=tuple(body))
        self._script.extend([scripted] * times)

    def hang(self, times: int = 1) -> None:
        """Do not answer the next calls until `release`."""
        self._script.extend([_ScriptedReply(hangs=True)] * times)

    def hold(self, after: int = 1) -> None:
        """Pause each stream after this many chunks, until `step` or `release`."""
        with self._stream_control:
            self._allowed = after

    def step(self, chunks: int = 1) -> None:
        """Let each paused stream send this many more chunks."""
        with self._stream_control:
            if self._allowed is not None:
                self._allowed += chunks
            self._stream_control.notify_all()

    def release(self) -> None:
        """Let hanging calls and paused streams continue."""
        with self._stream_control:
            self._allowed = None
            self._released += 1
            self._stream_control.notify_all()

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Request]:
        """Return all requests as soon as there are ``count``. Raises `TimeoutError` after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests arrived within {timeout} s")
            return list(self.requests)

    def stop(self) -> None:
        """Stop serving; hanging calls and paused streams end."""
        super().stop()
        self.release()

    def respond(self, request: Request, handler: Handler) -> None:
        """Send the response to one request."""
        if request.method == "GET":
            found = self._openrouter.answer_get(request)
            self._send_json(handler, 200 if found else 404, found or _NOT_FOUND)
            return
        scripted = self._script.popleft() if self._script else _ScriptedReply()
        if scripted.hangs and not self._wait_for_release():
            handler.cut()
        elif scripted.chunks is not None:
            handler.start_stream(scripted.status, {**_EVENTS, **(scripted.headers or {})})
            self._send_chunks(handler, scripted.chunks, None)
        elif scripted.body is not None and scripted.after is None:
            handler.reply(scripted.status, scripted.body, {**_JSON, **(scripted.headers or {})})
        else:
            self._answer_call(request, handler, scripted)

    def _answer_call(self, request: Request, handler: Handler, scripted: _ScriptedReply) -> None:
        endpoint = next((each for each in _ENDPOINTS if request.path.endswith(each.path_ending)), None)
        if scripted.status == 0 and scripted.after is None:
            handler.cut()
        elif scripted.status >= 400 and scripted.after is None:
            build_error = endpoint.error if endpoint else replies.openai_error
            self._send_json(handler, scripted.status, build_error(scripted.status, _ERROR_MESSAGE), scripted.headers)
        elif endpoint is None:
            self._send_json(handler, 404, _NOT_FOUND)
        else:
            try:
                body = request.json()
            except ValueError:
                body = None
            if isinstance(body, dict):
                self._send_usual_response(request, handler, endpoint, body, scripted)
            else:
                self._send_json(handler, 400, endpoint.error(400, "The body is not a JSON object."))

    def _send_usual_response(
        self, request: Request, handler: Handler, endpoint: _Endpoint, body: dict[str, Any], scripted: _ScriptedReply
    ) -> None:
        identifier = f"{endpoint.id_prefix}-{next(_numbers):08d}"
        model = str(body.get("model") or endpoint.model_in_path(request.path))
        through_gateway = request.path.startswith("/api/") or (
            endpoint.priced and not request.path.startswith(PROVIDER_PATH)
        )
        cache = self._openrouter.cache_headers(request, identifier) if through_gateway else {}
        is_hit = cache.get("x-openrouter-cache-status") == "HIT"
        call = ModelCall(
            body,
            identifier,
            model,
            priced=through_gateway,
            sse=request.query.get("alt") == ["sse"],
            cached=is_hit,
            # A cached response was not routed to a provider.
            extra={} if is_hit or not through_gateway else self._openrouter.routing_metadata(request, model),
        )
        self._openrouter.store_generation(request, call)
        id_header = "x-generation-id" if through_gateway else "request-id"
        headers = {id_header: identifier, **cache, **self.headers, **(scripted.headers or {})}
        if endpoint.stream is None or not (body.get("stream") or request.path.endswith(":streamGenerateContent")):
            self._send_json(handler, 200, endpoint.build(call), headers)
            return
        kind = _JSON if request.path.endswith(":streamGenerateContent") and not call.sse else _EVENTS
        handler.start_stream(200, {**kind, **headers})
        stream_end: bytes | None = None
        if scripted.after is not None:
            stream_end = scripted.body or endpoint.stream_error(call, scripted.status, _ERROR_MESSAGE)
            if scripted.status == 0:
                stream_end = b""
        self._send_chunks(handler, itertools.islice(endpoint.stream(call), scripted.after), stream_end)

    def _send_chunks(self, handler: Handler, chunks: Iterable[bytes], stream_end: bytes | None) -> None:
        """Send the chunks and end the stream: with ``stream_end``, or by closing the connection if that is empty."""
        for chunk in self._paced(chunks):
            handler.send_chunk(chunk)
        if stream_end == b"" or not self.serving:
            handler.cut()
            return
        if stream_end:
            handler.send_chunk(stream_end)
        handler.send_chunk(b"")

    def _paced(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield chunks, pausing as `hold` and `step` say."""
        for sent, chunk in enumerate(chunks):
            with self._stream_control:
                self._stream_control.wait_for(lambda sent=sent: self._allowed is None or sent < self._allowed)  # type: ignore[misc]
            if not self.serving:
                return
            yield chunk

    def _wait_for_release(self) -> bool:
        with self._stream_control:
            before = self._released
            self._stream_control.wait_for(lambda: self._released > before)
        return self.serving

    def _send_json(self, handler: Handler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        handler.reply(status, json.dumps(value).encode(), {**_JSON, **(headers or {})})
