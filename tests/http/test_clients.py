"""urllib3, botocore and aiohttp against real servers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import struct
from collections.abc import Iterator
from typing import Any

import aiohttp
import boto3
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from opentelemetry.trace import StatusCode

import byline
from byline.apis.bedrock import iter_frames
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}
JSON = {"content-type": "application/json"}
MODEL = "anthropic.claude-sonnet-4-20250514-v1:0"


def test_urllib3_bodies_are_read_whole_and_streamed(gateway: Gateway, finished: Finished) -> None:
    """Both have the same result, also if the app reads small chunks."""
    pool = urllib3.PoolManager()
    url = f"{gateway.base_url}/chat/completions"
    with byline.bound(session_id="s-1"):
        whole = pool.request("POST", url, json=CHAT)
        streamed = pool.request(
            "POST", url, body=json.dumps({**CHAT, "stream": True}), headers=JSON, preload_content=False
        )
        chunks = b"".join(streamed.stream(50))
    assert b"This is the answer" in whole.data
    assert chunks.endswith(b"data: [DONE]\n\n")
    first, second = (dict(span.attributes or {}) for span in finished())
    for attributes in (first, second):
        assert attributes["session.id"] == "s-1"
        assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
        assert attributes["gen_ai.usage.cost"]
    assert second["gen_ai.request.stream"] is True
    assert [request.headers["x-session-id"] for request in gateway.requests] == ["s-1", "s-1"]
    pool.clear()


def test_urllib3_removes_ids_from_a_redirect_to_another_origin(gateway: Gateway) -> None:
    """Headers and body are those of the app again."""
    pool = urllib3.PoolManager()
    with Gateway() as stranger:
        gateway.answer(b"", status=307, headers={"location": f"{stranger.base_url}/chat/completions"})
        with byline.bound(session_id="s-1", user_id="ada"):
            pool.request("POST", f"{gateway.base_url}/chat/completions", json=CHAT)
        (request,) = stranger.requests
    assert gateway.requests[0].headers["x-session-id"] == "s-1"
    assert "s-1" not in request.headers.values()
    assert json.loads(request.body) == CHAT
    pool.clear()


def test_urllib3_removes_ids_from_a_redirect_to_an_ambiguous_host(gateway: Gateway) -> None:
    r"""For ``http://a\@b`` urllib3 connects to a, the standard library's parser reads b."""
    with Gateway() as stranger, urllib3.PoolManager() as pool:
        location = f"{stranger.url}\\@{gateway.url.removeprefix('http://')}/chat/completions"
        gateway.answer(b"", status=307, headers={"location": location})
        with byline.bound(session_id="s-1", user_id="ada"):
            pool.request("POST", f"{gateway.base_url}/chat/completions", json=CHAT)
        (request,) = stranger.requests
    assert gateway.requests[0].headers["x-session-id"] == "s-1"
    assert "s-1" not in request.headers.values()
    assert json.loads(request.body) == CHAT


@pytest.mark.parametrize("as_json", [True, False])
def test_aiohttp_adds_ids_for_the_gateway_and_not_for_a_redirect(as_json: bool, gateway: Gateway) -> None:
    """Each redirect has its own headers and body."""
    body: dict[str, Any] = {"json": CHAT} if as_json else {"data": json.dumps(CHAT), "headers": JSON}

    async def ask() -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.base_url}/chat/completions", **body) as answer,
        ):
            await answer.read()
            return answer.status

    with Gateway() as stranger:
        gateway.answer(b"", status=307, headers={"location": f"{stranger.base_url}/chat/completions"})
        with byline.bound(session_id="s-1", user_id="ada"):
            assert asyncio.run(ask()) == 200
        (request,) = stranger.requests
    first = gateway.requests[0]
    assert first.headers["x-session-id"] == "s-1"
    assert json.loads(first.body)["user"] == "ada"
    assert first.headers["content-length"] == str(len(first.body))
    assert "s-1" not in request.headers.values()
    assert request.headers["content-type"] == first.headers["content-type"] == "application/json"
    assert json.loads(request.body) == CHAT


@pytest.fixture
def bedrock(gateway: Gateway) -> Iterator[Any]:
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=gateway.url,
        region_name="eu-central-1",
        aws_access_key_id="a",
        aws_secret_access_key="s",
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


ASK: Any = {
    "modelId": MODEL,
    "messages": [{"role": "user", "content": [{"text": "Who?"}]}],
    "inferenceConfig": {"maxTokens": 9, "temperature": 0.5},
}


def make_frame(kind: str, payload: dict[str, Any], message_type: str = "event") -> bytes:
    """Return a frame of Amazon's event stream."""
    named = {":message-type": message_type, f":{message_type}-type": kind, ":content-type": "application/json"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    return prelude + headers + body + struct.pack(">I", binascii.crc32(prelude + headers + body))


USAGE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 115, "cacheReadInputTokens": 100}


def check_bedrock(attributes: dict[str, Any]) -> None:
    assert attributes["session.id"] == "s-1"
    assert attributes["gen_ai.provider.name"] == "aws.bedrock"
    assert attributes["gen_ai.request.model"] == MODEL
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["gen_ai.usage.input_tokens"] == 110
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 100
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["gen_ai.response.finish_reasons"] == ("end_turn",)


def test_bedrock_converse(bedrock: Any, gateway: Gateway, finished: Finished) -> None:
    """The signed request carries no ids."""
    output = {"message": {"role": "assistant", "content": [{"text": "Ada"}]}}
    gateway.answer({"output": output, "stopReason": "end_turn", "usage": USAGE, "metrics": {"latencyMs": 1}})
    with byline.bound(session_id="s-1"):
        answer = bedrock.converse(**ASK)
    assert answer["output"]["message"]["content"][0]["text"] == "Ada"
    (span,) = finished()
    assert span.name == f"chat {MODEL}"
    check_bedrock(dict(span.attributes or {}))
    assert "s-1" not in gateway.requests[0].headers.values()


def test_bedrock_converse_stream(bedrock: Any, gateway: Gateway, finished: Finished) -> None:
    """The stream consists of binary frames."""
    frames = [
        make_frame("messageStart", {"role": "assistant"}),
        *(make_frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": f"{n} "}}) for n in range(500)),
        make_frame("messageStop", {"stopReason": "end_turn"}),
        make_frame("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}}),
    ]
    gateway.answer(frames, headers={"content-type": "application/vnd.amazon.eventstream"})
    with byline.bound(session_id="s-1"):
        events = list(bedrock.converse_stream(**ASK)["stream"])
    assert len(events) == len(frames)
    (span,) = finished()
    check_bedrock(dict(span.attributes or {}))
    assert (span.attributes or {})["gen_ai.request.stream"] is True


def test_bedrock_invoke_stream_of_an_anthropic_model(bedrock: Any, gateway: Gateway, finished: Finished) -> None:
    """Frames of Invoke wrap the events of the model's own API."""
    sent: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m-1", "model": "claude", "usage": {"input_tokens": 7}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    ]
    gateway.answer(
        [make_frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}) for event in sent],
        headers={"content-type": "application/vnd.amazon.eventstream"},
    )
    body = json.dumps({"max_tokens": 9, "messages": ASK["messages"]})
    events = list(bedrock.invoke_model_with_response_stream(modelId=MODEL, body=body)["body"])
    assert len(events) == 2
    (span,) = finished()
    attributes = dict(span.attributes or {})
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (7, 3)
    assert attributes["gen_ai.response.id"] == "m-1"
    assert attributes["gen_ai.response.finish_reasons"] == ("end_turn",)


def test_bedrock_error_ends_the_span(bedrock: Any, gateway: Gateway, finished: Finished) -> None:
    """The error's type is kept; its message may quote the prompt."""
    gateway.answer({"message": "Too many tokens"}, status=429)
    with pytest.raises(ClientError, match="Too many tokens"):
        bedrock.converse(**ASK)
    (span,) = finished()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "429"
    assert "byline.error.message" not in (span.attributes or {})


def test_frames_are_found_in_a_cut_stream_and_not_in_other_bytes() -> None:
    """Frames are found by length and checksum; a search in long other data returns soon."""
    whole = b"".join(make_frame("x", {"n": number}) for number in range(100))
    assert [event["n"] for event in iter_frames(whole)] == list(range(100))
    assert [event["n"] for event in iter_frames(whole[77:-9])] == list(range(1, 99))
    assert list(iter_frames(b'{"' * 500_000)) == []
    assert list(iter_frames(b"\0" * 200_000)) == []


def test_bedrock_exception_in_a_stream_is_the_error_of_the_call(
    bedrock: Any, gateway: Gateway, finished: Finished
) -> None:
    """The exception is a frame of the stream."""
    gateway.answer(
        [
            make_frame("messageStart", {"role": "assistant"}),
            make_frame("throttlingException", {"message": "Slow down"}, message_type="exception"),
        ],
        headers={"content-type": "application/vnd.amazon.eventstream"},
    )
    stream = bedrock.converse_stream(**ASK)["stream"]
    with pytest.raises(EventStreamError):
        list(stream)
    stream.close()
    (span,) = finished()
    assert (span.attributes or {})["error.type"] == "throttlingException"
    assert span.status.status_code is StatusCode.ERROR
