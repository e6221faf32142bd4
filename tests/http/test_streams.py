"""The kept part of a stream is small, and contains ids and usage."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
import zlib
from typing import Any

import httpx
import httpx2
import pytest
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline import http
from byline.apis import PARSERS
from byline.call_result import CallResult
from byline.http.response_reader import _TAIL_LARGE_CHUNKS, HEAD_BYTES, TAIL_BYTES, ResponseBuffer
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}
STREAM: Any = {**CHAT, "stream": True}
EVENTS = {"content-type": "text/event-stream"}
WORD = b'data: {"id":"c-1","model":"m","choices":[{"delta":{"content":"%s"}}]}\n\n'
USAGE = b'data: {"id":"c-1","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


def url_of(gateway: Gateway) -> str:
    return f"{gateway.base_url}/chat/completions"


SIZES = (1, 7, 100, 1000, 65536, 10_000_000)
LENGTHS = (100, 20_000, 1_000_000, 5_000_000)


# More than half a million chunks take long and test nothing new.
@pytest.mark.parametrize(("size", "length"), [(s, n) for s in SIZES for n in LENGTHS if n // s <= 500_000])
def test_usage_is_found_for_all_chunk_sizes(size: int, length: int) -> None:
    """At most the head and the tail are kept, or a fixed number of chunks."""
    whole = WORD % b"first" + WORD % (b"x" * 90) * (length // 150) + USAGE
    buffer = ResponseBuffer(streamed=True)
    chunks = iter([whole[at : at + size] for at in range(0, len(whole), size)])
    for chunk in chunks:
        if buffer.append(chunk):
            break
    for chunk in chunks:
        buffer.tail.append(chunk)
    head, tail = buffer.head_and_tail()
    assert len(head) <= HEAD_BYTES
    if head:
        assert len(tail) <= TAIL_BYTES
    else:
        assert tail == whole
    result = CallResult()
    PARSERS["/chat/completions"].parse_stream(head, tail, result)
    assert (result.response_id, result.input_tokens, result.output_tokens) == ("c-1", 3, 4)
    assert sum(map(len, buffer.tail)) <= max(_TAIL_LARGE_CHUNKS * size, 9 * TAIL_BYTES)


def test_usage_is_found_in_a_last_event_longer_than_the_tail() -> None:
    """The last event of the Responses API repeats the whole output."""
    answer = {"id": "r-1", "model": "m", "output": ["y" * 300_000]}
    usage = {"input_tokens": 7, "output_tokens": 9}
    created = b'data: {"type":"response.created","response":{"id":"r-1","model":"m"}}\n\n'
    last = json.dumps({"type": "response.completed", "response": {**answer, "usage": usage, "user": None}}).encode()
    buffer = ResponseBuffer(streamed=True, end_mark=PARSERS["/responses"].end_mark)
    whole = created + b"data: " + last + b"\n\n"
    terminal = []
    for at in range(0, len(whole), 4096):
        buffer.append(whole[at : at + 4096])
        terminal.append(buffer.saw_terminal_event)
    # Only when the event is complete.
    assert terminal == [False] * (len(terminal) - 1) + [True]
    result = CallResult()
    PARSERS["/responses"].parse_stream(*buffer.head_and_tail(), result)
    assert (result.response_id, result.input_tokens, result.output_tokens) == ("r-1", 7, 9)


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/api/chat", b'{"model":"m","message":{"content":"a data: b"}}\n{"done":true,"eval_count":4}\n'),
        (
            ":streamGenerateContent",
            (
                b'[{"responseId":"g","modelVersion":"m","candidates":[{"text":"see\\ndata: x"}]},'
                b'{"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":4}}]'
            ),
        ),
        ("/chat/completions", b"\xef\xbb\xbf" + USAGE),
        ("/chat/completions", json.dumps({"usage": {"completion_tokens": 4}, "model": "m"}, indent=2).encode()),
    ],
)
def test_format_of_a_stream_is_detected_from_its_lines(path: str, stream: bytes) -> None:
    """Text of the model that looks like another format does not matter."""
    result = CallResult()
    PARSERS[path].parse_stream(b"", stream, result)
    assert result.output_tokens == 4
    assert result.response_model == "m"


@pytest.mark.parametrize("encoding", ["zlib", "raw"])
def test_both_kinds_of_deflate_are_read(encoding: str, gateway: Gateway, finished: Finished) -> None:
    """Some servers omit the zlib header."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS if encoding == "zlib" else -zlib.MAX_WBITS)
    gateway.answer([packer.compress(USAGE) + packer.flush()], headers={**EVENTS, "content-encoding": "deflate"})
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=STREAM) as answer:
        assert answer.read() == USAGE
    assert (finished()[0].attributes or {})["gen_ai.usage.output_tokens"] == 4


def test_body_with_an_unknown_encoding_is_counted(gateway: Gateway, finished: Finished) -> None:
    """The app gets the body, byline cannot read it."""
    gateway.answer([b"\x00\x01packed"], headers={**EVENTS, "content-encoding": "compress"})
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=STREAM) as answer:
        assert list(answer.iter_raw())
    assert byline.stats()["replies.encoded"] == 1
    assert len(finished()) == 1


def test_call_inside_a_call_to_another_host_has_its_own_span(gateway: Gateway, finished: Finished) -> None:
    """As in an app that runs inside the process of its client."""

    def relay(request: httpx.Request) -> httpx.Response:
        with httpx.Client() as inner:
            answer = inner.post(url_of(gateway), json=CHAT)
        return httpx.Response(200, json=answer.json())

    with httpx.Client(transport=httpx.MockTransport(relay)) as client:
        client.post("http://own.app/v1/chat/completions", json=CHAT)
    inner, outer = finished()
    assert (inner.attributes or {})["server.address"] == "127.0.0.1"
    assert (outer.attributes or {})["server.address"] == "own.app"
    assert inner.parent == outer.get_span_context()


def test_later_patches_of_others_stay_after_uninstall(provider: TracerProvider) -> None:
    """OpenTelemetry can still remove its own patches."""
    before = requests.Session.send
    instrumentor = RequestsInstrumentor()
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    instrumentor.instrument(tracer_provider=provider)
    patched = requests.Session.send
    http.uninstall()
    assert requests.Session.send is patched
    instrumentor.uninstrument()
    assert requests.Session.send is not patched
    with Gateway() as gateway, requests.Session() as session:
        assert session.post(url_of(gateway), json=CHAT).status_code == 200
    requests.Session.send = before  # type: ignore[method-assign]


@pytest.mark.integration
def test_price_estimate_leaves_the_warning_filters_alone() -> None:
    """Runs in a process of its own, because pytest sets warning filters."""
    code = """
import warnings
from byline.genai.pricing import estimate_cost
from byline.call_result import CallResult
before = list(warnings.filters)
for _ in range(3):
    warnings.warn_explicit("once", UserWarning, "app.py", 1, registry=globals().setdefault("seen", {}))
    result = CallResult(provider="openai", response_model="gpt-4o", input_tokens=10, output_tokens=1)
    estimate_cost(result)
    assert result.cost
assert warnings.filters == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning") == 1
    assert warnings.filters
