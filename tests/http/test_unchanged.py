"""An SDK gets the same status, headers and chunks, in the same order, with and without byline."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
import urllib3
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline import http
from byline.gateways import OpenRouter
from byline.testing import Gateway
from tests.http.conftest import Finished

STREAM: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who?"}], "stream": True}
EVENTS = {"content-type": "text/event-stream"}
USAGE = b'data: {"id":"c-1","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'

Answer = tuple[int, list[tuple[str, str]], list[bytes]]


def sort_headers(headers: Any) -> list[tuple[str, str]]:
    # The date differs between two responses.
    return sorted((name.lower(), value) for name, value in headers if name.lower() != "date")


def through_httpx(module: Any) -> Callable[[str], Answer]:
    def ask(url: str) -> Answer:
        with module.Client() as client, client.stream("POST", url, json=STREAM) as answer:
            chunks = list(answer.iter_raw())
        assert answer.elapsed.total_seconds() >= 0
        return answer.status_code, sort_headers(answer.headers.multi_items()), chunks

    return ask


def through_async_httpx(module: Any) -> Callable[[str], Answer]:
    async def ask(url: str) -> Answer:
        async with module.AsyncClient() as client, client.stream("POST", url, json=STREAM) as answer:
            chunks = [chunk async for chunk in answer.aiter_raw()]
            return answer.status_code, sort_headers(answer.headers.multi_items()), chunks

    return lambda url: asyncio.run(ask(url))


def through_requests(url: str) -> Answer:
    with requests.post(url, json=STREAM, stream=True) as answer:
        return answer.status_code, sort_headers(answer.headers.items()), list(answer.iter_content(None))


def through_urllib3(url: str) -> Answer:
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", url, json=STREAM, preload_content=False, decode_content=False)
        return answer.status, sort_headers(answer.headers.items()), list(answer.stream(64))


def through_aiohttp(url: str) -> Answer:
    async def ask() -> Answer:
        async with aiohttp.ClientSession() as session, session.post(url, json=STREAM) as answer:
            chunks = [chunk async for chunk, _ in answer.content.iter_chunks()]
            return answer.status, sort_headers(answer.headers.items()), chunks

    return asyncio.run(ask())


WAYS: dict[str, Callable[[str], Answer]] = {
    "httpx": through_httpx(httpx),
    "httpx2": through_httpx(httpx2),
    "async httpx": through_async_httpx(httpx),
    "async httpx2": through_async_httpx(httpx2),
    "requests": through_requests,
    "urllib3": through_urllib3,
    "aiohttp": through_aiohttp,
}

WORDS = [b'data: {"id":"c-1","model":"m","choices":[{"delta":{"content":"%d"}}]}\r\n\r\n' % n for n in range(300)]
WHOLE = b"".join([b": OPENROUTER PROCESSING\n\n", *WORDS, USAGE, b"data: [DONE]\n\n"])
#: Chunks, headers and status of responses, valid and invalid.
REPLIES: dict[str, tuple[list[bytes], dict[str, str], int]] = {
    "a stream": ([b": OPENROUTER PROCESSING\n\n", *WORDS, USAGE, b"data: [DONE]\n\n"], EVENTS, 200),
    "split anywhere": ([WHOLE[at : at + 7] for at in range(0, len(WHOLE), 7)], EVENTS, 200),
    "gzip": ([gzip.compress(WHOLE)], {**EVENTS, "content-encoding": "gzip"}, 200),
    "an error in the middle": ([*WORDS[:3], b'data: {"error":{"code":502,"message":"gone"}}\n\n'], EVENTS, 200),
    "no JSON though it says so": ([b"<html>"], {"content-type": "application/json"}, 200),
    "bytes that are no text": ([b"\xff\xfe\x00", b"data: \xff\n\n"], EVENTS, 200),
    "absurd usage": (
        [b'data: {"id":7,"model":[],"usage":{"prompt_tokens":-1,"completion_tokens":1e99,"cost":"x"}}\n\n'],
        EVENTS,
        200,
    ),
    "headers that are no numbers": (
        [*WORDS[:2], USAGE],
        {**EVENTS, "x-ratelimit-limit-tokens": "many", "x-litellm-call-id": "c", "x-litellm-key-spend": "nan"},
        200,
    ),
    "nothing": ([], {"content-type": "application/json"}, 200),
    "an error": ([b'{"error":{"message":"no","type":"t"}}'], {"content-type": "application/json"}, 500),
}


@pytest.fixture
def upstream() -> Iterator[Gateway]:
    with Gateway() as running:
        yield running


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("way", WAYS)
def test_client_gets_the_same_response_with_and_without_byline(
    way: str, reply: str, upstream: Gateway, provider: TracerProvider, finished: Finished
) -> None:
    """Status, headers and body are equal."""
    chunks, headers, status = REPLIES[reply]
    upstream.answer(chunks, status=status, headers=headers, times=2)
    url = f"{upstream.base_url}/chat/completions"
    without = WAYS[way](url)
    http.install(
        tracer_provider=provider,
        gateways=[OpenRouter(upstream.base_url)],
        clients="auto",
        llm_spans="auto",
        capture_content=True,
    )
    try:
        with byline.bound(session_id="s-1"):
            with_byline = WAYS[way](url)
    finally:
        http.uninstall()
    assert with_byline[:2] == without[:2]
    # The network decides on the number of chunks.
    assert b"".join(with_byline[2]) == b"".join(without[2])
    (span,) = finished()
    attributes = span.attributes or {}
    if reply in ("a stream", "split anywhere", "gzip"):
        assert attributes["gen_ai.usage.output_tokens"] == 4
    if reply == "absurd usage":
        assert not [name for name in attributes if name.startswith("gen_ai.usage.")]
    if reply in ("an error in the middle", "an error"):
        assert attributes["byline.error.message"] in ("gone", "no")


class Chunks(httpx.SyncByteStream, httpx2.SyncByteStream):
    """A body that records when each chunk is requested."""

    def __init__(self, chunks: list[bytes], events: list[str]) -> None:
        self.chunks = chunks
        self.events = events

    def __iter__(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self.chunks):
            self.events.append(f"made {number}")
            yield chunk

    def close(self) -> None:
        self.events.append("closed")


class AsyncChunks(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """The same body for async clients."""

    def __init__(self, chunks: list[bytes], events: list[str]) -> None:
        self.inner = Chunks(chunks, events)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.inner:
            yield chunk

    async def aclose(self) -> None:
        self.inner.close()


def record_sequence(module: Any, *, asynchronous: bool) -> list[str]:
    """Return the order in which the network produces chunks and the app gets them."""
    events: list[str] = []
    made = AsyncChunks if asynchronous else Chunks

    def answer(request: Any) -> Any:
        return module.Response(200, headers=EVENTS, stream=made([*WORDS, USAGE], events))

    url = "https://openrouter.ai/api/v1/chat/completions"
    transport = module.MockTransport(answer)
    if not asynchronous:
        with module.Client(transport=transport) as client, client.stream("POST", url, json=STREAM) as response:
            for number, chunk in enumerate(response.iter_raw()):
                events.append(f"had {number} {len(chunk)}")
        return events

    async def ask() -> None:
        async with (
            module.AsyncClient(transport=transport) as client,
            client.stream("POST", url, json=STREAM) as response,
        ):
            number = 0
            async for chunk in response.aiter_raw():
                events.append(f"had {number} {len(chunk)}")
                number += 1

    asyncio.run(ask())
    return events


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("module", [httpx, httpx2])
def test_app_gets_each_chunk_before_the_next_one_is_requested(
    module: Any, asynchronous: bool, provider: TracerProvider
) -> None:
    """Chunks are neither split nor joined, read ahead or held back."""
    without = record_sequence(module, asynchronous=asynchronous)
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    try:
        assert record_sequence(module, asynchronous=asynchronous) == without
    finally:
        http.uninstall()


def test_long_stream_is_not_kept_in_memory(provider: TracerProvider, finished: Finished) -> None:
    """Of 100 MB only the beginning and the end are kept."""
    import tracemalloc

    chunk = b"data: " + b"x" * 100_000 + b"\n\n"

    def answer(request: Any) -> Any:
        def body() -> Iterator[bytes]:
            yield WORDS[0]
            for _ in range(1000):
                yield chunk
            yield USAGE

        return httpx2.Response(200, headers=EVENTS, stream=Body(body()))

    class Body(httpx2.SyncByteStream):
        def __init__(self, inner: Iterator[bytes]) -> None:
            self.inner = inner

        def __iter__(self) -> Iterator[bytes]:
            yield from self.inner

    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    try:
        with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
            tracemalloc.start()
            with client.stream("POST", "https://openrouter.ai/api/v1/chat/completions", json=STREAM) as response:
                for _ in response.iter_raw():
                    pass
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    finally:
        http.uninstall()
    assert peak < 20_000_000
    (span,) = finished()
    assert (span.attributes or {})["gen_ai.usage.output_tokens"] == 4
    assert (span.attributes or {})["gen_ai.response.model"] == "m"


def test_malformed_responses_are_counted_and_not_logged(
    upstream: Gateway, provider: TracerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """No part of the body is in a log."""
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    caplog.set_level("DEBUG", logger="byline")
    try:
        with httpx2.Client() as client:
            for bad in (b"{SECRET", b'{"usage":{"prompt_tokens":"SECRET"}}', b"\x1f\x8bSECRET"):
                upstream.answer(bad, headers={"content-type": "application/json"})
                client.post(f"{upstream.base_url}/chat/completions", json={**STREAM, "stream": False})
    finally:
        http.uninstall()
    assert "SECRET" not in caplog.text
    assert byline.stats()["replies.unreadable"] == 2


def test_request_to_a_provider_is_sent_unmodified(upstream: Gateway, provider: TracerProvider) -> None:
    """Unusual JSON (duplicate members, odd white space) is not rewritten."""
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    body = b'{ "model" : "m",\n"messages":[ ], "x":1.0e5, "model":"n" }'
    try:
        with byline.bound(session_id="s-1"), httpx2.Client() as client:
            client.post(f"{upstream.base_url}/chat/completions", content=body)
    finally:
        http.uninstall()
    (request,) = upstream.requests
    assert request.body == body
    assert json.loads(request.body)["model"] == "n"
