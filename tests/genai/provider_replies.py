"""One exchange with each provider's API for each thing that apps ask of a model, as the provider answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

#: The attributes on byline's spans of each provider, and on those of OpenTelemetry's own instrumentation, as the
#: results that open-telemetry/semantic-conventions-conformance publishes list them (2026-08-20).
PROVIDER_ATTRIBUTES = Path(__file__).parent / "provider_attributes.json"


class Exchange(NamedTuple):
    """A request and its response.

    Attributes:
        url: Where the request goes.
        request: Its JSON body.
        reply: The response: JSON, or the bytes of a stream.
        status: The status of the response.
        provider: The expected ``gen_ai.provider.name``.
        expected: Further expected attributes of the span.
        streamed: Whether the response is a stream.
        whole: Whether the response ends as the API ends it.
        unsaid: Attributes that the response does not state.
    """

    url: str
    request: dict[str, Any]
    reply: Any
    provider: str
    expected: dict[str, Any] = {}  # noqa: RUF012 - never changed
    status: int = 200
    streamed: bool = False
    whole: bool = True
    unsaid: tuple[str, ...] = ()


def sse(*events: dict[str, Any], done: bool = True) -> bytes:
    """Return a stream of server-sent events."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n" * done


OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com/v1/messages"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash"
COHERE = "https://api.cohere.com"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/model"
ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who wrote this?"}]
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
TOOL_CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
#: Responses with pictures, speech or a transcript have no id, model or finish reason.
MEDIA_UNSAID = ("gen_ai.response.id", "gen_ai.response.model", "gen_ai.response.finish_reasons")
IMAGE = "data:image/png;base64,iVBORw0KGgo="

CHAT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": ASKED,
    "max_tokens": 9,
    "temperature": 0,
    "top_p": 1,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "seed": 7,
    "stop": ["END"],
    "n": 2,
}
USAGE: dict[str, Any] = {
    "prompt_tokens": 12,
    "completion_tokens": 8,
    "total_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 4, "text_tokens": 9, "image_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2, "text_tokens": 8, "audio_tokens": 0},
}
MODALITIES = {
    "gen_ai.usage.text.input_tokens": 9,
    "gen_ai.usage.image.input_tokens": 3,
    "gen_ai.usage.text.output_tokens": 8,
}


def completion(message: Any = None, **more: Any) -> dict[str, Any]:
    """Return a chat completion."""
    choice = {"index": 0, "finish_reason": "stop", "message": message or {"role": "assistant", "content": "Ada did."}}
    return {"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": [choice], "usage": USAGE, **more}


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a chunk of a streamed chat completion."""
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": choices, **more}


RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "model": "gpt-4o-mini-2024-07-18",
    "status": "completed",
    "service_tier": "default",
    "output": [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": '{"who": "Ada"}'}]},
        {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"},
    ],
    "usage": {
        "input_tokens": 12,
        "output_tokens": 8,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [
        {"type": "text", "text": "Ada did."},
        {"type": "tool_use", "id": "t_1", "name": "look_up", "input": {}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 7,
        "output_tokens": 8,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
    },
}
CLAUDE: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 9,
    "temperature": 1,
    "top_p": 0.5,
    "top_k": 5,
    "stop_sequences": ["END"],
    "system": "Be brief.",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [{"name": "look_up", "input_schema": {"type": "object"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Who wrote this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            ],
        }
    ],
}
GENERATED: dict[str, Any] = {
    "responseId": "g-1",
    "modelVersion": "gemini-2.5-flash",
    "candidates": [{"content": {"role": "model", "parts": [{"text": '{"who": "Ada"}'}]}, "finishReason": "STOP"}],
    "usageMetadata": {
        "promptTokenCount": 12,
        "candidatesTokenCount": 6,
        "thoughtsTokenCount": 2,
        "cachedContentTokenCount": 4,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 9}, {"modality": "IMAGE", "tokenCount": 3}],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 6}],
    },
}
GENERATE: dict[str, Any] = {
    "contents": [
        {"role": "user", "parts": [{"text": "Who?"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]}
    ],
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "tools": [{"functionDeclarations": [{"name": "look_up"}]}],
    "generationConfig": {
        "maxOutputTokens": 9,
        "temperature": 0,
        "topP": 0.5,
        "topK": 5,
        "seed": 7,
        "stopSequences": ["END"],
        "frequencyPenalty": 0.5,
        "presencePenalty": 0.5,
        "responseMimeType": "application/json",
        "thinkingConfig": {"thinkingLevel": "low"},
    },
}
ERROR: dict[str, Any] = {"error": {"message": "Slow down.", "type": "rate_limit_error"}}
NO_ID = ("gen_ai.response.id", "gen_ai.response.model")

SCENARIOS: dict[str, Exchange] = {
    "OpenAI, inference": Exchange(
        f"{OPENAI}/chat/completions",
        {**CHAT, "service_tier": "flex"},
        completion(service_tier="flex", system_fingerprint="fp_1"),
        "openai",
        {
            "openai.api.type": "chat_completions",
            "openai.request.service_tier": "flex",
            "openai.response.service_tier": "flex",
            "openai.response.system_fingerprint": "fp_1",
            "gen_ai.request.choice.count": 2,
            "gen_ai.output.type": None,
            **MODALITIES,
        },
    ),
    "OpenAI, streaming": Exchange(
        f"{OPENAI}/chat/completions",
        {**CHAT, "stream": True, "n": 1, "service_tier": "auto"},
        sse(
            chunk({"role": "assistant", "content": "Ada"}),
            chunk({}, "stop"),
            {**chunk({}), "choices": [], "usage": USAGE},
        ),
        "openai",
        {"gen_ai.request.choice.count": None, "openai.request.service_tier": None},
        streamed=True,
    ),
    "OpenAI, a stream that is cut": Exchange(
        f"{OPENAI}/chat/completions",
        {**CHAT, "stream": True},
        sse(chunk({"role": "assistant", "content": "Ada"}), done=False),
        "openai",
        {"gen_ai.response.finish_reasons": ("error",), "error.type": "ReadError"},
        streamed=True,
        whole=False,
    ),
    "OpenAI, tool calling": Exchange(
        f"{OPENAI}/chat/completions",
        {
            **CHAT,
            "tools": [TOOL],
            "messages": [
                *ASKED,
                {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "Ada did."},
            ],
        },
        completion({"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}),
        "openai",
    ),
    "OpenAI, multimodal": Exchange(
        f"{OPENAI}/chat/completions",
        {
            **CHAT,
            "modalities": ["text", "audio"],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Who?"},
                        {"type": "image_url", "image_url": {"url": IMAGE}},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                        {"type": "file", "file": {"file_id": "file-1"}},
                        {"type": "something_new", "value": 1},
                    ],
                }
            ],
        },
        completion({"role": "assistant", "content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "Ada."}}),
        "openai",
        {
            "gen_ai.output.type": "speech",
            "gen_ai.output.messages": (
                '[{"role":"assistant","parts":[{"type":"blob","modality":"audio","content":"","size":3,'
                '"transcript":"Ada."}],"finish_reason":"stop"}]'
            ),
        },
    ),
    "OpenAI, structured output": Exchange(
        f"{OPENAI}/chat/completions",
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {}}}},
        completion(),
        "openai",
        {"gen_ai.output.type": "json"},
    ),
    "OpenAI, Responses": Exchange(
        f"{OPENAI}/responses",
        {
            "model": "gpt-4o-mini",
            "input": "Who wrote this?",
            "instructions": "Be brief.",
            "text": {"format": {"type": "json_object"}},
            "reasoning": {"effort": "low"},
            "previous_response_id": "resp_0",
            "tools": [{"type": "function", "name": "look_up", "parameters": {}}],
        },
        RESPONSE,
        "openai",
        {
            "openai.api.type": "responses",
            "openai.response.service_tier": "default",
            "gen_ai.output.type": "json",
            "gen_ai.request.reasoning.level": "low",
        },
    ),
    "OpenAI, Responses, streamed": Exchange(
        f"{OPENAI}/responses",
        {"model": "gpt-4o-mini", "input": "Who?", "stream": True},
        sse({"type": "response.completed", "response": RESPONSE}, done=False),
        "openai",
        streamed=True,
    ),
    "OpenAI, embeddings": Exchange(
        f"{OPENAI}/embeddings",
        {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"},
        {
            "model": "text-embedding-3-small",
            "data": [{"embedding": "AACAPwAAAEAAAEBA", "index": 0}],
            "usage": {"prompt_tokens": 2, "total_tokens": 2},
        },
        "openai",
        {"gen_ai.embeddings.dimension.count": 3, "gen_ai.request.encoding_formats": ("base64",)},
    ),
    "OpenAI, an image, streamed": Exchange(
        f"{OPENAI}/images/generations",
        {"model": "gpt-image-1", "prompt": "A book", "stream": True, "partial_images": 1},
        sse(
            {"type": "image_generation.partial_image", "b64_json": "AAAA"},
            {
                "type": "image_generation.completed",
                "b64_json": "AAAA",
                "usage": {
                    "input_tokens": 50,
                    "output_tokens": 4160,
                    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                },
            },
            done=False,
        ),
        "openai",
        {"gen_ai.operation.name": "generate_content", "gen_ai.output.type": "image"},
        streamed=True,
        unsaid=MEDIA_UNSAID,
    ),
    "OpenAI, speech": Exchange(
        f"{OPENAI}/audio/speech",
        {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Ada did.", "stream_format": "sse"},
        sse({"type": "speech.audio.done", "usage": {"input_tokens": 3, "output_tokens": 50}}, done=False),
        "openai",
        {"gen_ai.operation.name": "generate_content", "gen_ai.output.type": "speech"},
        streamed=True,
        unsaid=MEDIA_UNSAID,
    ),
    "OpenAI, a transcription": Exchange(
        f"{OPENAI}/audio/transcriptions",
        {"model": "gpt-4o-transcribe", "prompt": "Ada"},
        {
            "text": "Ada did.",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "output_tokens": 4,
                "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
            },
        },
        "openai",
        {"gen_ai.output.type": "text", "gen_ai.usage.audio.input_tokens": 10},
        unsaid=MEDIA_UNSAID,
    ),
    "Replicate": Exchange(
        "https://api.replicate.com/v1/models/meta/llama-4/predictions",
        {"input": {"prompt": "Who?", "system_prompt": "Be brief."}},
        {
            "id": "p-1",
            "model": "meta/llama-4",
            "status": "succeeded",
            "output": ["Ada", " did."],
            "metrics": {"predict_time": 0.5, "input_token_count": 3, "output_token_count": 4},
        },
        "replicate",
        {"gen_ai.response.finish_reasons": ("succeeded",)},
    ),
    "xAI": Exchange(
        "https://api.x.ai/v1/chat/completions",
        {"model": "grok-4", "messages": ASKED},
        {
            "id": "c-1",
            "model": "grok-4",
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "Ada did."}}],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 4,
                "total_tokens": 31,
                "completion_tokens_details": {"reasoning_tokens": 20},
                "cost_in_usd_ticks": 37756000,
            },
        },
        "x_ai",
        {"gen_ai.usage.output_tokens": 24, "gen_ai.usage.cost": 0.0037756},
    ),
    "OpenAI, an error": Exchange(f"{OPENAI}/chat/completions", CHAT, ERROR, "openai", status=429),
    "Anthropic, inference with an image, thinking and a tool": Exchange(
        ANTHROPIC,
        CLAUDE,
        MESSAGE,
        "anthropic",
        {
            "gen_ai.usage.input_tokens": 12,
            "gen_ai.request.reasoning.level": "enabled",
            "gen_ai.usage.cache_read.input_tokens": 3,
        },
    ),
    "Anthropic, streaming": Exchange(
        ANTHROPIC,
        {**CLAUDE, "stream": True, "output_config": {"effort": "low"}},
        sse(
            {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Ada."}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}},
            done=False,
        ),
        "anthropic",
        {"gen_ai.request.reasoning.level": "low"},
        streamed=True,
    ),
    "Anthropic, a stream that is cut": Exchange(
        ANTHROPIC,
        {**CLAUDE, "stream": True},
        sse(
            {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Ada"}},
            done=False,
        ),
        "anthropic",
        {"gen_ai.response.finish_reasons": ("error",), "error.type": "ReadError"},
        streamed=True,
        whole=False,
    ),
    "Gemini, structured output with an image": Exchange(
        f"{GEMINI}:generateContent",
        GENERATE,
        GENERATED,
        "gcp.gemini",
        {
            "gen_ai.output.type": "json",
            "gen_ai.request.top_k": 5,
            "gen_ai.request.reasoning.level": "low",
            "gen_ai.usage.text.output_tokens": 6,
            **{name: number for name, number in MODALITIES.items() if ".input" in name},
        },
    ),
    "Gemini, streaming": Exchange(
        f"{GEMINI}:streamGenerateContent?alt=sse", GENERATE, sse(GENERATED, done=False), "gcp.gemini", streamed=True
    ),
    "Gemini, an image": Exchange(
        f"{GEMINI}:generateContent",
        {**GENERATE, "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}},
        GENERATED,
        "gcp.gemini",
        {"gen_ai.output.type": "image"},
    ),
    "Gemini, embeddings": Exchange(
        f"{GEMINI}:embedContent",
        {"content": {"parts": [{"text": "a"}]}},
        {"embedding": {"values": [0.5, -1, 2e-3]}, "usageMetadata": {"promptTokenCount": 8}},
        "gcp.gemini",
        {"gen_ai.embeddings.dimension.count": 3, "gen_ai.usage.input_tokens": 8},
    ),
    "Bedrock, Converse": Exchange(
        f"{BEDROCK}/amazon.nova-lite-v1%3A0/converse",
        {
            "messages": [{"role": "user", "content": [{"text": "Who?"}, {"image": {"format": "png", "source": {}}}]}],
            "system": [{"text": "Be brief."}],
            "inferenceConfig": {"maxTokens": 9, "temperature": 0, "topP": 0.5, "stopSequences": ["END"]},
            "toolConfig": {"tools": [{"toolSpec": {"name": "look_up", "inputSchema": {"json": {}}}}]},
        },
        {
            "output": {"message": {"role": "assistant", "content": [{"text": "Ada did."}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 12, "outputTokens": 8},
        },
        "aws.bedrock",
        unsaid=NO_ID,
    ),
    "Bedrock, Claude": Exchange(
        f"{BEDROCK}/anthropic.claude-sonnet-4/invoke",
        {**CLAUDE, "anthropic_version": "bedrock-2023-05-31"},
        MESSAGE,
        "aws.bedrock",
    ),
    "Cohere, chat": Exchange(
        f"{COHERE}/v2/chat",
        {"model": "command-a-03-2025", "messages": ASKED, "k": 5, "response_format": {"type": "json_object"}},
        {
            "id": "c-1",
            "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": "Ada did."}]},
            "usage": {
                "billed_units": {"input_tokens": 5, "output_tokens": 8},
                "tokens": {"input_tokens": 71, "output_tokens": 10},
            },
        },
        "cohere",
        # Billed tokens count, not those of the prompt that Cohere makes of the messages.
        {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 8, "gen_ai.output.type": "json"},
        unsaid=("gen_ai.response.model",),
    ),
    "Cohere, embeddings": Exchange(
        f"{COHERE}/v2/embed",
        {"model": "embed-v4.0", "texts": ["a"], "input_type": "search_query", "embedding_types": ["float"]},
        {"id": "c-2", "embeddings": {"float": [[0.5, 1]]}, "meta": {"billed_units": {"input_tokens": 3}}},
        "cohere",
        {
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.embeddings.dimension.count": 2,
            "gen_ai.request.encoding_formats": ("float",),
        },
    ),
    "Cohere, rerank": Exchange(
        f"{COHERE}/v2/rerank",
        {"model": "rerank-v3.5", "query": "Who?", "documents": ["Ada did."]},
        {"id": "c-3", "results": [], "meta": {"billed_units": {"search_units": 1}}},
        "cohere",
    ),
    "Mistral, agents": Exchange(
        "https://api.mistral.ai/v1/agents/completions",
        {"agent_id": "ag:1", "messages": ASKED},
        completion(),
        "mistral_ai",
        unsaid=("gen_ai.request.model",),
    ),
    "Ollama": Exchange(
        "http://localhost:11434/api/chat",
        {"model": "llama3", "messages": ASKED, "stream": False, "format": {"type": "object"}, "think": "low"},
        {
            "model": "llama3",
            "message": {"role": "assistant", "content": "Ada."},
            "done_reason": "stop",
            "prompt_eval_count": 12,
            "eval_count": 8,
        },
        "ollama",
        {"gen_ai.output.type": "json", "gen_ai.request.reasoning.level": "low"},
        unsaid=("gen_ai.response.id",),
    ),
}
#: Hosts that speak OpenAI's API → the provider's name.
HOSTS = {
    "api.openai.com": "openai",
    "acme.openai.azure.com": "azure.ai.openai",
    "acme.inference.ai.azure.com": "azure.ai.inference",
    "us-south.ml.cloud.ibm.com": "ibm.watsonx.ai",
    "inference.generativeai.us-chicago-1.oci.oraclecloud.com": "oracle_cloud.generative_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.together.xyz": "together",
    # A gateway is named by its own name, any other host by that of the host.
    "openrouter.ai": "openrouter",
    "llm.example.com": "llm.example.com",
}
