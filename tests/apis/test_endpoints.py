"""Endpoints of a single provider: which requests are recognised, and the values of their responses and streams."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider

from byline import http
from byline.apis import PARSERS, apply_stated_cost, find_parser
from byline.apis.json_body import parse_object
from byline.call_result import CallResult
from byline.testing import Gateway
from tests.http.conftest import Finished, running

VERTEX = "/v1/projects/p/locations/us-east5/publishers"
CLAUDE = f"{VERTEX}/anthropic/models/claude-sonnet-4-5@20250929"
VERTEX_HOST = "us-east5-aiplatform.googleapis.com"
ASKED: Any = [{"role": "user", "content": "Who?"}]
#: A picture, of which the number of bytes is recorded.
BLOB = '{"role":"assistant","parts":[{"type":"blob","modality":"image","content":"","size":3}]}'
SAID: Any = [{"role": "user", "parts": [{"type": "text", "content": "Who?"}]}]
USAGE: Any = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
IMAGE_USAGE: Any = {
    "input_tokens": 50,
    "output_tokens": 4160,
    "total_tokens": 4210,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}
SPOKEN_USAGE: Any = {
    "type": "tokens",
    "input_tokens": 14,
    "output_tokens": 45,
    "total_tokens": 59,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
}
INTERACTION_USAGE: Any = {"total_input_tokens": 5, "total_output_tokens": 3, "total_thought_tokens": 2}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


#: Path, host, request, response or stream; the expected attributes of the call result.
CALLS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any] | bytes, dict[str, Any]]] = {
    "Claude on Vertex AI": (
        f"{CLAUDE}:rawPredict",
        VERTEX_HOST,
        {"anthropic_version": "vertex-2023-10-16", "messages": ASKED, "max_tokens": 9},
        {
            "id": "m-1",
            "model": "claude-sonnet-4-5-20250929",
            "content": [{"type": "text", "text": "Ada."}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 7, "output_tokens": 4},
        },
        {
            "provider": "gcp.vertex_ai",
            "operation": "chat",
            "request_model": "claude-sonnet-4-5@20250929",
            "response_model": "claude-sonnet-4-5-20250929",
            "parameters": {"max_tokens": 9},
            "streamed": False,
            "input_tokens": 7,
            "output_tokens": 4,
        },
    ),
    "Claude on Vertex AI, streamed": (
        f"{CLAUDE}:streamRawPredict",
        "aiplatform.us.rep.googleapis.com",
        {"anthropic_version": "vertex-2023-10-16", "messages": ASKED, "stream": True},
        sse(
            {"type": "message_start", "message": {"id": "m-1", "model": "claude", "usage": {"input_tokens": 7}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Ada."}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        ),
        {"provider": "gcp.vertex_ai", "streamed": True, "input_tokens": 7, "output_tokens": 4, "response_id": "m-1"},
    ),
    "images of OpenAI": (
        "/v1/images/generations",
        "api.openai.com",
        {"model": "gpt-image-1", "prompt": "Who?", "n": 2},
        {
            "created": 1,
            "data": [{"b64_json": "AAAA"}],
            "usage": {
                "input_tokens": 12,
                "output_tokens": 4160,
                "total_tokens": 4172,
                "input_tokens_details": {"text_tokens": 12, "image_tokens": 0},
            },
        },
        {
            "provider": "openai",
            "operation": "generate_content",
            "request_model": "gpt-image-1",
            "output_type": "image",
            "parameters": {"choice.count": 2},
            "input_tokens": 12,
            "output_tokens": 4160,
            "input_text_tokens": 12,
            "output_messages": f"[{BLOB}]",
        },
    ),
    "image of OpenAI, streamed": (
        "/v1/images/generations",
        "api.openai.com",
        {"model": "gpt-image-1", "prompt": "Who?", "stream": True, "partial_images": 1},
        sse(
            {"type": "image_generation.partial_image", "b64_json": "AAAA", "partial_image_index": 0},
            {"type": "image_generation.completed", "b64_json": "AAAA", "usage": IMAGE_USAGE},
        ),
        {"streamed": True, "input_tokens": 50, "output_tokens": 4160, "input_image_tokens": 40},
    ),
    "edited image of OpenAI": (
        "/v1/images/edits",
        "api.openai.com",
        {"model": "gpt-image-1", "prompt": "Who?"},
        {"created": 1, "data": [{"b64_json": "AAAA"}], "usage": IMAGE_USAGE},
        {"operation": "generate_content", "output_type": "image", "input_tokens": 50, "input_text_tokens": 10},
    ),
    "speech of OpenAI, streamed as events": (
        "/v1/audio/speech",
        "api.openai.com",
        {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Who?", "stream_format": "sse"},
        sse(
            {"type": "speech.audio.delta", "audio": "AAAA"},
            {"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}},
        ),
        {
            "provider": "openai",
            "operation": "generate_content",
            "output_type": "speech",
            "input_tokens": 14,
            "output_tokens": 101,
            "input_characters": 4,
        },
    ),
    "transcription of OpenAI": (
        "/v1/audio/transcriptions",
        "api.openai.com",
        {"model": "gpt-4o-transcribe", "prompt": "Who?", "response_format": "json"},
        {"text": "Ada.", "usage": SPOKEN_USAGE},
        {
            "provider": "openai",
            "operation": "generate_content",
            "request_model": "gpt-4o-transcribe",
            "output_type": "text",
            "input_tokens": 14,
            "output_tokens": 45,
            "input_text_tokens": 4,
            "input_audio_tokens": 10,
            "audio_seconds": None,
        },
    ),
    "transcription of OpenAI, streamed": (
        "/v1/audio/transcriptions",
        "api.openai.com",
        {"model": "gpt-4o-transcribe", "prompt": "Who?", "stream": True},
        sse(
            {"type": "transcript.text.delta", "delta": "A"},
            {"type": "transcript.text.delta", "delta": "da."},
            {"type": "transcript.text.done", "text": "Ada.", "usage": SPOKEN_USAGE},
        ),
        {"streamed": True, "input_tokens": 14, "output_tokens": 45, "input_audio_tokens": 10},
    ),
    "transcription that is billed by the second": (
        "/v1/audio/translations",
        "api.openai.com",
        {"model": "whisper-1", "prompt": "Who?"},
        {"text": "Ada.", "duration": 59.7, "usage": {"type": "duration", "seconds": 60}},
        {"request_model": "whisper-1", "input_tokens": None, "audio_seconds": 60.0},
    ),
    "prediction of Replicate": (
        "/v1/models/meta/llama-4/predictions",
        "api.replicate.com",
        {"input": {"prompt": "Who?"}, "stream": True},
        {
            "id": "p-1",
            "model": "meta/llama-4",
            "status": "succeeded",
            "output": ["A", "da."],
            "error": None,
            "metrics": {"predict_time": 1.5, "input_token_count": 7, "output_token_count": 4},
        },
        {
            "provider": "replicate",
            "operation": "generate_content",
            "request_model": "meta/llama-4",
            "response_model": "meta/llama-4",
            "response_id": "p-1",
            "finish_reasons": ("succeeded",),
            "streamed": False,
            "input_tokens": 7,
            "output_tokens": 4,
            "compute_seconds": 1.5,
        },
    ),
    "prediction of a version at Replicate": (
        "/v1/predictions",
        "api.replicate.com",
        {"version": "5c7d", "input": {"prompt": "Who?"}},
        {"id": "p-1", "status": "succeeded", "output": "Ada.", "metrics": {"predict_time": 0.5}},
        {"request_model": None, "input_tokens": None, "compute_seconds": 0.5},
    ),
    "embeddings of Vertex AI": (
        f"{VERTEX}/google/models/text-embedding-005:predict",
        VERTEX_HOST,
        {"instances": [{"content": "Who?"}], "parameters": {"outputDimensionality": 64}},
        {
            "predictions": [
                {"embeddings": {"values": [0.5], "statistics": {"token_count": 3, "truncated": False}}},
                {"embeddings": {"values": [0.5], "statistics": {"token_count": 4}}},
            ]
        },
        {
            "provider": "gcp.vertex_ai",
            "operation": "embeddings",
            "request_model": "text-embedding-005",
            "dimensions": 64,
            "input_tokens": 7,
            "output_tokens": None,
        },
    ),
    "Gemini interaction": (
        "/v1beta/interactions",
        "generativelanguage.googleapis.com",
        {"model": "gemini-3-flash", "input": "Who?", "generation_config": {"temperature": 0.5}},
        {
            "id": "i-1",
            "model": "gemini-3-flash",
            "status": "completed",
            "steps": [{"type": "model_output", "content": [{"type": "text", "text": "Ada."}]}],
            "usage": {**INTERACTION_USAGE, "total_cached_tokens": 1, "total_tool_use_tokens": 2, "total_tokens": 12},
        },
        {
            "provider": "gcp.gemini",
            "request_model": "gemini-3-flash",
            "response_id": "i-1",
            "parameters": {"temperature": 0.5},
            "finish_reasons": ("completed",),
            "input_tokens": 7,
            "output_tokens": 5,
            "reasoning_tokens": 2,
            "cache_read_tokens": 1,
        },
    ),
    "Gemini interaction whose answer includes the thoughts": (
        "/v1beta/interactions",
        "generativelanguage.googleapis.com",
        {"agent": "deep-research", "input": [{"role": "user", "content": "Who?"}]},
        {
            "outputs": [{"type": "thought", "summary": []}, {"type": "text", "text": "Ada."}],
            "usage": {**INTERACTION_USAGE, "total_tokens": 8},
        },
        {"request_model": None, "input_tokens": 5, "output_tokens": 3, "reasoning_tokens": 2},
    ),
    "Gemini interaction, streamed": (
        "/v1beta/interactions",
        "generativelanguage.googleapis.com",
        {"model": "gemini-3-flash", "input": [{"type": "text", "text": "Who?"}], "stream": True},
        sse(
            {"event_type": "interaction.created", "interaction": {"id": "i-1", "status": "in_progress"}},
            {"event_type": "step.delta", "index": 0, "delta": {"type": "thought_summary", "content": {"text": "?"}}},
            {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "A"}},
            {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "da."}},
            {
                "event_type": "interaction.completed",
                "interaction": {"id": "i-1", "status": "completed", "usage": INTERACTION_USAGE},
            },
        ),
        {"response_id": "i-1", "streamed": True, "input_tokens": 5, "output_tokens": 5},
    ),
    "Mistral agent": (
        "/v1/agents/completions",
        "api.mistral.ai",
        {"agent_id": "ag:1", "messages": ASKED, "random_seed": 3},
        {
            "id": "c-1",
            "model": "mistral-large",
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "Ada."}}],
            "usage": USAGE,
        },
        {
            "provider": "mistral_ai",
            "request_model": None,
            "response_model": "mistral-large",
            "parameters": {"seed": 3},
            "finish_reasons": ("stop",),
            "input_tokens": 7,
            "output_tokens": 4,
        },
    ),
    "Mistral conversation": (
        "/v1/conversations",
        "api.mistral.ai",
        {"model": "mistral-large", "inputs": "Who?", "completion_args": {"max_tokens": 5, "stop": ["x"]}},
        {
            "conversation_id": "conv_1",
            "outputs": [{"type": "message.output", "role": "assistant", "model": "mistral-l", "content": "Ada."}],
            "usage": USAGE,
        },
        {
            "provider": "mistral_ai",
            "request_model": "mistral-large",
            "response_model": "mistral-l",
            "parameters": {"max_tokens": 5, "stop_sequences": ("x",)},
            "input_tokens": 7,
            "output_tokens": 4,
        },
    ),
    "Mistral conversation that goes on, streamed": (
        "/v1/conversations/conv_1",
        "api.mistral.ai",
        {"inputs": [{"type": "message.input", "role": "user", "content": "Who?"}], "stream": True},
        sse(
            {"type": "conversation.response.started", "conversation_id": "conv_1"},
            {"type": "message.output.delta", "output_index": 0, "model": "mistral-l", "content": "A"},
            {"type": "message.output.delta", "output_index": 0, "content": {"type": "text", "text": "da."}},
            {"type": "conversation.response.done", "usage": USAGE},
        ),
        {"response_model": "mistral-l", "streamed": True, "input_tokens": 7, "output_tokens": 4},
    ),
    "Groq, streamed": (
        "/openai/v1/chat/completions",
        "api.groq.com",
        {"model": "llama", "messages": ASKED, "stream": True},
        sse(
            {"id": "c-1", "model": "llama", "choices": [{"delta": {"content": "Ada."}}], "x_groq": {"id": "r-1"}},
            {"id": "c-1", "choices": [{"delta": {}, "finish_reason": "stop"}], "x_groq": {"id": "r-1", "usage": USAGE}},
        ),
        {"provider": "groq", "finish_reasons": ("stop",), "input_tokens": 7, "output_tokens": 4},
    ),
    "xAI, which counts reasoning beside the output": (
        "/v1/chat/completions",
        "api.x.ai",
        {"model": "grok-4", "messages": ASKED},
        {
            "id": "c-1",
            "model": "grok-4",
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "Ada."}}],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 4,
                "total_tokens": 31,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        },
        {"provider": "x_ai", "input_tokens": 7, "output_tokens": 24, "reasoning_tokens": 20},
    ),
    "OpenAI, which counts reasoning within the output": (
        "/v1/chat/completions",
        "api.openai.com",
        {"model": "o4-mini", "messages": ASKED},
        {
            "id": "c-1",
            "model": "o4-mini",
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "Ada."}}],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 24,
                "total_tokens": 31,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        },
        {"input_tokens": 7, "output_tokens": 24, "reasoning_tokens": 20},
    ),
    "Cohere embeddings": (
        "/v2/embed",
        "api.cohere.com",
        {"model": "embed-v4.0", "texts": ["Who?"]},
        {"id": "e-1", "embeddings": {"float": [[0.5]]}, "meta": {"billed_units": {"input_tokens": 3}}},
        {"provider": "cohere", "operation": "embeddings", "response_id": "e-1", "input_tokens": 3},
    ),
    "Cohere rerank": (
        "/v2/rerank",
        "api.cohere.com",
        {"model": "rerank-v3.5", "query": "Who?", "documents": ["Ada."]},
        {"id": "r-1", "results": [{"index": 0}], "meta": {"billed_units": {"search_units": 1}}},
        {"operation": "rerank", "request_model": "rerank-v3.5", "response_id": "r-1", "input_tokens": None},
    ),
    "rerank that counts tokens": (
        "/v1/rerank",
        "gateway.internal",
        {"model": "m", "query": "Who?", "documents": ["Ada."]},
        {"model": "m", "results": [{"index": 0}], "usage": {"total_tokens": 12}},
        {"operation": "rerank", "response_model": "m", "input_tokens": 12},
    ),
    "Cohere's billed tokens": (
        "/v2/chat",
        "api.cohere.com",
        {"model": "command", "messages": ASKED},
        {
            "id": "co-1",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "Ada."}]},
            "usage": {
                "tokens": {"input_tokens": 70, "output_tokens": 40},
                "billed_units": {"input_tokens": 7, "output_tokens": 4},
            },
        },
        {"input_tokens": 7, "output_tokens": 4},
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_request_and_reply_of_an_endpoint(case: str) -> None:
    """Model, tokens and messages are read under the names of the GenAI conventions."""
    path, host, request, reply, expected = CALLS[case]
    parser, result = find_parser(path), CallResult()
    assert parser is not None
    body = json.dumps(request).encode()
    members = parse_object(body)
    assert members is not None
    assert parser.parse_request(body, result, path=path, host=host, members=members.raw, capture=True)
    if isinstance(reply, bytes):
        stated = parser.parse_stream(b"", reply, result, capture=True)
    else:
        stated = parser.parse_response(json.dumps(reply).encode(), result, capture=True)
    assert stated is not None
    assert {name: getattr(result, name) for name in expected} == expected
    assert json.loads(result.input_messages or "") == SAID
    if result.output_type == "image" and "OpenAI" in case:
        (message,) = json.loads(result.output_messages or "")
        # Bytes are kept only for a destination that uploads them.
        assert {part["type"] for part in message["parts"]} <= {"blob", "uri"}
        assert {part.get("content", "") for part in message["parts"]} == {""}
    elif result.operation in ("embeddings", "rerank") or result.output_type in ("image", "speech"):
        assert result.output_messages is None
    else:
        (message,) = json.loads(result.output_messages or "")
        assert message["role"] == "assistant"
        assert message["parts"] == [{"type": "text", "content": "Ada."}]


@pytest.mark.parametrize("case", CALLS)
def test_no_beginning_of_a_reply_raises(case: str) -> None:
    """A reply may be cut anywhere, with and without its messages captured."""
    path, _, request, reply, _ = CALLS[case]
    parser, text = find_parser(path), reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    assert parser is not None
    asked = json.dumps(request).encode()
    for cut in range(0, len(text), 7):
        for capture in (False, True):
            parser.parse_request(asked[:cut], CallResult(), path=path, host="h", capture=capture)
            parser.parse_response(text[:cut], CallResult(), capture=capture)
            parser.parse_stream(text[: cut // 2], text[cut:], CallResult(), capture=capture)


@pytest.mark.parametrize(
    "path",
    [
        f"{VERTEX}/anthropic/models/count-tokens:rawPredict",
        f"{VERTEX}/mistralai/models/mistral-small:rawPredict",
        f"{VERTEX}/google/models/imagen-4.0:predict",
        "/v1/projects/p/locations/l/endpoints/123:predict",
        "/v1/conversations/conv_1/history",
        "/v1/conversations/conv_1/items/msg_1",
        "/v1/conversations/",
        "/v1/models/predictions",
        "/v1/models/meta/llama-4/versions/5c7d/predictions",
    ],
)
def test_paths_that_end_alike_but_call_no_model_that_is_known(path: str) -> None:
    assert find_parser(path) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/conversations", {"items": [{"role": "user", "content": "Who?"}], "metadata": {}}),
        ("/v1/conversations/conv_1", {"metadata": {"topic": "x"}}),
        ("/v1beta/interactions", {"input": "Who?"}),
        ("/v1/embed", {"model": "m", "url": "https://example.com"}),
        ("/v1/rerank", {"model": "m"}),
        ("/v1/agents/completions", {"prompt": "Who?"}),
        ("/v1/predictions", {"input": {"prompt": "Who?"}}),
        ("/v1/models/meta/llama-4/predictions", {"instances": []}),
        ("/v1/audio/speech", {"text": "Who?"}),
        ("/v1/audio/transcriptions", {"file": "x"}),
        ("/v1/images/edits", {"image": "x"}),
    ],
)
def test_requests_of_other_apis_at_these_paths(path: str, body: dict[str, Any]) -> None:
    """They lack required members of a model call."""
    parser = find_parser(path)
    assert parser is not None
    assert not parser.parse_request(json.dumps(body).encode(), CallResult(), path=path, host="h")


def test_openai_conversation_is_no_call_even_at_a_gateway(provider: TracerProvider, finished: Finished) -> None:
    """Creating one stores messages only; Mistral's conversation at the same path is a call."""
    for gateway in running(provider, capture_content=False):
        gateway.answer(b'{"id": "conv_1"}')
        with httpx2.Client() as client:
            client.post(f"{gateway.base_url}/conversations", json={"items": []})
            assert not finished()
            client.post(f"{gateway.base_url}/conversations", json={"inputs": "Who?", "model": "m"})
    assert len(finished()) == 1


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("aiplatform.eu.rep.googleapis.com", "gcp.vertex_ai"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("my.openai.azure.com", "azure.ai.openai"),
        ("api.openai.com", "openai"),
        ("api.moonshot.ai", "moonshot_ai"),
        ("us-south.ml.cloud.ibm.com", "ibm.watsonx.ai"),
        ("models.inference.ai.azure.com", "azure.ai.inference"),
        ("inference.generativeai.us-chicago-1.oci.oraclecloud.com", "oracle_cloud.generative_ai"),
        ("evilopenai.com", "gcp.gemini"),
    ],
)
def test_provider_of_a_host(host: str, provider: str) -> None:
    assert PARSERS[":generateContent"].provider_for(host) == provider


@pytest.mark.parametrize(
    ("cost", "stated"),
    [
        (0.5, 0.5),
        (0, 0.0),
        ({"total_cost": 0.006, "input_tokens_cost": 0.001}, 0.006),
        ({"input_tokens_cost": 0.001}, None),
        ("0.5", None),
        (True, None),
        (-1, None),
        (1e9, None),
        (None, None),
        ([], None),
    ],
)
def test_cost_that_a_provider_states(cost: object, stated: float | None) -> None:
    """A sensible number is taken, also over an estimate of a stream's beginning."""
    result = CallResult(cost=0.1, cost_source="estimate", cost_details={"input": 0.1})
    apply_stated_cost({"usage": {"prompt_tokens": 3, "cost": cost}}, result)
    if stated is None:
        assert (result.cost, result.cost_source, result.cost_details) == (0.1, "estimate", {"input": 0.1})
    else:
        assert (result.cost, result.cost_source, result.cost_details) == (stated, "response", {})


@pytest.mark.parametrize(
    ("ticks", "stated"), [(37756000, 0.0037756), (0, 0.0), (-1, None), (1.5, None), (10**15, None)]
)
def test_cost_in_the_unit_of_xai(ticks: object, stated: float | None) -> None:
    """Ten billion ticks are one USD. More than 10,000 USD are taken for an error."""
    result = CallResult()
    apply_stated_cost({"usage": {"prompt_tokens": 3, "cost_in_usd_ticks": ticks}}, result)
    assert (result.cost, result.cost_source) == (stated, None if stated is None else "response")


@pytest.mark.parametrize("streamed", [False, True])
def test_stated_cost_of_a_provider_that_is_no_gateway(
    streamed: bool, provider: TracerProvider, finished: Finished
) -> None:
    """The span says that the reply stated the cost."""
    reply = {"id": "c-1", "model": "m", "choices": [], "usage": {**USAGE, "cost": 0.25}}
    body = sse(reply) if streamed else json.dumps(reply).encode()
    http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    try:
        with Gateway() as plain, httpx2.Client() as client:
            plain.answer(body, headers={"content-type": "text/event-stream" if streamed else "application/json"})
            request = {"model": "m", "messages": ASKED, "stream": streamed}
            assert client.post(f"{plain.base_url}/chat/completions", json=request).content == body
    finally:
        http.uninstall()
    (span,) = finished()
    assert (span.attributes or {})["gen_ai.usage.cost"] == 0.25
    assert (span.attributes or {})["byline.cost.source"] == "response"


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        (
            "/model/amazon.nova-pro-v1:0/converse",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "toolResult": {
                                    "toolUseId": "t-1",
                                    "content": [
                                        {"text": "Seen."},
                                        {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
                                    ],
                                }
                            }
                        ],
                    }
                ]
            },
        ),
        (
            "/v1beta/interactions",
            {
                "model": "gemini-x",
                "input": [
                    {
                        "type": "function_result",
                        "call_id": "t-1",
                        "result": [
                            {"text": "Seen."},
                            {"type": "image", "mime_type": "image/png", "data": "AAAA"},
                        ],
                    }
                ],
            },
        ),
    ],
    ids=["bedrock", "interactions"],
)
def test_an_image_in_the_result_of_a_tool_is_a_part_of_the_result(path: str, request_: Any) -> None:
    parser, result = find_parser(path), CallResult()
    assert parser is not None
    assert parser.parse_request(json.dumps(request_).encode(), result, path=path, host="", capture=True)
    (message,) = json.loads(result.input_messages or "")
    image = {"type": "blob", "modality": "image", "content": "", "size": 3, "mime_type": "image/png"}
    assert message["parts"] == [{"type": "tool_call_response", "id": "t-1", "response": [{"text": "Seen."}, image]}]
