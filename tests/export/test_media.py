"""Binary parts of conversations that a Langfuse destination uploads through Langfuse's media API."""

from __future__ import annotations

import base64
import copy
import gc
import gzip
import json
import logging
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import byline
from byline import internal_metrics
from byline.destinations import OTLP, Destination, Langfuse
from byline.export.delivery.media_upload import MediaUploader
from byline.export.delivery.transport import DEFAULT_TRANSPORT
from byline.media import MAX_BYTES, Media, MediaBudget, MessagesWithMedia
from byline.settings import SettingError
from byline.testing import Gateway, ReceivedSpan, Receiver
from byline.testing.server import Handler, Request
from tests.export.replay import MARKER, RECORDED, replay
from tests.export.support import App, running
from tests.http.conftest import Finished

pytestmark = pytest.mark.usefixtures("no_settings")

KEYS = ("pk-lf-1", "sk-lf-1")
AUTHORIZATION = {"authorization": "Basic cGstbGYtMTpzay1sZi0x"}
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2
ENCODED = base64.b64encode(IMAGE).decode()
URL = f"data:image/png;base64,{ENCODED}"
#: What Langfuse's own SDK writes for these bytes.
REFERENCE = "@@@langfuseMedia:type=image/png|id={id}|source=base64_data_uri@@@"
INPUT, OUTPUT = "langfuse.observation.input", "langfuse.observation.output"
OMITTED = f"[image/png, {len(IMAGE)} bytes omitted]"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as started:
        yield started


@pytest.fixture(autouse=True)
def _switch_off() -> Iterator[None]:
    yield
    byline.uninstrument()


def media_requests(receiver: Receiver) -> list[str]:
    return [request.method for request in receiver.requests if not request.path.endswith("/v1/traces")]


def reference_to(receiver: Receiver) -> str:
    (name,) = receiver.media
    return REFERENCE.format(id=name)


def export(app: App, **attributes: Any) -> None:
    app.chat(**attributes)
    assert all(destination.flush() for destination in app.destinations)


def asked(content: Any, role: str = "user") -> str:
    return json.dumps([{"role": role, "content": content}])


PART = {"type": "text", "text": "Where is this?"}
SHOWN = [PART, {"type": "image_url", "image_url": {"url": REFERENCE}}]
#: The spelling of an instrumentation → its attributes.
SPELLINGS: dict[str, dict[str, Any]] = {
    "OpenAI's request": {"input.value": asked([PART, {"type": "image_url", "image_url": {"url": URL}}])},
    "OpenLLMetry": {
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": json.dumps([PART, {"type": "image_url", "image_url": {"url": URL}}]),
    },
    "OpenInference": {
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.contents.0.message_content.type": "text",
        "llm.input_messages.0.message.contents.0.message_content.text": "Where is this?",
        "llm.input_messages.0.message.contents.1.message_content.type": "image",
        "llm.input_messages.0.message.contents.1.message_content.image.image.url": URL,
    },
    "GenAI conventions": {
        "gen_ai.input.messages": json.dumps(
            [
                {
                    "role": "user",
                    "parts": [
                        {"type": "text", "content": "Where is this?"},
                        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": ENCODED},
                    ],
                }
            ]
        )
    },
    "Anthropic's request in Logfire": {
        "request_data": json.dumps(
            {
                "model": "claude-sonnet-4-5",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            PART,
                            {
                                "type": "image",
                                "source": {"type": "base64", "media_type": "image/png", "data": ENCODED},
                            },
                        ],
                    }
                ],
            }
        )
    },
    "Gemini's request": {
        "input.value": json.dumps(
            {
                "contents": [
                    {
                        "role": "user",
                        "parts": [
                            {"text": "Where is this?"},
                            {"inlineData": {"mimeType": "image/png", "data": ENCODED}},
                        ],
                    }
                ]
            }
        )
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_bytes_in_the_spelling_of_an_instrumentation(spelling: str, receiver: Receiver) -> None:
    """The bytes are in Langfuse's store, and a reference stands in the message in their place."""
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **SPELLINGS[spelling])
    (span,) = receiver.spans
    (media,) = receiver.media.values()
    assert (media.content_type, media.data) == ("image/png", IMAGE)
    assert media.places == [(span.trace_id, span.span_id, "input")]
    (message,) = json.loads(span.attributes[INPUT])
    assert json.dumps(message["content"]) == json.dumps(SHOWN).replace(REFERENCE, reference_to(receiver))


def chat_request(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": [PART, *parts]}]}


#: Path and body of a request, and the part of a message that shows its bytes.
REQUESTS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "OpenAI image": (
        "/v1/chat/completions",
        chat_request({"type": "image_url", "image_url": {"url": URL}}),
        "image/png",
        {"type": "image_url", "image_url": {"url": "…"}},
    ),
    "OpenAI audio": (
        "/v1/chat/completions",
        chat_request({"type": "input_audio", "input_audio": {"data": ENCODED, "format": "wav"}}),
        "audio/wav",
        {"type": "input_audio", "input_audio": {"data": "…"}},
    ),
    "OpenAI file": (
        "/v1/chat/completions",
        chat_request({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{ENCODED}"}}),
        "application/pdf",
        {"type": "text", "text": "…"},
    ),
    "Anthropic": (
        "/v1/messages",
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 9,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        PART,
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ENCODED}},
                    ],
                }
            ],
        },
        "image/png",
        {"type": "image_url", "image_url": {"url": "…"}},
    ),
    "Gemini": (
        "/v1beta/models/gemini-x:generateContent",
        {
            "contents": [
                {
                    "role": "user",
                    "parts": [{"text": "Where is this?"}, {"inlineData": {"mimeType": "image/png", "data": ENCODED}}],
                }
            ]
        },
        "image/png",
        {"type": "image_url", "image_url": {"url": "…"}},
    ),
}


@pytest.mark.parametrize("api", REQUESTS)
def test_bytes_of_a_captured_request(api: str, receiver: Receiver, finished: Finished) -> None:
    """They reach Langfuse's store, and neither the app's exporters nor another destination."""
    path, body, content_type, shown = REQUESTS[api]
    with Gateway() as gateway, Receiver() as other:
        byline.instrument(
            destinations=[Langfuse(*KEYS, receiver.url, media=True), OTLP(other.url)],
            capture_content=True,
        )
        with byline.bound(session_id="s-1"), httpx2.Client() as client:
            client.post(gateway.url + path, json=body)
        assert byline.flush()
        (span,) = receiver.spans
        (name,) = receiver.media
        reference = f"@@@langfuseMedia:type={content_type}|id={name}|source=base64_data_uri@@@"
        assert receiver.media[name].data == IMAGE
        assert receiver.media[name].places == [(span.trace_id, span.span_id, "input")]
        (message,) = json.loads(span.attributes[INPUT])
        assert message["content"][1] == json.loads(json.dumps(shown, ensure_ascii=False).replace("…", reference))
        exported = [*other.spans, *receiver.spans]
        assert ENCODED not in str(exported)
        assert ENCODED not in str([dict(each.attributes or {}) for each in finished()])
        assert len(exported) == 2


#: Path and body of a request with an image in the result of a tool, and the rest of the result as Langfuse shows it.
SOURCE = {"type": "base64", "media_type": "image/png", "data": ENCODED}
INLINE = {"inlineData": {"mimeType": "image/png", "data": ENCODED}}
TOOL_RESULTS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "Anthropic": (
        "/v1/messages",
        {
            "model": "claude-sonnet-4-5",
            "max_tokens": 9,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t-1",
                            "content": [{"type": "text", "text": "A screenshot"}, {"type": "image", "source": SOURCE}],
                        }
                    ],
                }
            ],
        },
        ["A screenshot", "…"],
    ),
    "OpenAI chat": (
        "/v1/chat/completions",
        {
            "model": "m",
            "messages": [
                {
                    "role": "tool",
                    "tool_call_id": "t-1",
                    "content": [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "Seen."}],
                }
            ],
        },
        ["…", "Seen."],
    ),
    "OpenAI responses": (
        "/v1/responses",
        {
            "model": "m",
            "input": [
                {
                    "type": "function_call_output",
                    "call_id": "t-1",
                    "output": [{"type": "input_text", "text": "Seen."}, {"type": "input_image", "image_url": URL}],
                }
            ],
        },
        ["Seen.", "…"],
    ),
    "computer use": (
        "/v1/responses",
        {
            "model": "m",
            "input": [
                {
                    "type": "computer_call_output",
                    "call_id": "t-1",
                    "output": {"type": "computer_screenshot", "image_url": URL},
                }
            ],
        },
        ["…"],
    ),
    "Gemini": (
        "/v1beta/models/gemini-x:generateContent",
        {
            "contents": [
                {
                    "role": "user",
                    "parts": [{"functionResponse": {"id": "t-1", "response": {"a": 1}, "parts": [INLINE]}}],
                }
            ]
        },
        ['{"a":1}', "…"],
    ),
}


@pytest.mark.parametrize("uploads", [True, False])
@pytest.mark.parametrize("api", TOOL_RESULTS)
def test_an_image_in_the_result_of_a_tool(api: str, uploads: bool, receiver: Receiver, finished: Finished) -> None:
    """It is shown within the result. Without uploads its type and size are."""
    path, body, texts = TOOL_RESULTS[api]
    with Gateway() as gateway:
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=uploads)], capture_content=True)
        with httpx2.Client() as client:
            client.post(gateway.url + path, json=body)
        assert byline.flush()
    (span,) = receiver.spans
    assert ENCODED not in str([span, *(dict(each.attributes or {}) for each in finished())])
    (message,) = json.loads(span.attributes[INPUT])
    assert (message["role"], message["tool_call_id"]) == ("tool", "t-1")
    if not uploads:
        assert message["content"] == "\n".join(texts).replace("…", f"[image/png, {len(IMAGE)} bytes omitted]")
        assert receiver.media == {}
        return
    ((name, media),) = receiver.media.items()
    assert media == ("image/png", IMAGE, [(span.trace_id, span.span_id, "input")])
    url = f"@@@langfuseMedia:type=image/png|id={name}|source=base64_data_uri@@@"
    shown = {"type": "image_url", "image_url": {"url": url}}
    assert message["content"] == [shown if text == "…" else {"type": "text", "text": text} for text in texts]


def test_a_result_of_a_tool_that_looks_like_a_part_is_a_result(receiver: Receiver) -> None:
    """Bytes are taken of the API's own parts alone, and a number that an app has written names none."""
    result = [{"type": "blob", "media": 0, "mime_type": "image/png"}, {"type": "image", "source": SOURCE}]
    content = [{"type": "tool_result", "tool_use_id": "t-1", "content": result}]
    body = {"model": "c", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    with Gateway() as gateway:
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=True)], capture_content=True)
        with httpx2.Client() as client:
            client.post(gateway.url + "/v1/messages", json=body)
        assert byline.flush()
    assert [media.data for media in receiver.media.values()] == [IMAGE]


def test_a_long_result_of_a_tool_keeps_its_image(receiver: Receiver) -> None:
    """The text is cut, and an image that is left out counts."""
    text = {"type": "text", "text": "x" * 40_000}
    content = [
        {"type": "tool_result", "tool_use_id": "t-1", "content": [text, *[{"type": "image", "source": SOURCE}] * 30]}
    ]
    body = {"model": "c", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    with Gateway() as gateway:
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=True)], capture_content=True)
        with httpx2.Client() as client:
            client.post(gateway.url + "/v1/messages", json=body)
        assert byline.flush()
    (span,) = receiver.spans
    assert len(receiver.media) == 1
    (message,) = json.loads(span.attributes[INPUT])
    assert len(message["content"]) == 21
    assert len(message["content"][0]["text"]) < 33_000


#: Path and reply of an API that makes images, and the parts of the output as Langfuse shows them.
MADE: dict[str, tuple[str, dict[str, Any], dict[str, Any], Any]] = {
    "images": (
        "/v1/images/generations",
        {"model": "gpt-image-1", "prompt": "A cat"},
        {"created": 1, "output_format": "png", "data": [{"b64_json": ENCODED, "revised_prompt": "A black cat"}]},
        ["…", "A black cat"],
    ),
    "images without a format": (
        "/v1/images/generations",
        {"model": "dall-e-3", "prompt": "A cat", "response_format": "b64_json"},
        {"created": 1, "data": [{"b64_json": ENCODED}]},
        ["…"],
    ),
    "edited images": (
        "/v1/images/edits",
        {"model": "gpt-image-1", "prompt": "A cat", "images": [{"file_id": "f-1"}]},
        {"created": 1, "output_format": "png", "data": [{"b64_json": ENCODED}]},
        ["…"],
    ),
    "responses": (
        "/v1/responses",
        {"model": "gpt-5", "input": "Draw", "tools": [{"type": "image_generation"}]},
        {
            "id": "r-1",
            "status": "completed",
            "output": [
                {"type": "image_generation_call", "id": "i-1", "result": ENCODED, "output_format": "png"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
            ],
        },
        ["…", "Done."],
    ),
    "chat": (
        "/v1/chat/completions",
        {"model": "google/gemini-image", "messages": [], "modalities": ["image", "text"]},
        {
            "id": "r-1",
            "choices": [
                {
                    "message": {
                        "role": "assistant",
                        "content": "Here.",
                        "images": [{"type": "image_url", "image_url": {"url": URL}}],
                    }
                }
            ],
        },
        ["Here.", "…"],
    ),
}


@pytest.mark.parametrize("uploads", [True, False])
@pytest.mark.parametrize("api", MADE)
def test_an_image_that_a_model_has_made(api: str, uploads: bool, receiver: Receiver, finished: Finished) -> None:
    path, body, reply, texts = MADE[api]
    with Gateway() as gateway:
        gateway.answer(reply)
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=uploads)], capture_content=True)
        with httpx2.Client() as client:
            client.post(gateway.url + path, json=body)
        assert byline.flush()
    (span,) = receiver.spans
    assert ENCODED not in str([span, *(dict(each.attributes or {}) for each in finished())])
    content = json.loads(span.attributes[OUTPUT])["content"]
    if not uploads:
        kind = "image" if api == "images without a format" else "image/png"
        assert content == "\n".join(texts).replace("…", f"[{kind}, {len(IMAGE)} bytes omitted]")
        assert receiver.media == {}
        return
    ((name, media),) = receiver.media.items()
    assert media == ("image/png", IMAGE, [(span.trace_id, span.span_id, "output")])
    url = f"@@@langfuseMedia:type=image/png|id={name}|source=base64_data_uri@@@"
    shown = {"type": "image_url", "image_url": {"url": url}}
    assert content == [shown if text == "…" else {"type": "text", "text": text} for text in texts]


def test_a_picture_of_usual_size(receiver: Receiver) -> None:
    picture = IMAGE + bytes(3_000_000)
    with Gateway() as gateway:
        gateway.answer({"created": 1, "data": [{"b64_json": base64.b64encode(picture).decode()}]})
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=True)], capture_content=True)
        with httpx2.Client() as client:
            client.post(gateway.url + "/v1/images/generations", json={"model": "gpt-image-1", "prompt": "A cat"})
        assert byline.flush()
    ((_, media),) = receiver.media.items()
    assert media.data == picture


@pytest.mark.parametrize("api", ["images", "chat"])
def test_an_image_at_the_end_of_a_stream(api: str, receiver: Receiver) -> None:
    """Of a stream of images the complete ones, none of those before."""
    if api == "images":
        path, body = "/v1/images/generations", {"model": "gpt-image-1", "prompt": "A cat", "stream": True}
        events: list[dict[str, Any]] = [
            {"type": "image_generation.partial_image", "b64_json": ENCODED[:40], "output_format": "png"},
            {"type": "image_generation.completed", "b64_json": ENCODED, "output_format": "png"},
        ]
    else:
        path, body = "/v1/chat/completions", {"model": "m", "messages": [], "stream": True}
        image = {"type": "image_url", "image_url": {"url": URL}}
        deltas: list[dict[str, Any]] = [{"content": "Here."}, {"images": [image]}]
        events = [{"id": "r-1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
    with Gateway() as gateway:
        gateway.answer(stream, headers={"content-type": "text/event-stream"})
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=True)], capture_content=True)
        with httpx2.Client() as client:
            assert client.post(gateway.url + path, json=body).content == stream
        assert byline.flush()
    (span,) = receiver.spans
    ((_, media),) = receiver.media.items()
    assert media == ("image/png", IMAGE, [(span.trace_id, span.span_id, "output")])


def test_bytes_of_an_answer(receiver: Receiver) -> None:
    """Speech is shown with its transcript, as output."""
    data = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40)
    spoken = {"id": "a-1", "data": base64.b64encode(data).decode(), "transcript": "Lisbon."}
    reply = {"id": "r-1", "model": "m", "choices": [{"message": {"role": "assistant", "audio": spoken}}]}
    with Gateway() as gateway:
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=True)], capture_content=True)
        gateway.answer(reply)
        with httpx2.Client() as client:
            client.post(f"{gateway.base_url}/chat/completions", json={"model": "m", "messages": []})
        assert byline.flush()
    (span,) = receiver.spans
    ((name, media),) = receiver.media.items()
    assert media == ("audio/wav", data, [(span.trace_id, span.span_id, "output")])
    assert json.loads(span.attributes[OUTPUT])["content"] == [
        {
            "type": "input_audio",
            "input_audio": {"data": f"@@@langfuseMedia:type=audio/wav|id={name}|source=base64_data_uri@@@"},
        },
        {"type": "text", "text": "Lisbon."},
    ]


def test_an_image_is_uploaded_once(receiver: Receiver) -> None:
    """The root of a request shows the image of its call; a later trace is linked to it without its bytes."""
    attributes = SPELLINGS["OpenAI's request"]
    with running(Langfuse(*KEYS, receiver.url, media=True, spans="all")) as app:
        for _ in range(2):
            with app.request():
                app.chat(**attributes)
                app.chat(**attributes)
        assert app.destinations[0].flush()
    assert media_requests(receiver) == ["POST", "PUT", "PATCH", "POST"]
    roots = [span for span in receiver.spans if span.parent_id is None]
    (media,) = receiver.media.values()
    assert sorted(trace for trace, _, _ in media.places) == sorted(span.trace_id for span in roots)
    reference = reference_to(receiver)
    assert [reference in span.attributes[INPUT] for span in receiver.spans] == [True] * 6


def test_credentials_of_langfuse_stay_with_langfuse(receiver: Receiver) -> None:
    """The store gets the signature of the URL, and the bytes."""
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **SPELLINGS["OpenAI's request"])
    (put,) = [request for request in receiver.requests if request.method == "PUT"]
    assert put.query == {"X-Amz-Expires": ["3600"], "X-Amz-Signature": ["0a/1"]}
    assert "authorization" not in put.headers
    assert put.headers["content-type"] == "image/png"


PRIVATE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "off by default": ({}, {}),
    "privacy": ({"media": True, "privacy": True}, {}),
    "a caller that asks for it": ({"media": True}, {"metadata": {"mask_input": True}}),
    "a mask": ({"media": True, "mask": lambda name, value: "x" if "input" in name else value}, {}),
}


@pytest.mark.parametrize("why", PRIVATE)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_nothing_of_private_content_is_uploaded(why: str, spelling: str, receiver: Receiver) -> None:
    """No request of the media API, and no bytes in the export."""
    options, claims = PRIVATE[why]
    with running(Langfuse(*KEYS, receiver.url, **options)) as app, app.request(**claims):
        mask = options.get("mask")
        attributes = SPELLINGS[spelling]
        if mask is not None:
            attributes = {
                "input.value" if name.startswith("gen_ai.prompt") else name: v for name, v in attributes.items()
            }
            attributes = {name: value for name, value in attributes.items() if "input" in name}
        app.chat(**attributes)
    assert media_requests(receiver) == []
    assert receiver.media == {}
    assert receiver.spans
    assert ENCODED[:64] not in str(receiver.spans)
    assert "langfuseMedia" not in str(receiver.spans)


def test_content_that_is_not_captured_is_not_kept(receiver: Receiver) -> None:
    """Without capture the bytes of a request go nowhere."""
    with Gateway() as gateway:
        byline.instrument(destinations=[Langfuse(*KEYS, receiver.url, media=True)])
        with httpx2.Client() as client:
            client.post(f"{gateway.base_url}/chat/completions", json=REQUESTS["OpenAI image"][1])
        assert byline.flush()
    assert len(receiver.spans) == 1
    assert media_requests(receiver) == []


KINDS: dict[str, Callable[..., Destination]] = {
    "Langfuse": lambda url, **options: Langfuse(*KEYS, url, media=True, spans="all", **options),
    "Langfuse, LLM spans": lambda url, **options: Langfuse(*KEYS, url, media=True, **options),
    "Phoenix": lambda url, **options: OTLP(url, headers=AUTHORIZATION, conventions=["openinference"], **options),
    "Langfuse behind a collector": lambda url, **options: OTLP(
        url, headers=AUTHORIZATION, conventions=["langfuse"], **options
    ),
    "OTLP": lambda url, **options: OTLP(url, headers=AUTHORIZATION, **options),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_content_leaves_for_a_private_destination(
    kind: str, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all recorded instrumentations, with roots, errors, tools and images: not in spans, media, spool or logs."""
    caplog.set_level(logging.DEBUG)
    destination = KINDS[kind](receiver.url, privacy=True, spool=tmp_path)
    receiver.hold()
    with running(destination) as app:
        with app.request(session_id="s-1", user_id="u-1"):
            for item in RECORDED:
                replay(app.provider, item)
            for attributes in SPELLINGS.values():
                app.chat(**attributes)
            app.chat(**SPELLINGS["OpenAI's request"], **{"error.type": "429", "byline.error.message": MARKER})
        # Stored, while the destination does not answer.
        destination.processor().force_flush()
        stored = b"".join(gzip.decompress(path.read_bytes()) for path in tmp_path.rglob("*.otlp"))
        receiver.release()
        assert destination.flush()
    assert stored
    sent = str(receiver.spans)
    assert len(receiver.spans) > len(SPELLINGS)
    assert media_requests(receiver) == []
    for content in (MARKER, "Where is this?", ENCODED[:64], "langfuseMedia"):
        assert content not in sent
        assert content.encode() not in stored
        assert content not in caplog.text


class Store(Receiver):
    """A Langfuse whose media API fails."""

    def __init__(self, method: str, status: int, *, url: str | None = None) -> None:
        super().__init__(keys=KEYS)
        self.failing = (method, status)
        self.upload_url = url

    def respond(self, request: Request, handler: Handler) -> None:
        if "media" in request.path or request.method == "PUT":
            method, status = self.failing
            if request.method == method:
                handler.reply(status, b'{"message": "no"}', {"location": f"{self.url}/bucket/elsewhere"})
                return
            if request.method == "POST" and self.upload_url is not None:
                digest = request.json()["sha256Hash"].replace("+", "-").replace("/", "_")
                answer = {"mediaId": digest[:22], "uploadUrl": self.upload_url}
                handler.reply(201, json.dumps(answer).encode(), {"content-type": "application/json"})
                return
        super().respond(request, handler)


def shown_in(span: ReceivedSpan) -> Any:
    (message,) = json.loads(span.attributes[INPUT])
    return message["content"]


FAILURES = {
    "the API is missing": ("POST", 404),
    "the project has no bucket": ("POST", 500),
    "too large for Langfuse": ("POST", 400),
    "the store refuses": ("PUT", 403),
    "the store redirects": ("PUT", 307),
    "Langfuse does not take the report": ("PATCH", 500),
}


@pytest.mark.parametrize("why", FAILURES)
def test_a_text_stands_for_bytes_that_are_not_uploaded(why: str, caplog: pytest.LogCaptureFixture) -> None:
    """The span arrives, names the part by type and size, and the failure is counted and logged without content."""
    method, status = FAILURES[why]
    with Store(method, status) as store:
        with running(Langfuse(*KEYS, store.url, media=True, label="failing")) as app:
            with app.request():
                app.chat(**SPELLINGS["OpenAI's request"])
                app.chat(**SPELLINGS["GenAI conventions"])
            assert app.destinations[0].flush()
        shown = [shown_in(span) for span in store.spans]
        assert shown == [[PART, {"type": "text", "text": OMITTED}]] * 3
        assert "langfuseMedia" not in str(store.spans)
        # A failure that concerns all parts stops the uploads for a while.
        attempts = [each for each in media_requests(store) if each == "POST"]
        assert len(attempts) == (3 if status == 400 else 1)
    assert internal_metrics.counter_values()["failing.media.left_out"] == 3
    logged = [record.getMessage() for record in caplog.records if "byline.E154" in record.getMessage()]
    assert len(logged) == (0 if status == 400 else 1)
    assert ENCODED[:20] not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://minio.example:9000/bucket/1?X-Amz-Signature=1",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "http://localhost\\@evil.example/",
        5,
    ],
)
def test_bytes_go_to_no_host_that_gets_them_unencrypted(url: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is sent to an upload URL without TLS, unless the host is this machine or one that is allowed."""
    with Store("", 0, url=url) as store, running(Langfuse(*KEYS, store.url, media=True)) as app:
        export(app, **SPELLINGS["OpenAI's request"])
        (span,) = store.spans
        assert shown_in(span) == [PART, {"type": "text", "text": OMITTED}]
        assert media_requests(store) == ["POST"]
    assert ("byline.E153" in caplog.text) == (str(url).startswith("http://m") or "169" in str(url))


def test_a_remote_langfuse_cannot_name_this_machine() -> None:
    """An upload URL on loopback counts for a Langfuse on loopback alone."""
    from byline.urls import split_url

    remote = MediaUploader("langfuse", "https://langfuse.example", "Basic x", transport=DEFAULT_TRANSPORT)
    near = MediaUploader("langfuse", "http://127.0.0.1:3000", "Basic x", transport=DEFAULT_TRANSPORT)
    url = split_url("http://127.0.0.1:9000/bucket/1")
    assert url is not None
    assert not remote._may_get_bytes(url)
    assert near._may_get_bytes(url)
    store = split_url("https://bucket.s3.example/1")
    assert store is not None
    assert remote._may_get_bytes(store)


def test_uploads_go_on_after_a_pause() -> None:
    """A failure stops the uploads for 60 seconds."""
    now = [100.0]
    media = MediaBudget().take("image/png", ENCODED)
    assert media is not None
    place = {"media_id": media.sha256.replace("+", "-").replace("/", "_")[:22], "trace_id": "1", "observation_id": "2"}
    with Store("POST", 503) as store:
        uploader = MediaUploader("langfuse", store.url, basic(), transport=DEFAULT_TRANSPORT, clock=lambda: now[0])
        assert not uploader.upload(media, field="input", **place)
        store.failing = ("", 0)
        now[0] += 59.9
        assert not uploader.upload(media, field="input", **place)
        now[0] += 0.2
        assert uploader.upload(media, field="input", **place)
        assert media_requests(store) == ["POST", "POST", "PUT", "PATCH"]


def test_no_upload_while_many_spans_wait() -> None:
    """Spans are never dropped for uploads."""
    media = MediaBudget().take("image/png", ENCODED)
    assert media is not None
    with Receiver(keys=KEYS) as receiver:
        uploader = MediaUploader("langfuse", receiver.url, basic(), transport=DEFAULT_TRANSPORT)
        uploader.is_behind = lambda: True
        assert not uploader.upload(media, media_id="x", trace_id="1", observation_id="2", field="input")
        assert receiver.requests == []


def basic() -> str:
    return f"Basic {base64.b64encode(':'.join(KEYS).encode()).decode()}"


def test_a_hanging_langfuse_delays_the_end_by_the_deadline_alone() -> None:
    """Each request ends by the deadline of the process."""
    media = MediaBudget().take("image/png", ENCODED)
    assert media is not None
    with Receiver(keys=KEYS) as receiver:
        uploader = MediaUploader("langfuse", receiver.url, basic(), transport=DEFAULT_TRANSPORT)
        uploader.set_deadline(0.0)
        assert not uploader.upload(media, media_id="x", trace_id="1", observation_id="2", field="input")
        assert receiver.requests == []


def test_the_deadline_ends_the_request_in_flight() -> None:
    """Otherwise the last spans would wait for it until there is no time left for them."""
    media = MediaBudget().take("image/png", ENCODED)
    assert media is not None
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        uploader = MediaUploader("langfuse", url, basic(), transport=DEFAULT_TRANSPORT)
        place = {"media_id": "x", "trace_id": "1", "observation_id": "2", "field": "input"}
        thread = threading.Thread(target=lambda: uploader.upload(media, **place))
        thread.start()
        connection, _ = hanging.accept()
        with connection:
            assert connection.recv(1)
            until = time.monotonic()
            uploader.set_deadline(until)
            thread.join()
            assert time.monotonic() < until + 8


@pytest.mark.parametrize("content_type", ["image/x-unknown", "application/x-sh"])
def test_types_that_langfuse_does_not_take(content_type: str, receiver: Receiver) -> None:
    """They are named in the message, and not uploaded."""
    url = f"data:{content_type};base64,{ENCODED}"
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **{"input.value": asked([{"type": "image_url", "image_url": {"url": url}}])})
    (span,) = receiver.spans
    assert f"[{content_type}, {len(IMAGE)} bytes omitted]" in span.attributes[INPUT]
    assert media_requests(receiver) == []


def test_parts_beyond_the_limits(receiver: Receiver) -> None:
    """Twenty parts of a span are uploaded, and none of more than 10 MiB."""
    images = [base64.b64encode(bytes([number]) * 300).decode() for number in range(22)]
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} for data in images]
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **{"input.value": asked(parts)})
    assert len(receiver.media) == 20
    (span,) = receiver.spans
    assert str(span.attributes[INPUT]).count("[image/png, 300 bytes omitted]") == 2
    assert MediaBudget().take("image/png", "A" * (MAX_BYTES * 4 // 3 + 8)) is None


def test_the_budget_of_all_parts() -> None:
    """A part counts until it is released."""
    budget = MediaBudget(1000)
    kept = [budget.take("image/png", "A" * 400) for _ in range(3)]
    assert [each is not None for each in kept] == [True, True, False]
    kept.clear()
    gc.collect()
    assert budget.take("image/png", "A" * 900) is not None


def test_a_reference_that_a_caller_has_typed_uploads_nothing(receiver: Receiver) -> None:
    """The text stays as it is."""
    typed = REFERENCE.format(id="A" * 22)
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **{"input.value": asked([{"type": "text", "text": typed}])})
    (span,) = receiver.spans
    assert shown_in(span) == typed
    assert media_requests(receiver) == []


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{ENCODED}\\/",
        f"data:image/png;base64,{ENCODED[:100]}\\/{ENCODED[101:]}",
        f"data:image/png;base64,{ENCODED[:100]}\\u002b{ENCODED[101:]}",
        f"data:image/png;base64,{ENCODED[:100]}%2B{ENCODED[101:]}",
        json.dumps([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}])[:-9],
        json.dumps([{"type": "blob", "mime_type": "image/png", "content": "no base64 at all"}]),
        json.dumps([{"type": "blob", "mime_type": "image/png", "media": 5, "content": ""}]),
        json.dumps([{"type": "blob", "mime_type": "image|id=x", "content": ENCODED}]),
        "[" * 2000 + f'"{URL}"' + "]" * 2000,
        '{"type": "base64", "media_type": "image/png", "data": "AAAAAAAAAAAAAAAAA"}',
    ],
    ids=["escaped", "slash", "plus", "percent", "cut", "text", "number", "type", "deep", "base64"],
)
def test_values_that_are_no_bytes(text: str, receiver: Receiver) -> None:
    """A broken value spoils no span."""
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **{"gen_ai.input.messages": text, "input.value": text})
    assert len(receiver.spans) == 1
    assert all(media.data in (IMAGE, b"") for media in receiver.media.values())


@pytest.mark.parametrize("times", [1, 2])
def test_an_image_in_json_within_a_text(times: int, receiver: Receiver) -> None:
    """The whole of it is uploaded: what follows the data URL is an escaped quotation mark."""
    text = URL
    for _ in range(times):
        text = json.dumps({"url": text})
    with running(Langfuse(*KEYS, receiver.url, media=True)) as app:
        export(app, **{"input.value": json.dumps([{"role": "user", "content": text}])})
    assert [media.data for media in receiver.media.values()] == [IMAGE]
    (span,) = receiver.spans
    assert ENCODED[-8:] not in shown_in(span)


def test_copies_of_captured_messages_are_texts() -> None:
    """An exporter of the app may copy or pickle the attributes of a span."""
    media = MediaBudget().take("image/png", ENCODED)
    assert media is not None
    messages = MessagesWithMedia.with_media("[]", (media,))
    for copied in (copy.copy(messages), copy.deepcopy(messages), pickle.loads(pickle.dumps(messages))):
        assert (type(copied), copied) == (str, "[]")


def test_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be used fails at construction."""
    with pytest.raises(SettingError, match=r"byline\.E152"):
        Langfuse(*KEYS, media="yes")  # type: ignore[arg-type]
    monkeypatch.setenv("BYLINE_MEDIA", "true")
    assert Langfuse(*KEYS).media is not None
    assert Langfuse(*KEYS, media=False).media is None
    assert Langfuse(*KEYS, privacy=True).media is None


def test_bytes_of_a_part() -> None:
    """Also Base64 for URLs, and without its padding."""
    budget = MediaBudget()
    for data in (ENCODED, ENCODED.rstrip("="), base64.urlsafe_b64encode(IMAGE).decode()):
        media = Media("image/png", data, budget)
        assert (media.decode(), media.size) == (IMAGE, len(IMAGE))
