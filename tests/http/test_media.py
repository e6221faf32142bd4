"""Images, speech and transcriptions: forms with files, bodies that are no text, and replies that are plain text."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import httpx2
import openai
import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline.testing import Gateway
from tests.http.conftest import Finished, running

AUDIO = b"\xff\xfb\x00\r\n--" * 50_000
USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "output_tokens": 45,
    "total_tokens": 59,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
}
REPLY = json.dumps({"text": "Ada.", "usage": USAGE}).encode()
FIELDS = {"model": "gpt-4o-transcribe", "temperature": "0.25", "prompt": "Names:\r\nAda"}
PATH = "/audio/transcriptions"
ANSWER = '[{"role":"assistant","parts":[{"type":"text","content":"Ada."}]}]'


def with_openai(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="k", max_retries=0)
    fields: Any = {**FIELDS, "temperature": 0.25}
    assert client.audio.transcriptions.create(file=("a.mp3", AUDIO), **fields).text == "Ada."


def with_httpx(url: str) -> None:
    httpx.post(url + PATH, data=FIELDS, files={"file": ("a.mp3", io.BytesIO(AUDIO))}).raise_for_status()


def with_requests(url: str) -> None:
    requests.post(url + PATH, data=FIELDS, files={"file": ("a.mp3", AUDIO)}, timeout=60).raise_for_status()


async def with_aiohttp(url: str) -> None:
    form = aiohttp.FormData(FIELDS)
    form.add_field("file", AUDIO, filename="a.mp3")
    async with aiohttp.ClientSession() as session, session.post(url + PATH, data=form) as response:
        assert (await response.json())["text"] == "Ada."


CLIENTS: list[Callable[[str], Any]] = [with_openai, with_httpx, with_requests, with_aiohttp]


def attributes_of(finished: Finished) -> dict[str, Any]:
    (span,) = finished()
    return dict(span.attributes or {})


@pytest.mark.parametrize("send", CLIENTS)
@pytest.mark.parametrize("capture", [False, True])
def test_form_with_a_file(
    send: Callable[[str], Any], capture: bool, provider: TracerProvider, finished: Finished
) -> None:
    """The gateway gets the form as the app has made it, without ids in the body."""
    for gateway in running(provider, capture_content=capture):
        gateway.answer(REPLY, headers={"content-type": "application/json"})
        with byline.bound(session_id="s-1"):
            sent = send(gateway.base_url)
            if sent is not None:
                asyncio.run(sent)
        (request,) = gateway.requests
    found = attributes_of(finished)
    assert found["gen_ai.operation.name"] == "generate_content"
    assert found["gen_ai.request.model"] == "gpt-4o-transcribe"
    assert found["gen_ai.request.temperature"] == 0.25
    assert found["gen_ai.usage.input_tokens"] == 14
    assert found["gen_ai.usage.audio.input_tokens"] == 10
    assert found["session.id"] == "s-1"
    assert found.get("gen_ai.output.messages") == (ANSWER if capture else None)
    assert (json.loads(found["gen_ai.input.messages"])[0]["parts"][0]["content"] if capture else None) == (
        "Names:\r\nAda" if capture else None
    )
    assert AUDIO in request.body
    assert b"s-1" not in request.body


def test_form_that_the_app_produces_while_it_is_sent(capturing: Gateway, finished: Finished) -> None:
    """At a known gateway the call counts, without its model."""
    capturing.answer(REPLY, headers={"content-type": "application/json"})
    headers = {"content-type": "multipart/form-data; boundary=x"}
    httpx2.post(capturing.base_url + PATH, content=iter([b"--x", b"--\r\n"]), headers=headers)
    found = attributes_of(finished)
    assert found["gen_ai.usage.input_tokens"] == 14
    assert "gen_ai.request.model" not in found


@pytest.mark.parametrize("format_", ["text", "srt", "vtt"])
def test_transcript_in_plain_text(format_: str, capturing: Gateway, finished: Finished) -> None:
    """It is the answer, and counts as no broken reply."""
    capturing.answer(b"Ada.", headers={"content-type": "text/plain; charset=utf-8"})
    data = {**FIELDS, "response_format": format_}
    sent = httpx2.post(capturing.base_url + PATH, data=data, files={"file": ("a.mp3", AUDIO)})
    assert sent.text == "Ada."
    assert attributes_of(finished)["gen_ai.output.messages"] == ANSWER
    assert "replies.unreadable" not in byline.stats()


@pytest.mark.parametrize("read", ["whole", "streamed"])
def test_speech_is_not_read(read: str, capturing: Gateway, finished: Finished) -> None:
    """The body is audio: nothing of it is kept, and that is no broken reply."""
    capturing.answer(AUDIO, headers={"content-type": "audio/mpeg"})
    client = openai.OpenAI(base_url=capturing.base_url, api_key="k", max_retries=0)
    given: Any = {"model": "tts-1", "voice": "alloy", "input": "Hello Ada", "instructions": "Whisper."}
    if read == "whole":
        assert client.audio.speech.create(**given).content == AUDIO
    else:
        with client.audio.speech.with_streaming_response.create(**given) as response:
            assert b"".join(response.iter_bytes()) == AUDIO
    found = attributes_of(finished)
    assert found["gen_ai.output.type"] == "speech"
    assert found["byline.usage.input_characters"] == 9
    assert json.loads(found["gen_ai.input.messages"])[0]["parts"] == [{"type": "text", "content": "Hello Ada"}]
    assert json.loads(found["gen_ai.system_instructions"]) == [{"type": "text", "content": "Whisper."}]
    assert "gen_ai.output.messages" not in found
    assert {"replies.unreadable", "replies.encoded"}.isdisjoint(byline.stats())


def test_error_of_a_call_for_speech(capturing: Gateway, finished: Finished) -> None:
    capturing.answer(b'{"error": {"message": "no", "type": "invalid_request_error"}}', status=400)
    httpx2.post(capturing.base_url + "/audio/speech", json={"model": "tts-1", "input": "x"})
    assert attributes_of(finished)["error.type"] == "invalid_request_error"


@pytest.mark.parametrize("capture", [False, True])
def test_usage_behind_a_picture_that_is_longer_than_what_is_kept(
    capture: bool, provider: TracerProvider, finished: Finished
) -> None:
    """Of a stream the beginning and the end are kept, and the last event has the usage at its end."""
    picture = "A" * 500_000
    usage = {"input_tokens": 50, "output_tokens": 4160, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}
    events = [
        {"type": "image_generation.partial_image", "b64_json": picture},
        {"type": "image_generation.completed", "b64_json": picture, "usage": usage},
    ]
    body = b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)
    for gateway in running(provider, capture_content=capture):
        gateway.answer(body, headers={"content-type": "text/event-stream"})
        client = openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0)
        given: Any = {"model": "gpt-image-1", "prompt": "Ada", "stream": True, "partial_images": 1}
        assert len(list(client.images.generate(**given))) == 2
    found = attributes_of(finished)
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.image.input_tokens"]) == (50, 40)
    assert "byline.stream.cut" not in found
    assert picture not in "".join(map(str, found.values()))
