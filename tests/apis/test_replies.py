"""What each API shape's bodies say of their call, whole and streamed."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byline.apis import PARSERS, ApiParser, find_parser, parse_error
from byline.call_result import CallResult
from byline.testing import Gateway

CHAT = PARSERS["/chat/completions"]
MESSAGES = PARSERS["/messages"]

#: A call of each shape: path, request, and the tokens that a reply's numbers add up to.
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
def test_whole_reply(case: str) -> None:
    """Every number lands under its fact."""
    wire, reply, expected = USAGE[case]
    facts = CallResult()
    assert wire.parse_response(json.dumps(reply).encode(), facts) is not None
    assert {name: getattr(facts, name) for name in expected} == expected


@pytest.mark.parametrize("case", [case for case in USAGE if "responses" not in case and case != "cohere"])
def test_reply_as_the_last_event_of_a_stream(case: str) -> None:
    """The same numbers, whichever way they come."""
    wire, reply, expected = USAGE[case]
    facts = CallResult()
    wire.parse_stream(b"", b"data: " + json.dumps(reply).encode() + b"\n\n", facts)
    assert {name: getattr(facts, name) for name in expected} == expected


@pytest.mark.parametrize("bad", [-1, True, "12", 1.5, None, 10**12, [], {}])
def test_absurd_numbers_are_left_out(bad: object) -> None:
    """A span without a number is better than one with a wrong one."""
    facts = CallResult()
    usage = {"prompt_tokens": bad, "completion_tokens": 4, "prompt_tokens_details": bad}
    CHAT.parse_response(json.dumps({"id": 5, "model": ["x"], "usage": usage}).encode(), facts)
    assert (facts.input_tokens, facts.output_tokens) == (None, 4)
    assert (facts.response_id, facts.response_model) == (None, None)


def test_request_parameters() -> None:
    """They go under the names of the GenAI conventions; a choice of one is the default."""
    facts = CallResult()
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
    CHAT.parse_request(json.dumps(body).encode(), facts, path="/v1/chat/completions", host="api.groq.com")
    assert facts.parameters == {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 42,
        "stop_sequences": ("a", "b"),
        "presence_penalty": 1.0,
        "response_format": "json_object",
    }
    assert (facts.operation, facts.provider, facts.request_model, facts.streamed) == ("chat", "groq", "gpt-4o", True)


def test_gemini_names_its_model_in_the_path() -> None:
    """And says in the path whether it streams."""
    facts = CallResult()
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    wire = find_parser(path)
    assert wire is not None
    wire.parse_request(b'{"generationConfig": {"topK": 3}}', facts, path=path, host="127.0.0.1")
    assert (facts.request_model, facts.streamed, facts.provider) == ("gemini-2.5-flash", True, "gcp.gemini")
    assert facts.parameters == {"top_k": 3}


@pytest.mark.parametrize("path", ["/", "/chat", "/v1/models", "/messages/1", "/completions/x", "/api/chats"])
def test_other_paths_are_no_calls(path: str) -> None:
    """They pass with one look at their end."""
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
def test_stream_may_be_cut_anywhere(newline: bytes, cut: int) -> None:
    """With comments, several data lines to an event, and any newline; usage always comes from the tail."""
    stream = STREAM.replace(b"\n", newline)
    facts = CallResult()
    stated = CHAT.parse_stream(b"", stream, facts)
    assert stated is not None
    assert stated["usage"]["cost"] == 0.5
    assert (facts.response_id, facts.finish_reasons, facts.input_tokens) == ("gen-1", ("stop",), 3)
    assert CHAT.parse_stream(stream[:cut], stream[cut:], CallResult()) is None or cut <= len(stream)


def test_anthropic_stream_adds_up_its_first_and_its_last_usage() -> None:
    """Input stands in the first event, output in the last but one."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m-1", "model": "claude", "usage": {"input_tokens": 10}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "stop_reason"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    head = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events[:2])
    tail = b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events[2:])
    facts = CallResult()
    MESSAGES.parse_stream(head, tail, facts)
    assert (facts.response_id, facts.response_model, facts.finish_reasons) == ("m-1", "claude", ("max_tokens",))
    assert (facts.input_tokens, facts.output_tokens) == (10, 9)


def test_error_in_mid_stream() -> None:
    """It is the call's error, though the status was 200."""
    facts = CallResult()
    event = {
        "id": "gen-1",
        "error": {"code": 502, "message": "upstream broke"},
        "choices": [{"finish_reason": "error"}],
    }
    CHAT.parse_stream(b"", b"data: " + json.dumps(event).encode() + b"\n\n", facts)
    assert (facts.error_type, facts.error_message, facts.finish_reasons) == ("502", "upstream broke", ("error",))


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
def test_error_shapes(body: bytes, kind: str, message: str | None) -> None:
    """The provider's own class where it has one, else the status."""
    facts = CallResult()
    parse_error(429, body, facts)
    assert (facts.error_type, facts.error_message) == (kind, message)


@pytest.mark.parametrize("ending", PARSERS)
@given(data=st.binary(max_size=300))
def test_no_bytes_raise(ending: str, data: bytes) -> None:
    """Whatever a server sends, reading it is safe."""
    facts = CallResult()
    PARSERS[ending].parse_request(data, facts, path=ending, host="h")
    PARSERS[ending].parse_response(data, facts)
    PARSERS[ending].parse_stream(data, data, facts)
    parse_error(500, data, facts)


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
    """Nor do objects with the right names and the wrong types."""
    data = json.dumps(value).encode()
    facts = CallResult()
    PARSERS[ending].parse_request(data, facts, path=ending, host="h")
    PARSERS[ending].parse_response(data, facts)
    PARSERS[ending].parse_stream(b"", b"data: " + data + b"\n\n", facts)
    parse_error(500, data, facts)


def test_gateway_replies_are_what_these_tests_read() -> None:
    """The testing gateway's own replies are understood."""
    import httpx2

    with Gateway() as gateway:
        body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx2.post(f"{gateway.base_url}/chat/completions", json=body)
    facts = CallResult()
    CHAT.parse_response(answer.content, facts)
    assert facts.finish_reasons == ("stop",)
    assert (facts.input_tokens or 0) > 0


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
    """A gateway finds every member of the reply, and each is decoded once."""
    body = b'{"id": "r-1", "usage": {"cost": 0.5}, "extra_fields": {"provider": "openai"}, "odd": [1, 2]}'
    reply = CHAT.parse_response(body, CallResult())
    assert reply is not None
    assert reply == {"id": "r-1", "usage": {"cost": 0.5}, "extra_fields": {"provider": "openai"}, "odd": [1, 2]}
    assert reply["odd"] is reply["odd"]
    assert reply.get("absent") is None
    assert len(reply) == 4
