"""Responses that are handed on, read in parts, or dropped, with aiohttp and urllib3."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import weakref
from typing import Any

import aiohttp
import httpx
import pytest
import urllib3
from aiohttp import web

import byline
from byline.http.httpx import _decode_headers
from byline.http.response_reader import ResponseBuffer
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}


def url_of(gateway: Gateway) -> str:
    return f"{gateway.base_url}/chat/completions"


def test_body_of_aiohttp_can_be_forwarded_as_a_stream(gateway: Gateway, finished: Finished) -> None:
    """One line of a megabyte among it, as of embeddings."""
    reply = json.dumps({"id": "c-1", "model": "m", "choices": [], "x": "y" * 1_000_000}).encode()
    gateway.answer(reply)

    async def relay(request: web.Request) -> web.StreamResponse:
        async with aiohttp.ClientSession() as session, session.post(url_of(gateway), json=CHAT) as answer:
            assert isinstance(answer, aiohttp.ClientResponse)
            assert isinstance(answer.content, aiohttp.StreamReader)
            response = web.Response(body=answer.content)
            await response.prepare(request)
            await response.write_eof()
            return response

    async def ask() -> bytes:
        app = web.Application()
        app.router.add_post("/", relay)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}/") as answer:
                return await answer.read()
        finally:
            await runner.cleanup()

    assert asyncio.run(ask()) == reply
    assert (finished()[-1].attributes or {})["gen_ai.response.id"] == "c-1"


def test_headers_of_aiohttp_may_be_any_pairs_and_json_is_made_once(gateway: Gateway) -> None:
    """Also an iterator, which gives them once."""
    made: list[int] = []

    def dump(value: Any) -> str:
        made.append(1)
        return json.dumps(value)

    async def ask() -> None:
        async with aiohttp.ClientSession(json_serialize=dump) as session:
            headers: Any = iter([("Authorization", "Bearer x"), ("X-A", "1"), ("X-A", "2")])
            async with session.request("post", url_of(gateway), json=CHAT, headers=headers) as answer:
                assert answer.status == 200

    with byline.bound(session_id="s-1"):
        asyncio.run(ask())
    (request,) = gateway.requests
    assert request.headers["authorization"] == "Bearer x"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-session-id"] == "s-1"
    assert made == [1]


def test_headers_of_urllib3_stay_several_and_none_are_none(gateway: Gateway) -> None:
    """Its own kind of headers holds a name more than once; empty ones keep the pool's away."""
    several = urllib3.HTTPHeaderDict()
    several.add("X-A", "1")
    several.add("X-A", "2")
    with urllib3.PoolManager(headers={"x-pool": "yes"}) as pool, byline.bound(session_id="s-1"):
        pool.urlopen("POST", url_of(gateway), body=json.dumps(CHAT), headers=several)
        pool.urlopen("POST", url_of(gateway), body=json.dumps(CHAT), headers={})
        pool.urlopen("POST", url_of(gateway), body=json.dumps(CHAT))
    assert several.getlist("X-A") == ["1", "2"]
    assert "x-session-id" not in several
    first, second, third = gateway.requests
    assert first.headers["x-a"] in ("1, 2", "1,2", "2")
    assert "x-pool" not in second.headers
    assert third.headers["x-pool"] == "yes"
    assert all(request.headers["x-session-id"] == "s-1" for request in gateway.requests)


@pytest.mark.parametrize("way", ["stream", "keyword", "whole", "after nothing"])
def test_body_of_urllib3_is_seen_to_its_end_by_every_method(way: str, gateway: Gateway, finished: Finished) -> None:
    """In parts of a known length too."""
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", url_of(gateway), json=CHAT, preload_content=False)
        assert answer.headers["content-length"]
        if way == "stream":
            list(answer.stream(64))
        elif way == "keyword":
            while answer.read(amt=64):
                pass
        else:
            if way == "after nothing":
                answer.read(0)
            assert json.loads(answer.read())
    assert (finished()[0].attributes or {})["gen_ai.usage.output_tokens"]


def test_a_response_of_urllib3_that_is_dropped_goes_at_once(gateway: Gateway, finished: Finished) -> None:
    """And so does its connection; its call ends."""
    gc.disable()
    try:
        with urllib3.PoolManager() as pool:
            answer = pool.request("POST", url_of(gateway), json=CHAT, preload_content=False)
            gone = weakref.ref(answer)
            del answer
            assert gone() is None
    finally:
        gc.enable()
    byline.flush()
    assert len(finished()) == 1


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_a_response_of_aiohttp_that_is_dropped_ends_its_call(gateway: Gateway, finished: Finished) -> None:
    """Nothing was read."""

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            answer = await session.post(url_of(gateway), json={**CHAT, "stream": True})
            gone = weakref.ref(answer)
            del answer
            for _ in range(100):
                gc.collect()
                if gone() is None:
                    break
                await asyncio.sleep(0.01)
            assert gone() is None

    asyncio.run(ask())
    byline.flush()
    assert len(finished()) == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Request-Id", "r-1"), ("content-type", "text/plain")],
        # httpx joins repeated headers, and finds out the encoding of others than ASCII.
        [("x-tag", "a"), ("X-Tag", "b")],
        [(b"x-name", "Zoë".encode())],
        [(b"x-name", "Zoë".encode("latin-1"))],
        [],
    ],
)
def test_headers_of_httpx_are_read_as_httpx_reads_them(headers: Any) -> None:
    assert _decode_headers(httpx.Headers(headers)) == dict(httpx.Headers(headers).items())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sizes", [[2], [2, 33], [31], [1, 2, 3, 400]])
def test_tiny_chunks_take_little_more_memory_than_their_bytes(whole: bool, sizes: list[int]) -> None:
    """8 MiB in chunks of two bytes would take 336 MiB."""
    buffer = ResponseBuffer(streamed=True, whole=whole)
    sent = b""
    while len(sent) < 60_000:
        for size in sizes:
            chunk = len(sent).to_bytes(3, "big")[-1:] * size
            sent += chunk
            buffer.append(chunk)
    kept = (*buffer._head, *buffer.tail)
    assert sum(map(sys.getsizeof, kept)) + sys.getsizeof(buffer._head) < 6 * len(sent)
    assert b"".join(buffer.head_and_tail()) == sent
