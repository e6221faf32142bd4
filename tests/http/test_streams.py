"""What is kept of a stream is little, and enough."""

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
from byline.http.response_reader import _HEAD_BYTES, _TAIL_BYTES, _TAIL_LARGE_CHUNKS, ResponseBuffer
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


# More chunks than half a million say no more.
@pytest.mark.parametrize(("size", "length"), [(s, n) for s in SIZES for n in LENGTHS if n // s <= 500_000])
def test_the_usage_is_found_whatever_the_size_of_chunks(size: int, length: int) -> None:
    """And no more is kept than a head and a tail, or as many chunks as the network makes."""
    whole = WORD % b"first" + WORD % (b"x" * 90) * (length // 150) + USAGE
    seen = ResponseBuffer(streamed=True)
    chunks = iter([whole[at : at + size] for at in range(0, len(whole), size)])
    for chunk in chunks:
        if seen.append(chunk):
            break
    for chunk in chunks:
        seen.tail.append(chunk)
    head, tail = seen.head_and_tail()
    assert len(head) <= _HEAD_BYTES
    if head:
        assert len(tail) <= _TAIL_BYTES
    else:
        assert tail == whole
    facts = CallResult()
    PARSERS["/chat/completions"].parse_stream(head, tail, facts)
    assert (facts.response_id, facts.input_tokens, facts.output_tokens) == ("c-1", 3, 4)
    assert sum(map(len, seen.tail)) <= max(_TAIL_LARGE_CHUNKS * size, 9 * _TAIL_BYTES)


def test_usage_is_found_in_a_last_event_that_is_too_long() -> None:
    """As that of the Responses API, which repeats the whole answer."""
    answer = {"id": "r-1", "model": "m", "output": ["y" * 300_000]}
    usage = {"input_tokens": 7, "output_tokens": 9}
    created = b'data: {"type":"response.created","response":{"id":"r-1","model":"m"}}\n\n'
    last = json.dumps({"type": "response.completed", "response": {**answer, "usage": usage, "user": None}}).encode()
    seen = ResponseBuffer(streamed=True, end_mark=PARSERS["/responses"].end_mark)
    whole = created + b"data: " + last + b"\n\n"
    marked = []
    for at in range(0, len(whole), 4096):
        seen.append(whole[at : at + 4096])
        marked.append(seen.saw_terminal_event)
    # Not before the event is there as a whole.
    assert marked == [False] * (len(marked) - 1) + [True]
    facts = CallResult()
    PARSERS["/responses"].parse_stream(*seen.head_and_tail(), facts)
    assert (facts.response_id, facts.input_tokens, facts.output_tokens) == ("r-1", 7, 9)


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
def test_each_kind_of_stream_is_told_by_its_lines(path: str, stream: bytes) -> None:
    """Not by what a model says in it."""
    facts = CallResult()
    PARSERS[path].parse_stream(b"", stream, facts)
    assert facts.output_tokens == 4
    assert facts.response_model == "m"


@pytest.mark.parametrize("encoding", ["zlib", "raw"])
def test_both_kinds_of_deflate_are_read(encoding: str, gateway: Gateway, finished: Finished) -> None:
    """Some servers leave the header out."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS if encoding == "zlib" else -zlib.MAX_WBITS)
    gateway.answer([packer.compress(USAGE) + packer.flush()], headers={**EVENTS, "content-encoding": "deflate"})
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=STREAM) as answer:
        assert answer.read() == USAGE
    assert (finished()[0].attributes or {})["gen_ai.usage.output_tokens"] == 4


def test_what_is_packed_otherwise_is_counted(gateway: Gateway, finished: Finished) -> None:
    """The app reads it, byline does not."""
    gateway.answer([b"\x00\x01packed"], headers={**EVENTS, "content-encoding": "compress"})
    with httpx2.Client() as client, client.stream("POST", url_of(gateway), json=STREAM) as answer:
        assert list(answer.iter_raw())
    assert byline.stats()["replies.encoded"] == 1
    assert len(finished()) == 1


def test_a_call_within_a_call_to_another_place_is_seen(gateway: Gateway, finished: Finished) -> None:
    """As where an app is mounted in the process of its caller."""

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


def test_what_others_have_put_on_since_stays_when_byline_goes(provider: TracerProvider) -> None:
    """And OpenTelemetry can still take off its own."""
    before = requests.Session.send
    theirs = RequestsInstrumentor()
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    theirs.instrument(tracer_provider=provider)
    put_on = requests.Session.send
    http.uninstall()
    assert requests.Session.send is put_on
    theirs.uninstrument()
    assert requests.Session.send is not put_on
    with Gateway() as gateway, requests.Session() as session:
        assert session.post(url_of(gateway), json=CHAT).status_code == 200
    requests.Session.send = before  # type: ignore[method-assign]


@pytest.mark.integration
def test_a_price_leaves_the_apps_warnings_alone() -> None:
    """In a process of its own, for pytest has filters of its own."""
    code = """
import warnings
from byline.http.pricing import estimate_cost
from byline.call_result import CallResult
before = list(warnings.filters)
for _ in range(3):
    warnings.warn_explicit("once", UserWarning, "app.py", 1, registry=globals().setdefault("seen", {}))
    facts = CallResult(provider="openai", response_model="gpt-4o", input_tokens=10, output_tokens=1)
    estimate_cost(facts)
    assert facts.cost
assert warnings.filters == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning") == 1
    assert warnings.filters
