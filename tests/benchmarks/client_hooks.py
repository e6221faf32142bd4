"""Cost of the client hooks: each request beside OpenTelemetry's httpx instrumentation, and each chunk of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from byline import http
from byline.http.call_config import configs
from tests.benchmarks.measure import Row, costs

_CHUNK = b'data: {"id":"c-1","model":"m","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
_CHUNKS = 400_000


class Transport(httpx.HTTPTransport):
    """Answers without a network, below what either instrumentation patches."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = _Pool()  # type: ignore[assignment]


class _Pool:
    def handle_request(self, request: Any) -> Any:
        import httpcore

        return httpcore.Response(200, headers=[(b"content-length", b"2")], content=_Two())

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def close(self) -> None:
        return None


class _Two:
    def __iter__(self) -> Iterator[bytes]:
        yield b"{}"

    def close(self) -> None:
        return None


class _Stream(httpx.SyncByteStream):
    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._chunks):
            yield _CHUNK


LLM_URL = "http://llm.internal/v1/chat/completions"
REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": [], "temperature": 0.5}
STREAMED: dict[str, Any] = {"model": "m", "messages": [], "stream": True}
_REPLY = {
    "id": "c-1",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    # With its cost, because the price list is an extra.
    "usage": {"prompt_tokens": 200, "completion_tokens": 5, "cost": 0.001},
}
_REPLY_HEADERS = {
    "x-request-id": "req-1",
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "12ms",
}


def calling_client() -> httpx.Client:
    """Return a client whose requests to a model are answered as OpenAI does."""
    return httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, headers=_REPLY_HEADERS, json=_REPLY))
    )


def streaming_client(chunks: int) -> httpx.Client:
    """Return a client whose requests to a model are answered by a stream."""
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Stream(chunks))
    )
    return httpx.Client(transport=transport)


def install(provider: TracerProvider) -> None:
    http.install(tracer_provider=provider, gateways=[], clients={"httpx"}, llm_spans=True, capture_content=False)


def rows() -> list[Row]:
    """Return the cost of a request that is no LLM call, and of a chunk of a stream."""
    return [_request(), _chunk()]


def _request() -> Row:
    provider = TracerProvider(shutdown_on_exit=False)
    client = httpx.Client(transport=Transport())
    theirs = HTTPXClientInstrumentor()
    url = "http://orders.internal/v1/orders"

    def post(loops: int) -> None:
        for _ in range(loops):
            client.post(url, content=b"{}")

    def hooked(loops: int) -> None:
        install(provider)
        try:
            post(loops)
        finally:
            http.uninstall()

    def instrumented(loops: int) -> None:
        theirs.instrument(tracer_provider=provider)
        try:
            post(loops)
        finally:
            theirs.uninstrument()

    taken = costs({"plain": post, "ours": hooked, "theirs": instrumented}, loops=4000, rounds=15)
    client.close()
    return Row(
        "outgoing request that is no LLM call",
        "OTel httpx instrumentation",
        taken["theirs"] - taken["plain"],
        taken["ours"] - taken["plain"],
        0.05,
    )


def _chunk() -> Row:
    provider = TracerProvider(shutdown_on_exit=False)
    client = streaming_client(_CHUNKS)

    def read(loops: int) -> None:
        for _ in range(loops):
            with client.stream("POST", LLM_URL, json=STREAMED) as response:
                for _chunk in response.iter_raw():
                    pass

    install(provider)
    config = configs.current()
    assert config is not None

    def unseen(loops: int) -> None:
        configs.remove(config)
        read(loops)
        configs.add(config)

    variants: dict[str, Callable[[int], None]] = {"plain": unseen, "ours": read}
    try:
        taken = costs(variants, loops=1, rounds=15)
    finally:
        http.uninstall()
        client.close()
    # A ratio to 1 µs: two hundredths keep the chunk, one hundredth finds the last event in it ("data: [DONE]").
    return Row("chunk of a stream", "1 µs", 1.0, (taken["ours"] - taken["plain"]) / _CHUNKS, 0.03)
