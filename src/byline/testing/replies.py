"""What the testing gateway answers: the reply shapes of OpenRouter, OpenAI, Anthropic and Gemini."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

_numbers = itertools.count(1)
_PRICE_IN: Final = 2.5e-6
_PRICE_OUT: Final = 1e-5

#: A streamed or a whole reply: its chunks, and its JSON body.
Chunks = Iterator[bytes]


def count_tokens(value: Any) -> int:
    """Return a plausible number of tokens: four characters each."""
    return max(1, len(value if isinstance(value, str) else json.dumps(value)) // 4)


def new_id(prefix: str) -> str:
    """Return an id that no other reply of this process has."""
    return f"{prefix}-{next(_numbers):08d}"


def answer_text(body: dict[str, Any]) -> str:
    """Return what the model says."""
    turns = body.get("messages") or body.get("input") or body.get("contents") or body.get("prompt") or ""
    return f"This is the answer to {len(turns) if isinstance(turns, list) else 1} message(s)."


def usage(body: dict[str, Any], text: str) -> dict[str, Any]:
    """Return OpenRouter's usage of a chat: tokens, their details and the cost in USD."""
    prompt = count_tokens(body.get("messages") or body.get("prompt") or body.get("input") or "")
    completion = count_tokens(text)
    spent = {"in": prompt * _PRICE_IN, "out": completion * _PRICE_OUT}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cost": round(spent["in"] + spent["out"], 9),
        "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "cost_details": {
            "upstream_inference_cost": None,
            "upstream_inference_prompt_cost": spent["in"],
            "upstream_inference_completions_cost": spent["out"],
        },
    }


def chat(body: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return a whole chat completion."""
    text = answer_text(body)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    reason = "stop"
    tools = body.get("tools")
    if tools:
        name = tools[0].get("function", {}).get("name", "tool")
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls"
    return {
        "id": identifier,
        "object": "chat.completion",
        "created": 1764000000,
        "model": body.get("model", "openai/gpt-4o"),
        "provider": "OpenAI",
        "choices": [{"index": 0, "finish_reason": reason, "native_finish_reason": reason, "message": message}],
        "usage": usage(body, text),
    }


def chat_stream(body: dict[str, Any], identifier: str) -> Chunks:
    """Yield a chat completion as OpenRouter streams it: a comment first, usage and cost last."""
    whole = chat(body, identifier)
    head = {**{key: whole[key] for key in ("id", "created", "model", "provider")}, "object": "chat.completion.chunk"}
    yield b": OPENROUTER PROCESSING\n\n"
    for word in (whole["choices"][0]["message"]["content"] or "").split(" "):
        delta = {"role": "assistant", "content": word + " "}
        yield _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    end: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": whole["choices"][0]["finish_reason"]}
    yield _data({**head, "choices": [end]})
    yield _data({**head, "choices": [], "usage": whole["usage"]})
    yield b"data: [DONE]\n\n"


def completion(body: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return a whole text completion."""
    text = answer_text(body)
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
    return {
        "id": identifier,
        "object": "text_completion",
        "created": 1764000000,
        "model": body.get("model"),
        "choices": [choice],
        "usage": usage(body, text),
    }


def embeddings(body: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return embeddings of three dimensions."""
    inputs = body.get("input") or []
    count = len(inputs) if isinstance(inputs, list) else 1
    tokens = count_tokens(inputs)
    return {
        "id": identifier,
        "object": "list",
        "model": body.get("model"),
        "data": [{"object": "embedding", "index": index, "embedding": [0.1, 0.2, 0.3]} for index in range(count)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "cost": tokens * 2e-8},
    }


def response(body: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return a whole reply of the Responses API."""
    text = answer_text(body)
    spent = usage(body, text)
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": identifier,
        "object": "response",
        "created_at": 1764000000,
        "status": "completed",
        "model": body.get("model"),
        "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {
            "input_tokens": spent["prompt_tokens"],
            "output_tokens": spent["completion_tokens"],
            "total_tokens": spent["total_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
            "cost": spent["cost"],
        },
    }


def response_stream(body: dict[str, Any], identifier: str) -> Chunks:
    """Yield the events of a streamed reply of the Responses API."""
    whole = response(body, identifier)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    text = whole["output"][0]["content"][0]["text"]
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    events += [
        {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": word}
        for word in text.split(" ")
    ]
    events.append({"type": "response.completed", "response": whole})
    for number, event in enumerate(events):
        yield f"event: {event['type']}\n".encode() + _data({**event, "sequence_number": number, "logprobs": []})


def message(body: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return a whole reply of Anthropic's Messages API."""
    text = answer_text(body)
    return {
        "id": identifier,
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": count_tokens(body.get("messages")),
            "output_tokens": count_tokens(text),
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 7,
        },
    }


def message_stream(body: dict[str, Any], identifier: str) -> Chunks:
    """Yield the events of a streamed message: usage stands in the first and in the last but one."""
    whole = message(body, identifier)
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield _event("message_start", message=begun)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    for word in whole["content"][0]["text"].split(" "):
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": word + " "})
    yield _event("content_block_stop", index=0)
    tokens = {"output_tokens": whole["usage"]["output_tokens"]}
    yield _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=tokens)
    yield _event("message_stop")


def generate(body: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return a whole reply of Gemini's generateContent."""
    text = answer_text(body)
    prompt, candidates = count_tokens(body.get("contents")), count_tokens(text)
    content = {"role": "model", "parts": [{"text": text}]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": prompt,
            "candidatesTokenCount": candidates,
            "totalTokenCount": prompt + candidates,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": identifier,
    }


def generate_stream(body: dict[str, Any], identifier: str) -> Chunks:
    """Yield the chunks of streamGenerateContent with ``alt=sse``."""
    whole = generate(body, identifier)
    words = whole["candidates"][0]["content"]["parts"][0]["text"].split(" ")
    for index, word in enumerate(words):
        content = {"role": "model", "parts": [{"text": word + " "}]}
        candidate: dict[str, Any] = {"content": content, "index": 0}
        if index == len(words) - 1:
            candidate["finishReason"] = "STOP"
        yield _data({**whole, "candidates": [candidate]})


def _data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})
