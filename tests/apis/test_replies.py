"""Requests, replies and streams of each API, as they are read into a call result."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byline.apis import PARSERS, ApiParser, find_parser, json_body, parse_error
from byline.apis.json_body import parse_object
from byline.apis.parser import find_value, token_count
from byline.call_result import CallResult
from byline.testing import Gateway

CHAT = PARSERS["/chat/completions"]
MESSAGES = PARSERS["/messages"]

#: API: parser, reply, and the expected attributes of the call result.
USAGE: dict[str, tuple[ApiParser, dict[str, Any], dict[str, Any]]] = {
    "openai chat": (
        CHAT,
        {
            "id": "c-1",
            "model": "gpt-4o",
            "choices": [{"finish_reason": "stop", "message": {"content": "x"}}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": 2},
            },
        },
        {
            "response_id": "c-1",
            "response_model": "gpt-4o",
            "finish_reasons": ("stop",),
            "input_tokens": 100,
            "output_tokens": 20,
            "cache_read_tokens": 30,
            "reasoning_tokens": 7,
            "input_audio_tokens": 4,
            "output_audio_tokens": 2,
        },
    ),
    "openai responses": (
        PARSERS["/responses"],
        {
            "id": "r-1",
            "model": "gpt-5",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "usage": {
                "input_tokens": 9,
                "output_tokens": 5,
                "input_tokens_details": {"cached_tokens": 2},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
        },
        {
            "finish_reasons": ("max_output_tokens",),
            "input_tokens": 9,
            "output_tokens": 5,
            "cache_read_tokens": 2,
            "reasoning_tokens": 3,
        },
    ),
    "anthropic, whose input leaves out the cache": (
        MESSAGES,
        {
            "id": "m-1",
            "model": "claude",
            "stop_reason": "end_turn",
            "usage": {
                "input_tokens": 10,
                "output_tokens": 5,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 1000,
            },
        },
        {
            "finish_reasons": ("end_turn",),
            "input_tokens": 1110,
            "output_tokens": 5,
            "cache_read_tokens": 100,
            "cache_write_tokens": 1000,
        },
    ),
    "gemini, whose output leaves out the thoughts": (
        PARSERS[":generateContent"],
        {
            "responseId": "g-1",
            "modelVersion": "gemini-2.5",
            "candidates": [{"finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 4, "thoughtsTokenCount": 6},
        },
        {
            "response_id": "g-1",
            "response_model": "gemini-2.5",
            "finish_reasons": ("STOP",),
            "input_tokens": 8,
            "output_tokens": 10,
            "reasoning_tokens": 6,
        },
    ),
    "ollama": (
        PARSERS["/api/chat"],
        {"model": "llama", "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2},
        {"finish_reasons": ("stop",), "input_tokens": 3, "output_tokens": 2, "response_model": "llama"},
    ),
    "cohere": (
        PARSERS["/v2/chat"],
        {"id": "co-1", "finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 3, "output_tokens": 2}}},
        {"finish_reasons": ("COMPLETE",), "input_tokens": 3, "output_tokens": 2},
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_reply_is_read(case: str) -> None:
    """Each number is read into its attribute of the call result."""
    parser, reply, expected = USAGE[case]
    result = CallResult()
    assert parser.parse_response(json.dumps(reply).encode(), result) is not None
    assert {name: getattr(result, name) for name in expected} == expected


@pytest.mark.parametrize("case", [case for case in USAGE if "responses" not in case and case != "cohere"])
def test_reply_is_read_as_the_last_event_of_a_stream(case: str) -> None:
    """A stream gives the same numbers as a reply."""
    parser, reply, expected = USAGE[case]
    result = CallResult()
    parser.parse_stream(b"", b"data: " + json.dumps(reply).encode() + b"\n\n", result)
    assert {name: getattr(result, name) for name in expected} == expected


@pytest.mark.parametrize("bad", [-1, True, "12", 1.5, None, 10**12, [], {}])
def test_impossible_numbers_are_dropped(bad: object) -> None:
    """A span has no number rather than a wrong one."""
    result = CallResult()
    usage = {"prompt_tokens": bad, "completion_tokens": 4, "prompt_tokens_details": bad}
    CHAT.parse_response(json.dumps({"id": 5, "model": ["x"], "usage": usage}).encode(), result)
    assert (result.input_tokens, result.output_tokens) == (None, 4)
    assert (result.response_id, result.response_model) == (None, None)


_COUNT: st.SearchStrategy[Any] = st.sampled_from([None, -1, True, "2", 0, 3, 4.0, 5, {}])


@given(st.data())
def test_the_first_stated_path_of_a_token_count_is_read(data: st.DataObject) -> None:
    parser = data.draw(st.sampled_from([each for each in PARSERS.values() if each.usage]))
    usage: dict[str, Any] = {}
    for path in data.draw(st.sets(st.sampled_from([path for paths in parser.usage.values() for path in paths]))):
        name, _, rest = path.partition(".")
        inner = usage if not rest else usage.setdefault(name, {})
        if isinstance(inner, dict):
            inner[rest or name] = data.draw(_COUNT)
    result = CallResult()
    ApiParser.apply_usage(parser, usage, result)
    for attribute, paths in parser.usage.items():
        stated = [count for path in paths if (count := token_count(find_value(usage, path))) is not None]
        assert getattr(result, attribute) == (stated[0] if stated else None), (parser.name, usage)


def test_request_parameters_are_read() -> None:
    """Parameters get the names of the GenAI conventions; one choice is the default and left out."""
    result = CallResult()
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "secret"}],
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 42,
        "stop": ["a", "b"],
        "n": 1,
        "presence_penalty": 1,
        "response_format": {"type": "json_object"},
        "stream": True,
    }
    for capture in (True, False):
        CHAT.parse_request(
            json.dumps(body).encode(), result, path="/v1/chat/completions", host="api.groq.com", capture=capture
        )
        # Stop sequences are content.
        assert ("stop_sequences" in result.parameters) is capture
    assert result.parameters == {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 42,
        "presence_penalty": 1.0,
    }
    assert result.output_type == "json"
    assert (result.operation, result.provider, result.request_model, result.streamed) == (
        "chat",
        "groq",
        "gpt-4o",
        True,
    )


def test_gemini_names_its_model_in_the_path() -> None:
    """The path also tells whether the reply is a stream."""
    result = CallResult()
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    parser = find_parser(path)
    assert parser is not None
    parser.parse_request(b'{"generationConfig": {"topK": 3}}', result, path=path, host="127.0.0.1")
    assert (result.request_model, result.streamed, result.provider) == ("gemini-2.5-flash", True, "gcp.gemini")
    assert result.parameters == {"top_k": 3}


@pytest.mark.parametrize("path", ["/", "/chat", "/v1/models", "/messages/1", "/completions/x", "/api/chats"])
def test_other_paths_have_no_parser(path: str) -> None:
    """No parser is found for them."""
    assert find_parser(path) is None


STREAM = (
    b": OPENROUTER PROCESSING\n\n"
    b'data: {"id":"gen-1","model":"gpt-4o","choices":[{"delta":{"content":"H\xc3\xa9"},"finish_reason":null}]}\n\n'
    b'data: {"id":"gen-1","model":"gpt-4o",\ndata: "choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"gen-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"cost":0.5}}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@given(cut=st.integers(0, len(STREAM)))
def test_stream_is_read_if_it_is_cut_anywhere(newline: bytes, cut: int) -> None:
    """The stream has comments, an event of several data lines, and any kind of line end."""
    stream = STREAM.replace(b"\n", newline)
    result = CallResult()
    stated = CHAT.parse_stream(b"", stream, result)
    assert stated is not None
    assert stated["usage"]["cost"] == 0.5
    assert (result.response_id, result.finish_reasons, result.input_tokens) == ("gen-1", ("stop",), 3)
    assert CHAT.parse_stream(stream[:cut], stream[cut:], CallResult()) is None or cut <= len(stream)


def test_anthropic_stream_adds_up_its_first_and_last_usage() -> None:
    """The first event states the input tokens, the last but one the output tokens."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m-1", "model": "claude", "usage": {"input_tokens": 10}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "stop_reason"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    head = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events[:2])
    tail = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events[2:])
    result = CallResult()
    MESSAGES.parse_stream(head, tail, result)
    assert (result.response_id, result.response_model, result.finish_reasons) == ("m-1", "claude", ("max_tokens",))
    assert (result.input_tokens, result.output_tokens) == (10, 9)


def test_error_event_in_a_stream() -> None:
    """An error event is the error of the call, although the status was 200."""
    result = CallResult()
    event = {
        "id": "gen-1",
        "error": {"code": 502, "message": "upstream broke"},
        "choices": [{"finish_reason": "error"}],
    }
    CHAT.parse_stream(b"", b"data: " + json.dumps(event).encode() + b"\n\n", result)
    assert (result.error_type, result.error_message, result.finish_reasons) == ("502", "upstream broke", ("error",))


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'{"error": {"type": "rate_limit_error", "message": "slow down"}}', "rate_limit_error", "slow down"),
        (b'{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}', "overloaded_error", "busy"),
        (b'[{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "no"}}]', "INVALID_ARGUMENT", "no"),
        (b'{"error": "model not found"}', "429", "model not found"),
        (b'{"detail": "Not allowed"}', "429", "Not allowed"),
        (b'{"message": "invalid api token"}', "429", "invalid api token"),
        (b"<html>Bad gateway</html>", "429", None),
        (b"", "429", None),
    ],
)
def test_error_bodies_of_all_providers(body: bytes, kind: str, message: str | None) -> None:
    """The error type is the provider's own, or the HTTP status if the body names none."""
    result = CallResult()
    parse_error(429, body, result)
    assert (result.error_type, result.error_message) == (kind, message)


@pytest.mark.parametrize("ending", PARSERS)
@given(data=st.binary(max_size=300))
def test_no_bytes_raise(ending: str, data: bytes) -> None:
    """Any bytes of a server can be parsed."""
    result = CallResult()
    PARSERS[ending].parse_request(data, result, path=ending, host="h")
    PARSERS[ending].parse_response(data, result)
    PARSERS[ending].parse_stream(data, data, result)
    parse_error(500, data, result)


@pytest.mark.parametrize("ending", PARSERS)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "id model usage choices error message delta candidates usageMetadata prompt_tokens input_tokens "
                    "finish_reason response type detail status".split()
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_raises(ending: str, value: Any) -> None:
    """JSON with known names and wrong types can be parsed."""
    data = json.dumps(value).encode()
    result = CallResult()
    PARSERS[ending].parse_request(data, result, path=ending, host="h")
    PARSERS[ending].parse_response(data, result)
    PARSERS[ending].parse_stream(b"", b"data: " + data + b"\n\n", result)
    parse_error(500, data, result)


def test_replies_of_the_testing_gateway_are_read() -> None:
    """The parsers read the replies of the testing gateway."""
    import httpx2

    with Gateway() as gateway:
        body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx2.post(f"{gateway.base_url}/chat/completions", json=body)
    result = CallResult()
    CHAT.parse_response(answer.content, result)
    assert result.finish_reasons == ("stop",)
    assert (result.input_tokens or 0) > 0


LONG_MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt_logprobs of vLLM": ("/chat/completions", {"prompt_logprobs": [[{"logprob": -0.5}] * 5] * 20_000}),
    "logprobs of a choice": (
        "/chat/completions",
        {"choices": [{"finish_reason": "stop", "logprobs": {"content": [{"logprob": -0.5}] * 50_000}}]},
    ),
    "embeddings": ("/embeddings", {"data": [{"embedding": [0.25] * 3_000}] * 50}),
    "embeddings of Gemini": (":batchEmbedContents", {"embeddings": [{"values": [0.25] * 3_000}] * 50}),
    "tokens of Ollama": ("/api/generate", {"context": list(range(100_000)), "response": "hi"}),
    "output of the Responses API": ("/responses", {"output": [{"type": "reasoning", "summary": []}] * 20_000}),
    "content of Anthropic": ("/messages", {"content": [{"type": "text", "text": "hi", "citations": []}] * 20_000}),
    "log probabilities of Gemini": (
        ":generateContent",
        {"candidates": [{"finishReason": "STOP", "logprobsResult": {"chosen": [{"token": "a"}] * 20_000}}]},
    ),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", LONG_MEMBERS)
def test_long_members_are_never_built_as_python_objects(case: str, streamed: bool) -> None:
    """Parsing a reply takes less memory than a tenth of its text, so no list of a long member was ever made."""
    path, members = LONG_MEMBERS[case]
    body = json.dumps({"id": "r-1", "model": "m", **members}).encode()
    parser, result = PARSERS[path], CallResult()
    stream = b"data: " + body + b"\n\n"
    tracemalloc.start()
    try:
        if streamed:
            parser.parse_stream(b"", stream, result)
        else:
            parser.parse_response(body, result)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A stream is copied as text: line ends are unified, events are split off.
    assert peak < len(body) * (4.1 if streamed else 0.1)


def test_reply_members_are_decoded_when_a_gateway_reads_them() -> None:
    """A gateway can read every member of the reply; each is decoded once."""
    body = b'{"id": "r-1", "usage": {"cost": 0.5}, "extra_fields": {"provider": "openai"}, "odd": [1, 2]}'
    reply = CHAT.parse_response(body, CallResult())
    assert reply is not None
    assert reply == {"id": "r-1", "usage": {"cost": 0.5}, "extra_fields": {"provider": "openai"}, "odd": [1, 2]}
    assert reply["odd"] is reply["odd"]
    assert reply.get("absent") is None
    assert len(reply) == 4


CHUNK: Any = {"id": "c-1", "model": "m", "choices": [{"delta": {"content": 'the "usage": {'}, "finish_reason": None}]}
CONTENT_EVENTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat": (
        "/chat/completions",
        {**CHUNK, "usage": None},
        {**CHUNK, "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}},
    ),
    "anthropic": (
        "/messages",
        {"type": "content_block_delta", "model": "m", "delta": {"type": "text_delta", "text": '"error"'}},
        {"type": "message_delta", "delta": {"stop_reason": "stop"}, "usage": {"input_tokens": 3}},
    ),
    "responses": (
        "/responses",
        {"type": "response.output_text.delta", "delta": '{"response": {}}'},
        {
            "type": "response.completed",
            "response": {
                "model": "m",
                "status": "incomplete",
                "incomplete_details": {"reason": "stop"},
                "usage": {"input_tokens": 3},
            },
        },
    ),
    "ollama": (
        "/api/chat",
        {"model": "m", "message": {"content": "done_reason"}, "done": False},
        {"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 3},
    ),
}


@pytest.mark.parametrize("case", CONTENT_EVENTS)
def test_events_that_state_content_alone_are_not_parsed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 events of a stream that is read again as it grows, the last one alone is parsed."""
    path, content, last = CONTENT_EVENTS[case]
    parsed: list[object] = []

    def count(text: Any) -> Any:
        parsed.append(text)
        return parse_object(text)

    monkeypatch.setattr(json_body, "parse_object", count)
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [content] * 400 + [last])
    result = CallResult(response_model="m")
    assert PARSERS[path].parse_stream(b"", stream, result) is not None
    assert (result.input_tokens, result.finish_reasons) == (3, ("stop",))
    assert len(parsed) <= 5
