"""Capture of prompts and completions in the JSON of the GenAI conventions."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai

from byline.apis import PARSERS, ApiParser
from byline.apis.json_body import Members, parse_object
from byline.apis.messages import MAX_JSON, MAX_TEXT
from byline.call_result import CallResult
from byline.testing import Gateway
from tests.http.conftest import Finished
from tests.http.test_clients import make_frame

CONTENT = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions")
TOOL: Any = {"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}}
SAID = "This is the answer"


def chat(gateway: Gateway, *, stream: bool, tool: bool = False) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    more: Any = {"tools": [TOOL]} if tool else {}
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        answer: Any = client.chat.completions.create(model="openai/gpt-4o", messages=messages, stream=stream, **more)
        if stream:
            list(answer)


def responses(gateway: Gateway, *, stream: bool) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        answer: Any = client.responses.create(
            model="openai/gpt-4o", input="Who?", instructions="Be brief.", stream=stream
        )
        if stream:
            list(answer)


def messages(gateway: Gateway, *, stream: bool) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key="k") as client:
        answer: Any = client.messages.create(
            model="claude-sonnet-4-5",
            max_tokens=9,
            system="Be brief.",
            messages=[{"role": "user", "content": "Who?"}],
            stream=stream,
        )
        if stream:
            list(answer)


def generate(gateway: Gateway, *, stream: bool) -> None:
    client = genai.Client(api_key="k", http_options={"base_url": gateway.url})
    config: Any = {"system_instruction": "Be brief."}
    if stream:
        list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="Who?", config=config))
    else:
        client.models.generate_content(model="gemini-2.5-flash", contents="Who?", config=config)
    client.close()


def content_of(finished: Finished) -> dict[str, Any]:
    (span,) = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    attributes = span.attributes or {}
    return {name: json.loads(str(attributes[name])) for name in CONTENT if name in attributes}


def parser_named(name: str) -> ApiParser:
    return next(parser for parser in PARSERS.values() if parser.name == name)


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
#: APIs without an installed SDK: request, reply, stream, and the roles of the input messages.
APIS: Any = {
    "ollama.chat": (
        {"messages": ASKED},
        {"message": {"role": "assistant", "content": "Ada."}, "done": True, "done_reason": "stop"},
        lines(
            {"message": {"role": "assistant", "content": "A"}, "done": False},
            {"message": {"role": "assistant", "content": "da."}, "done": False},
            {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
        ),
        ["system", "user"],
    ),
    "ollama.generate": (
        {"prompt": "Who?", "system": "Be brief."},
        {"response": "Ada.", "done": True, "done_reason": "stop"},
        lines({"response": "A", "done": False}, {"response": "da.", "done": True, "done_reason": "stop"}),
        ["user"],
    ),
    "cohere.chat": (
        {"messages": ASKED},
        {"message": {"role": "assistant", "content": [{"type": "text", "text": "Ada."}]}, "finish_reason": "COMPLETE"},
        sse(
            {"type": "message-start", "delta": {"message": {"role": "assistant", "content": []}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "A"}}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "da."}}}},
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
        ),
        ["system", "user"],
    ),
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stream", [False, True])
def test_messages_of_apis_without_an_installed_sdk(api: str, stream: bool) -> None:
    """Reply and stream give the same messages."""
    request, reply, streamed, roles = APIS[api]
    result = CallResult()
    parser = parser_named(api)
    parser.parse_request(json.dumps(request).encode(), result, path="/", host="h", capture=True)
    if stream:
        parser.parse_stream(b"", streamed, result, capture=True)
    else:
        parser.parse_response(json.dumps(reply).encode(), result, capture=True)
    asked = json.loads(result.input_messages or "")
    assert [message["role"] for message in asked] == roles
    assert asked[-1]["parts"] == [{"type": "text", "content": "Who?"}]
    assert ("Be brief." in (result.system_instructions or "")) is (roles == ["user"])
    (said,) = json.loads(result.output_messages or "")
    assert said["role"] == "assistant"
    assert said["parts"] == [{"type": "text", "content": "Ada."}]
    assert said["finish_reason"] in ("stop", "COMPLETE")


@pytest.mark.parametrize(
    ("api", "request_body"),
    [
        ("ollama.embed", {"input": ["a", "b"]}),
        ("cohere.embed", {"texts": ["a", "b"]}),
        ("gemini.embed", {"content": {"parts": [{"text": "a"}, {"text": "b"}]}}),
    ],
)
def test_embedded_texts_are_captured(api: str, request_body: dict[str, Any]) -> None:
    """The texts are input messages; embeddings are no output messages."""
    result = CallResult()
    parser = parser_named(api)
    parser.parse_request(json.dumps(request_body).encode(), result, path="/", host="h", capture=True)
    parser.parse_response(b'{"embeddings": [[0.1]]}', result, capture=True)
    texts = [part["content"] for message in json.loads(result.input_messages or "") for part in message["parts"]]
    assert texts == ["a", "b"]
    assert result.output_messages is None


CONVERSE: Any = {
    "system": [{"text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"text": "Who?"}, {"image": {"format": "png", "source": {"bytes": "QUJD"}}}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "look", "input": {"a": 1}}}]},
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": "t", "content": [{"text": "x"}]}}, {"cachePoint": {}}],
        },
    ],
    "toolConfig": {"tools": [{"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}]},
}


def test_messages_of_a_bedrock_converse_request() -> None:
    """Images are named without their bytes; markers of the prompt cache are no parts."""
    result = CallResult()
    parser_named("bedrock.converse").parse_request(
        json.dumps(CONVERSE).encode(), result, path="/model/m/converse", host="h", capture=True
    )
    assert json.loads(result.input_messages or "") == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "Who?"},
                {"type": "blob", "modality": "image", "content": "", "size": 3, "mime_type": "image/png"},
            ],
        },
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "t", "name": "look", "arguments": {"a": 1}}]},
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "t", "response": [{"text": "x"}]}]},
    ]
    assert json.loads(result.system_instructions or "") == [{"type": "text", "content": "Be brief."}]
    assert json.loads(result.tool_definitions or "") == [
        {"type": "function", "name": "look", "description": None, "parameters": {"type": "object"}}
    ]


THOUGHT: Any = {"reasoningContent": {"reasoningText": {"text": "Hm."}}}
CALL: Any = {"toolUse": {"toolUseId": "t", "name": "look", "input": {"a": 1}}}


@pytest.mark.parametrize("stream", [False, True])
def test_messages_of_a_bedrock_converse_reply(stream: bool) -> None:
    """Reasoning, text and tool calls are parts of one message, in a reply as in a stream."""
    result, parser = CallResult(), parser_named("bedrock.converse")
    if stream:
        deltas: list[tuple[int, dict[str, Any]]] = [
            (0, {"reasoningContent": {"text": "Hm."}}),
            (0, {"reasoningContent": {"signature": "s"}}),
            (1, {"text": "A"}),
            (1, {"text": "da."}),
            (2, {"toolUse": {"input": '{"a":'}}),
            (2, {"toolUse": {"input": "1}"}}),
        ]
        start = {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t", "name": "look"}}}
        body = b"".join(
            [make_frame("contentBlockDelta", {"contentBlockIndex": at, "delta": delta}) for at, delta in deltas[:4]]
            + [make_frame("contentBlockStart", start)]
            + [make_frame("contentBlockDelta", {"contentBlockIndex": at, "delta": delta}) for at, delta in deltas[4:]]
            + [make_frame("messageStop", {"stopReason": "tool_use"})]
        )
        parser.parse_stream(b"", body, result, capture=True)
    else:
        reply = {"output": {"message": {"content": [THOUGHT, {"text": "Ada."}, CALL]}}, "stopReason": "tool_use"}
        parser.parse_response(json.dumps(reply).encode(), result, capture=True)
    (message,) = json.loads(result.output_messages or "")
    assert message == {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Hm."},
            {"type": "text", "content": "Ada."},
            {"type": "tool_call", "id": "t", "name": "look", "arguments": {"a": 1}},
        ],
        "finish_reason": "tool_use",
    }
    assert result.finish_reasons == ("tool_use",)


@pytest.mark.parametrize("stream", [False, True])
def test_messages_of_an_anthropic_model_on_bedrock(stream: bool) -> None:
    """Invoke has the bodies of Anthropic's own API; other models are not captured."""
    result, parser = CallResult(), parser_named("bedrock.invoke")
    request = {"anthropic_version": "bedrock-2023-05-31", "system": "Be brief.", "messages": ASKED[1:]}
    parser.parse_request(json.dumps(request).encode(), result, path="/model/m/invoke", host="h", capture=True)
    if stream:
        events: list[dict[str, Any]] = [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Ada."}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        ]
        frames = [
            make_frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()}) for event in events
        ]
        parser.parse_stream(b"", b"".join(frames), result, capture=True)
    else:
        reply = {"type": "message", "content": [{"type": "text", "text": "Ada."}], "stop_reason": "end_turn"}
        parser.parse_response(json.dumps(reply).encode(), result, capture=True)
    assert json.loads(result.input_messages or "") == [{"role": "user", "parts": [{"type": "text", "content": "Who?"}]}]
    assert json.loads(result.system_instructions or "") == [{"type": "text", "content": "Be brief."}]
    (message,) = json.loads(result.output_messages or "")
    assert message["parts"] == [{"type": "text", "content": "Ada."}]
    assert message["finish_reason"] == "end_turn"
    other = CallResult()
    parser.parse_request(b'{"prompt": "Who?", "messages": [{}]}', other, path="/", host="h", capture=True)
    parser.parse_response(b'{"generation": "Ada."}', other, capture=True)
    assert (other.input_messages, other.output_messages) == (None, None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [chat, responses, messages, generate])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_messages_of_each_sdk(ask: Callable[..., None], stream: bool, capturing: Gateway, finished: Finished) -> None:
    """The span has input messages, system instructions and output messages."""
    ask(capturing, stream=stream)
    content = content_of(finished)
    user = {"role": "user", "parts": [{"type": "text", "content": "Who?"}]}
    system = {"type": "text", "content": "Be brief."}
    if ask is chat:
        assert content["gen_ai.input.messages"] == [{"role": "system", "parts": [system]}, user]
    else:
        assert content["gen_ai.input.messages"] == [user]
        assert content["gen_ai.system_instructions"] == [system]
    (message,) = content["gen_ai.output.messages"]
    assert message["role"] == "assistant"
    assert message["finish_reason"]
    (said,) = message["parts"]
    assert said["type"] == "text"
    assert said["content"].startswith(SAID)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_definitions_and_tool_calls(stream: bool, capturing: Gateway, finished: Finished) -> None:
    """Tool definitions are flat, and the arguments of a tool call are decoded."""
    chat(capturing, stream=stream, tool=True)
    content = content_of(finished)
    assert content["gen_ai.tool.definitions"] == [
        {"type": "function", "name": "look", "description": "d", "parameters": {"type": "object"}}
    ]
    (call,) = content["gen_ai.output.messages"][0]["parts"]
    assert call == {"type": "tool_call", "id": "call_1", "name": "look", "arguments": {}}


@pytest.mark.parametrize("ask", [chat, responses, messages, generate])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_captured_by_default(ask: Callable[..., None], gateway: Gateway, finished: Finished) -> None:
    """No attribute of the span contains the prompt or the completion."""
    for stream in (False, True):
        ask(gateway, stream=stream)
    for span in finished():
        assert "Who?" not in str(dict(span.attributes or {}))
        assert SAID not in str(dict(span.attributes or {}))


IMAGE = "data:image/png;base64," + "QUJD" * 500
INPUTS: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image_url", "image_url": {"url": IMAGE}},
                        {"type": "input_audio", "input_audio": {"data": "QUJD" * 500, "format": "wav"}},
                        {"type": "file", "file": {"file_data": IMAGE}},
                        {"type": "new_kind", "data": "QUJD" * 500},
                    ],
                }
            ],
        },
    ),
    (
        "/v1/responses",
        {
            "model": "m",
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]},
                {"type": "image_generation_call", "result": {"b64_json": "QUJD" * 500}},
            ],
        },
    ),
    (
        "/v1/messages",
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "QUJD" * 500},
                        },
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "image", "source": {"type": "base64", "data": "QUJD" * 500}}],
                        },
                    ],
                }
            ],
        },
    ),
    (
        "/v1beta/models/gemini-x:generateContent",
        {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "QUJD" * 500}}]}]},
    ),
    ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x", "images": ["QUJD" * 500]}]}),
]


@pytest.mark.parametrize(("path", "body"), INPUTS, ids=[path for path, _ in INPUTS])
def test_binary_parts_are_not_captured(path: str, body: dict[str, Any], capturing: Gateway, finished: Finished) -> None:
    """The message states their kind without their bytes."""
    with httpx2.Client() as client:
        client.post(capturing.url + path, json=body)
    (span,) = finished()
    content = str((span.attributes or {})["gen_ai.input.messages"])
    assert "QUJDQUJD" not in content
    assert json.loads(content)[0]["parts"]


#: Request bodies with a part of each kind, and the parts that the messages have, with their roles.
PARTS: Any = [
    (
        "gemini.generate",
        {
            "contents": [
                {"role": "model", "parts": [{"text": "Hm.", "thought": True}]},
                {"role": "model", "parts": [{"functionCall": {"id": "c", "name": "look", "args": {"at": "x"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"id": "c", "name": "look", "response": {"is": 1}}}]},
                {"role": "user", "parts": [{"fileData": {"mimeType": "application/pdf", "fileUri": "gs://b/a.pdf"}}]},
                {"role": "user", "parts": [{"executableCode": {"code": "1"}}]},
            ]
        },
        [
            ("assistant", {"type": "reasoning", "content": "Hm."}),
            ("assistant", {"type": "tool_call", "id": "c", "name": "look", "arguments": {"at": "x"}}),
            ("user", {"type": "tool_call_response", "id": "c", "response": {"is": 1}}),
            ("user", {"type": "uri", "modality": "application", "uri": "gs://b/a.pdf"}),
        ],
    ),
    (
        "gemini.interactions",
        {
            "input": [
                {"type": "function_call", "id": "c", "name": "look", "arguments": {"at": "x"}},
                {"type": "function_result", "call_id": "c", "result": "1"},
                {"type": "thought", "summary": [{"type": "text", "text": "Hm."}]},
                {"role": "user", "content": [{"type": "image", "mime_type": "image/png", "uri": "https://x/a.png"}]},
            ]
        },
        [
            ("assistant", {"type": "tool_call", "id": "c", "name": "look", "arguments": {"at": "x"}}),
            ("tool", {"type": "tool_call_response", "id": "c", "response": "1"}),
            ("assistant", {"type": "reasoning", "content": "Hm."}),
            ("user", {"type": "uri", "modality": "image", "uri": "https://x/a.png"}),
        ],
    ),
    (
        "mistral.conversations",
        {
            "inputs": [
                {"type": "function.call", "tool_call_id": "c", "name": "look", "arguments": '{"at": "x"}'},
                {"type": "function.result", "tool_call_id": "c", "result": "1"},
            ]
        },
        [
            ("assistant", {"type": "tool_call", "id": "c", "name": "look", "arguments": {"at": "x"}}),
            ("tool", {"type": "tool_call_response", "id": "c", "response": "1"}),
        ],
    ),
    (
        "openai.responses",
        {
            "input": [
                {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": "x"}'},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            ]
        },
        [
            ("assistant", {"type": "tool_call", "id": "c", "name": "look", "arguments": {"at": "x"}}),
            ("tool", {"type": "tool_call_response", "id": "c", "response": "1"}),
            ("assistant", {"type": "reasoning", "content": "Hm."}),
        ],
    ),
    (
        "anthropic.messages",
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]},
                {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "QUJD"}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "1"}]},
            ]
        },
        [
            ("assistant", {"type": "reasoning", "content": "Hm."}),
            ("assistant", {"type": "tool_call", "id": "c", "name": "look", "arguments": {}}),
            ("user", {"type": "tool_call_response", "id": "c", "response": "1"}),
        ],
    ),
]


@pytest.mark.parametrize(("api", "request_body", "expected"), PARTS, ids=[api for api, _, _ in PARTS])
def test_each_kind_of_part_has_its_kind_in_the_conventions(api: str, request_body: Any, expected: Any) -> None:
    messages = parser_named(api).input_messages(parse_object(json.dumps(request_body).encode()) or Members({}))
    found = [(message["role"], part) for message in messages for part in message["parts"]]
    assert len(found) == len(expected)
    for (role, part), (expected_role, members) in zip(found, expected, strict=True):
        assert (role, {name: part.get(name) for name in members}) == (expected_role, members)


def test_long_texts_are_cut_and_long_conversations_keep_their_end(capturing: Gateway, finished: Finished) -> None:
    """The attribute is JSON within the size limit."""
    said = [{"role": "user", "content": f"{number} " + "x" * (MAX_TEXT + 10)} for number in range(20)]
    with httpx2.Client() as client:
        client.post(f"{capturing.base_url}/chat/completions", json={"model": "m", "messages": said})
    (span,) = finished()
    text = str((span.attributes or {})["gen_ai.input.messages"])
    assert len(text) <= MAX_JSON + 1000
    messages = json.loads(text)
    assert messages[-1]["parts"][0]["content"].startswith("19 ")
    assert messages[-1]["parts"][0]["content"].endswith(f"({MAX_TEXT + 13} characters)")
    assert messages[0]["parts"][0]["content"] == f"({20 - len(messages) + 1} earlier messages are left out)"


@pytest.mark.parametrize("path", sorted(PARSERS))
@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"messages":[1,{"content":[2,{"type":3}]}],"tools":{},"input":7}', b"{"]
)
def test_malformed_requests_and_replies_raise_nothing(path: str, body: bytes, capturing: Gateway) -> None:
    """Bodies that are no requests or replies raise nothing."""
    for reply in (body, b'{"choices":[{"message":{"content":{"a":1},"tool_calls":[{"function":7}]}}]}'):
        for kind in ("application/json", "text/event-stream"):
            capturing.answer(reply, headers={"content-type": kind})
            with httpx2.Client() as client:
                answer = client.post(f"{capturing.url}/model/x{path}", content=body)
                assert answer.content == reply


@pytest.mark.parametrize("stream", [False, True])
def test_error_messages_are_content_without_credentials(stream: bool, capturing: Gateway, finished: Finished) -> None:
    """Providers quote the prompt and the key; stop sequences quote the conversation."""
    capturing.answer(
        {"error": {"type": "invalid_request_error", "message": f"input was: {SAID}; key {'sk-proj-' + 'a1B2' * 6}"}},
        status=400,
    )
    ask = {"model": "m", "messages": [], "stop": ["Jane Roe:"], "stream": stream}
    httpx2.post(f"{capturing.base_url}/chat/completions", json=ask)
    (span,) = finished()
    attributes = dict(span.attributes or {})
    assert attributes["byline.error.message"] == f"input was: {SAID}; key …"
    assert span.status.description == attributes["byline.error.message"]
    assert attributes["gen_ai.request.stop_sequences"] == ("Jane Roe:",)


def test_no_error_message_by_default(gateway: Gateway, finished: Finished) -> None:
    gateway.answer({"error": {"type": "invalid_request_error", "message": f"input was: {SAID}"}}, status=400)
    httpx2.post(f"{gateway.base_url}/chat/completions", json={"model": "m", "messages": [], "stop": ["Jane Roe:"]})
    (span,) = finished()
    assert (span.attributes or {})["error.type"] == span.status.description == "invalid_request_error"
    assert SAID not in span.to_json()
    assert "Jane" not in span.to_json()
