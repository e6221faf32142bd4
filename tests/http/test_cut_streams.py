"""Streams that end before their last event, or whose reader stops at the last event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import aiohttp
import httpx
import httpx2
import openai
import pytest
import requests
import urllib3
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

import byline
from byline import request_context
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}], "stream": True}
EVENTS = {"content-type": "text/event-stream"}
WORD = b'data: {"id":"c-1","model":"m","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
STOP = b'data: {"id":"c-1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"c-1","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"


def url_of(gateway: Gateway) -> str:
    return f"{gateway.base_url}/chat/completions"


def anthropic_events(*, input_tokens: int, output_tokens: int) -> list[bytes]:
    start = {"id": "m-1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": []}
    usage = {"input_tokens": input_tokens, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**start, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output_tokens}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def gemini_events() -> list[bytes]:
    def event(output_tokens: int, **candidate: Any) -> bytes:
        usage = {"promptTokenCount": 1000, "candidatesTokenCount": output_tokens}
        content = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}
        return f"data: {json.dumps(content)}\n\n".encode()

    return [event(1, content={"parts": [{"text": "word"}]}), event(2000, finishReason="STOP")]


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# Estimates


@pytest.mark.parametrize("api", ["anthropic", "gemini"])
def test_streamed_estimate_is_of_the_final_usage(api: str, gateway: Gateway, finished: Finished) -> None:
    """The first event states one output token, the last one 2000."""
    path, events, whole = {
        "anthropic": (
            "/v1/messages",
            anthropic_events(input_tokens=1000, output_tokens=2000),
            {
                "id": "m-1",
                "model": "claude-sonnet-4-5",
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 1000, "output_tokens": 2000},
            },
        ),
        "gemini": (
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
            gemini_events(),
            {
                "modelVersion": "gemini-2.5-flash",
                "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 2000},
            },
        ),
    }[api]
    body = {"model": "claude-sonnet-4-5", "messages": [], "max_tokens": 9, "contents": []}
    with Gateway() as provider, httpx2.Client() as client:
        provider.answer(events, headers=EVENTS)
        with client.stream("POST", provider.url + path, json={**body, "stream": True}) as response:
            assert list(response.iter_raw())
        provider.answer(whole)
        client.post(provider.url + path.replace("streamG", "g"), json=body)
    streamed, plain = (attributes_of(span) for span in finished())
    assert streamed["byline.cost.source"] == "estimate"
    assert streamed["gen_ai.usage.output_tokens"] == 2000
    assert streamed["gen_ai.usage.cost"] == pytest.approx(plain["gen_ai.usage.cost"])
    assert streamed["byline.cost.output"] == pytest.approx(plain["byline.cost.output"])


# [DONE]


def read_with_httpx(module: Any) -> Callable[[str], list[Any]]:
    def read_to_done(url: str) -> list[Any]:
        client = module.Client()
        response = client.send(client.build_request("POST", url, json=CHAT), stream=True)
        lines = response.iter_lines()
        return [client, response, lines, next(line for line in lines if line == "data: [DONE]")]

    return read_to_done


def read_with_requests(url: str) -> list[Any]:
    response = requests.post(url, json=CHAT, stream=True)
    lines = response.iter_lines(chunk_size=1)
    return [response, lines, next(line for line in lines if line == b"data: [DONE]")]


def read_with_urllib3(url: str) -> list[Any]:
    response = urllib3.PoolManager().request("POST", url, json=CHAT, preload_content=False)
    chunks = response.stream(7)
    text = b""
    while not text.endswith(b"[DONE]"):
        text = (text + next(chunks))[:-1] if text.endswith(b"[DONE]\n") else text + next(chunks)
        text = text.rstrip(b"\n")
    return [response, chunks]


@pytest.mark.parametrize("padding", [0, 400])
@pytest.mark.parametrize("ending", [[USAGE, DONE], [USAGE + DONE], [USAGE, DONE.replace(b"\n", b"\r\n")]])
@pytest.mark.parametrize("module", [httpx, httpx2])
def test_stream_of_httpx_ends_at_done(
    module: Any, ending: list[bytes], padding: int, gateway: Gateway, finished: Finished
) -> None:
    """The app keeps the response open, and does not read past the last event. Long streams are read otherwise."""
    gateway.answer([*[WORD] * (3 + padding), STOP, *ending], headers=EVENTS)
    with byline.bound(session_id="s-1"):
        context = request_context.current_context()
        still_open = read_with_httpx(module)(url_of(gateway))
    (span,) = finished()
    assert attributes_of(span)["gen_ai.usage.output_tokens"] == 4
    assert "byline.stream.cut" not in attributes_of(span)
    assert context is not None
    assert context.totals.output_tokens == 4
    still_open[1].close()
    still_open[0].close()
    assert len(finished()) == 1
    assert attributes_of(finished()[0]) == attributes_of(span)


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_async_stream_of_httpx_ends_at_done(module: Any, gateway: Gateway, finished: Finished) -> None:
    gateway.answer([*[WORD] * 400, STOP, USAGE, DONE], headers=EVENTS)

    async def read_to_done() -> int:
        async with module.AsyncClient() as client:
            response = await client.send(client.build_request("POST", url_of(gateway), json=CHAT), stream=True)
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    break
            ended = len(finished())
            await response.aclose()
            return ended

    assert asyncio.run(read_to_done()) == 1
    assert attributes_of(finished()[0])["gen_ai.usage.output_tokens"] == 4


@pytest.mark.parametrize("read_to_done", [read_with_requests, read_with_urllib3])
def test_stream_ends_at_done(read_to_done: Callable[[str], list[Any]], gateway: Gateway, finished: Finished) -> None:
    gateway.answer([WORD, WORD, STOP, USAGE, DONE], headers=EVENTS)
    still_open = read_to_done(url_of(gateway))
    (span,) = finished()
    assert attributes_of(span)["gen_ai.usage.output_tokens"] == 4
    still_open[0].close()


def test_aiohttp_stream_ends_at_the_line_of_done(gateway: Gateway, finished: Finished) -> None:
    """As Hugging Face's client reads it: without the empty line that ends the event."""
    gateway.answer([WORD, STOP, USAGE, DONE], headers=EVENTS)

    async def read_to_done() -> int:
        async with aiohttp.ClientSession() as session:
            response = await session.post(url_of(gateway), json=CHAT)
            async for line in response.content:
                if line == b"data: [DONE]\n":
                    break
            ended = len(finished())
            response.close()
            return ended

    assert asyncio.run(read_to_done()) == 1
    assert attributes_of(finished()[0])["gen_ai.usage.output_tokens"] == 4


def test_text_of_a_model_is_not_taken_for_done(gateway: Gateway, finished: Finished) -> None:
    word = WORD.replace(b"word", b"\\ndata: [DONE]\\n\\n")
    gateway.answer([word, word + b"\n", STOP, USAGE, DONE], headers=EVENTS)
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=CHAT) as response:
        chunks = response.iter_raw(len(word))
        next(chunks)
        assert not finished()
    (span,) = finished()
    assert attributes_of(span)["byline.stream.cut"] == "app"


# Streams that are left half-way


def test_stream_that_the_app_leaves_is_marked_as_cut(gateway: Gateway, finished: Finished) -> None:
    """No error of the model, so neither status nor finish reason."""
    gateway.answer([WORD, WORD, STOP, USAGE, DONE], headers=EVENTS)
    gateway.hold(after=2)
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        stream = client.chat.completions.create(**CHAT)
        next(iter(stream))
        stream.close()
    gateway.release()
    (span,) = finished()
    attributes = attributes_of(span)
    assert attributes["byline.stream.cut"] == "app"
    assert span.status.status_code is StatusCode.UNSET
    assert "gen_ai.response.finish_reasons" not in attributes
    assert "error.type" not in attributes
    # No token came, so none is partial.
    assert "byline.usage.partial" not in attributes


def test_stream_that_is_left_after_the_finish_reason_is_not_cut(gateway: Gateway, finished: Finished) -> None:
    """The usual loop ends there; the model has ended before."""
    gateway.answer([WORD, STOP, USAGE, DONE], headers=EVENTS)
    gateway.hold(after=2)
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        stream: Any = client.chat.completions.create(**CHAT)
        assert any(chunk.choices[0].finish_reason for chunk in stream)
        stream.close()
    gateway.release()
    (span,) = finished()
    assert "byline.stream.cut" not in attributes_of(span)
    assert attributes_of(span)["gen_ai.response.finish_reasons"] == ("stop",)


def test_tokens_of_a_stream_that_is_left_are_marked_and_estimated(gateway: Gateway, finished: Finished) -> None:
    """As far as they came: Anthropic's first event states the input."""
    body = {"model": "claude-sonnet-4-5", "messages": [], "max_tokens": 9, "stream": True}
    with Gateway() as provider, httpx2.Client() as client:
        provider.answer(anthropic_events(input_tokens=1000, output_tokens=2000), headers=EVENTS)
        provider.hold(after=3)
        with client.stream("POST", f"{provider.url}/v1/messages", json=body) as response:
            chunks = response.iter_raw()
            next(chunks)
        provider.release()
    (span,) = finished()
    attributes = attributes_of(span)
    assert attributes["byline.stream.cut"] == "app"
    assert attributes["gen_ai.usage.input_tokens"] == 1000
    assert attributes["byline.usage.partial"] is True
    assert attributes["byline.cost.source"] == "estimate"
    assert attributes["gen_ai.usage.cost"] == pytest.approx(0.003015)


def test_stream_of_a_cancelled_task_is_marked_as_cut(gateway: Gateway, finished: Finished) -> None:
    """As when the app's own client has gone."""
    gateway.answer([WORD, WORD, DONE], headers=EVENTS)
    gateway.hold(after=1)

    async def read() -> None:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="k") as client:
            stream: Any = await client.chat.completions.create(**CHAT)
            reader = asyncio.ensure_future(stream.__anext__())
            await reader
            reader = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    asyncio.run(read())
    gateway.release()
    (span,) = finished()
    assert attributes_of(span)["byline.stream.cut"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


@pytest.fixture
def cutting() -> Iterator[str]:
    """A server that closes the connection in the middle of a chunked stream."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for event in self.events:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.close_connection = True

        @property
        def events(self) -> list[bytes]:
            if self.path.endswith("/messages"):
                return anthropic_events(input_tokens=1000, output_tokens=2000)[:3]
            return [WORD] * 3

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def cut_httpx(module: Any) -> Callable[[str], None]:
    def read(url: str) -> None:
        with (
            module.Client() as client,
            client.stream("POST", url, json=CHAT) as response,
            pytest.raises(module.RemoteProtocolError),
        ):
            list(response.iter_raw())

    return read


def cut_requests(url: str) -> None:
    with (
        requests.post(url, json=CHAT, stream=True) as response,
        pytest.raises(requests.exceptions.ChunkedEncodingError),
    ):
        list(response.iter_content(None))


def cut_urllib3(url: str) -> None:
    with urllib3.PoolManager() as pool:
        response = pool.request("POST", url, json=CHAT, preload_content=False)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            list(response.stream(64))


def cut_aiohttp(url: str) -> None:
    async def read() -> None:
        async with aiohttp.ClientSession() as session, session.post(url, json=CHAT) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                async for _ in response.content:
                    pass

    asyncio.run(read())


CUT_WAYS: dict[str, Callable[[str], None]] = {
    "httpx": cut_httpx(httpx),
    "httpx2": cut_httpx(httpx2),
    "requests": cut_requests,
    "urllib3": cut_urllib3,
    "aiohttp": cut_aiohttp,
}


@pytest.mark.parametrize("client", CUT_WAYS)
@pytest.mark.usefixtures("gateway")
def test_stream_that_the_network_cuts_is_an_error(client: str, cutting: str, finished: Finished) -> None:
    """The finish reason of a choice that is cut off is "error" in the GenAI conventions."""
    CUT_WAYS[client](f"{cutting}/chat/completions")
    (span,) = finished()
    attributes = attributes_of(span)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes["error.type"]
    assert attributes["byline.stream.cut"] == "network"
    assert attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert attributes["gen_ai.response.id"] == "c-1"


@pytest.mark.usefixtures("gateway")
def test_tokens_of_a_stream_that_the_network_cuts_are_marked_and_estimated(cutting: str, finished: Finished) -> None:
    with byline.bound(session_id="s-1"), httpx2.Client() as client:
        context = request_context.current_context()
        body = {"model": "claude-sonnet-4-5", "messages": [], "max_tokens": 9, "stream": True}
        with (
            client.stream("POST", f"{cutting}/messages", json=body) as response,
            pytest.raises(httpx2.RemoteProtocolError),
        ):
            list(response.iter_raw())
    (span,) = finished()
    attributes = attributes_of(span)
    assert attributes["byline.usage.partial"] is True
    assert attributes["byline.cost.source"] == "estimate"
    assert attributes["gen_ai.usage.cost"] == pytest.approx(0.003015)
    assert context is not None
    assert (context.totals.errors, context.totals.input_tokens) == (1, 1000)


def test_stream_with_an_error_event_failed_and_is_not_cut(gateway: Gateway, finished: Finished) -> None:
    """The SDK raises and closes the stream; the provider has said why."""
    gateway.answer([WORD, b'data: {"error":{"code":502,"message":"gone"}}\n\n'], headers=EVENTS)
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(**CHAT))
    (span,) = finished()
    attributes = attributes_of(span)
    assert span.status.status_code is StatusCode.ERROR
    assert attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert "byline.stream.cut" not in attributes


def test_whole_stream_is_not_cut(gateway: Gateway, finished: Finished) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        assert list(client.chat.completions.create(**CHAT))
    (span,) = finished()
    assert "byline.stream.cut" not in attributes_of(span)
    assert "byline.usage.partial" not in attributes_of(span)
