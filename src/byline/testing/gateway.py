"""A gateway on loopback that answers like OpenRouter, and like the providers behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from byline.testing import replies
from byline.testing.server import Handler, Request, Server

Whole = Callable[[dict[str, Any], str], dict[str, Any]]
Streamed = Callable[[dict[str, Any], str], Iterator[bytes]]

#: End of the path → prefix of ids, the whole reply, the streamed one.
_ROUTES: Final[tuple[tuple[str, str, Whole, Streamed | None], ...]] = (
    ("/chat/completions", "gen", replies.chat, replies.chat_stream),
    ("/completions", "gen", replies.completion, None),
    ("/embeddings", "gen-emb", replies.embeddings, None),
    ("/responses", "resp", replies.response, replies.response_stream),
    ("/messages", "msg", replies.message, replies.message_stream),
    (":generateContent", "gem", replies.generate, None),
    (":streamGenerateContent", "gem", replies.generate, replies.generate_stream),
)


class Gateway(Server):
    """Answers chat, responses, completions, embeddings, Anthropic messages and Gemini.

    Streams where it is asked to, and states usage and cost as OpenRouter does. Everything it was
    asked stands in ``requests``.

    Args:
        port: The port to serve on; by default a free one.

    Example:
        >>> with Gateway() as gateway:
        ...     gateway.base_url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.requests: list[Request] = []
        #: What SDKs that speak OpenAI's API take as their base URL.
        self.base_url = f"{self.url}/api/v1"
        #: Headers of every reply besides the usual ones.
        self.headers: dict[str, str] = {}
        self._failures: list[tuple[int, bytes, dict[str, str]]] = []
        self._answers: list[tuple[bytes, dict[str, str]]] = []
        self._held = threading.Event()
        self._held.set()

    def fail(
        self, status: int, times: int = 1, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> None:
        """Answer the next calls with an error, in OpenAI's shape unless ``body`` says otherwise."""
        error = {"error": {"message": "The testing gateway was told to fail.", "type": "testing", "code": status}}
        whole = json.dumps(error).encode() if body is None else body
        self._failures.extend([(status, whole, headers or {})] * times)

    def reply_with(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer the next call with just this."""
        self._answers.append((body, {"content-type": "application/json", **(headers or {})}))

    def hold(self) -> None:
        """Let streams wait after their first chunk until `release`."""
        self._held.clear()

    def release(self) -> None:
        """Let waiting streams go on."""
        self._held.set()

    def stop(self) -> None:
        """Stop serving; streams that wait go on first."""
        self.release()
        super().stop()

    def answer(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        self.requests.append(request)
        if self._failures:
            status, whole, headers = self._failures.pop(0)
            handler.reply(status, whole, {"content-type": "application/json", **headers})
            return
        if self._answers:
            whole, headers = self._answers.pop(0)
            handler.reply(200, whole, headers)
            return
        if request.method == "GET":
            self._answer_question(request, handler)
            return
        for ending, prefix, reply, stream in _ROUTES:
            if request.path.endswith(ending):
                self._answer_call(request, handler, replies.new_id(prefix), reply, stream)
                return
        self._send(handler, 404, {"error": {"message": "no such endpoint", "code": 404}})

    def _answer_call(
        self, request: Request, handler: Handler, identifier: str, reply: Whole, stream: Streamed | None
    ) -> None:
        try:
            body = json.loads(request.body)
        except ValueError:
            self._send(handler, 400, {"error": {"message": "not JSON", "code": 400}})
            return
        headers = {"x-generation-id": identifier, **self.headers}
        if stream is None or not (body.get("stream") or request.path.endswith(":streamGenerateContent")):
            self._send(handler, 200, reply(body, identifier), headers)
            return
        handler.start_stream(200, {"content-type": "text/event-stream", **headers})
        for chunk in stream(body, identifier):
            handler.send_chunk(chunk)
            self._held.wait(30)
        handler.send_chunk(b"")

    def _answer_question(self, request: Request, handler: Handler) -> None:
        if request.path.endswith("/models"):
            self._send(handler, 200, {"data": [{"id": "openai/gpt-4o", "object": "model"}], "object": "list"})
        elif request.path.endswith("/key"):
            key = {"label": "testing", "usage": 1.5, "limit": 10.0, "limit_remaining": 8.5, "limit_reset": "monthly"}
            self._send(handler, 200, {"data": key})
        else:
            self._send(handler, 404, {"error": {"message": "no such endpoint", "code": 404}})

    def _send(self, handler: Handler, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        handler.reply(status, body, {"content-type": "application/json", **(headers or {})})
