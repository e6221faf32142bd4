"""Replies of the test gateway in the shape of each API: OpenAI's, Anthropic's and Gemini's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from byline.testing.simulated_model import ModelCall, count_tokens, sse_data, sse_event

#: Seconds since the epoch, fixed so that responses are the same in every run.
_CREATED: Final = 1764000000
_PROCESSING: Final = b": OPENROUTER PROCESSING\n\n"
_DONE: Final = b"data: [DONE]\n\n"


def _usage(call: ModelCall) -> dict[str, Any]:
    """Return the ``usage`` object: tokens, token details and cost in USD."""
    prompt, answer = call.tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        **call.cost,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def openai_error(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"code": status, "message": message}}


def chat_completion(call: ModelCall) -> dict[str, Any]:
    """Return a chat completion; a tool call if the request has tools."""
    message: dict[str, Any] = {"role": "assistant", "content": call.text, "refusal": None}
    reason = "stop"
    if call.tool is not None:
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [_tool_call(call.tool)]}
        reason = "tool_calls"
    choice = {
        "index": 0,
        "finish_reason": reason,
        "native_finish_reason": reason,
        "logprobs": None,
        "message": message,
    }
    return {**_chat_head(call, "chat.completion"), "choices": [choice], "usage": _usage(call), **call.extra}


def chat_completion_stream(call: ModelCall) -> Iterator[bytes]:
    """Yield the chunks of a chat completion: a comment first, usage and cost in the last chunk."""
    head = _chat_head(call, "chat.completion.chunk")
    yield _PROCESSING
    if call.tool is not None:
        tool_call = _tool_call(call.tool)
        started = {**tool_call, "index": 0, "function": {"name": call.tool, "arguments": ""}}
        yield sse_data({**head, "choices": [_delta_choice(role="assistant", content=None, tool_calls=[started])]})
        arguments = {"index": 0, "function": {"arguments": "{}"}}
        yield sse_data({**head, "choices": [_delta_choice(tool_calls=[arguments])]})
    else:
        for word in call.words():
            yield sse_data({**head, "choices": [_delta_choice(role="assistant", content=word)]})
    reason = "stop" if call.tool is None else "tool_calls"
    end = {**_delta_choice(role="assistant", content=""), "finish_reason": reason, "native_finish_reason": reason}
    yield sse_data({**head, "choices": [end]})
    yield sse_data({**head, "choices": [], "usage": _usage(call), **call.extra})
    yield _DONE


def chat_stream_error(call: ModelCall, status: int, message: str) -> bytes:
    """Return the chunk with which OpenRouter reports that a stream failed."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    return sse_data({**_chat_head(call, "chat.completion.chunk"), **openai_error(status, message), "choices": [choice]})


def text_completion(call: ModelCall) -> dict[str, Any]:
    """Return a text completion."""
    choice = {"index": 0, "text": call.text, "finish_reason": "stop", "logprobs": None}
    return {**_chat_head(call, "text_completion"), "choices": [choice], "usage": _usage(call)}


def text_completion_stream(call: ModelCall) -> Iterator[bytes]:
    """Yield the chunks of a text completion."""
    head = _chat_head(call, "text_completion")
    yield _PROCESSING
    for word in call.words():
        yield sse_data({**head, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]})
    end = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}
    yield sse_data({**head, "choices": [end], "usage": _usage(call)})
    yield _DONE


def embedding_list(call: ModelCall) -> dict[str, Any]:
    """Return one embedding of three dimensions per input."""
    count = len(call.prompt) if isinstance(call.prompt, list) else 1
    tokens = 0 if call.cached else count_tokens(call.prompt)
    return {
        "id": call.id,
        "object": "list",
        "model": call.model,
        "provider": "OpenAI",
        "data": [{"object": "embedding", "index": index, "embedding": [0.1, 0.2, 0.3]} for index in range(count)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "cost": round(tokens * 2e-8, 12)},
        **call.extra,
    }


def _chat_head(call: ModelCall, kind: str) -> dict[str, Any]:
    return {"id": call.id, "object": kind, "created": _CREATED, "model": call.model, "provider": "OpenAI"}


def _delta_choice(**delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None, "native_finish_reason": None, "logprobs": None}


def _tool_call(name: str) -> dict[str, Any]:
    return {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}


def openai_response(call: ModelCall) -> dict[str, Any]:
    """Return a response of the Responses API; a function call if the request has tools."""
    prompt, answer = call.tokens
    cost = call.cost
    if "cost_details" in cost:
        details = cost["cost_details"]
        cost["cost_details"] = {
            "upstream_inference_cost": None,
            "upstream_inference_input_cost": details["upstream_inference_prompt_cost"],
            "upstream_inference_output_cost": details["upstream_inference_completions_cost"],
        }
    return {
        **_response_head(call),
        "status": "completed",
        "output": [_output_item(call)],
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + answer,
            **cost,
        },
        **call.extra,
    }


def openai_response_stream(call: ModelCall) -> Iterator[bytes]:
    """Yield the events of a streamed response; the last one has the usage."""
    whole = openai_response(call)
    started = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield from (
        sse_event(fields.pop("type"), sequence_number=number, **fields)
        for number, fields in enumerate(
            [
                {"type": "response.created", "response": started},
                {"type": "response.in_progress", "response": started},
                *(_function_call_events(whole["output"][0]) if call.tool is not None else _text_events(call)),
                {"type": "response.completed", "response": whole},
            ]
        )
    )


def responses_stream_error(call: ModelCall, status: int, message: str) -> bytes:
    """Return the event with which a stream of the Responses API reports a failure."""
    failed = {
        **_response_head(call),
        "status": "failed",
        "output": [],
        "error": {"code": str(status), "message": message},
    }
    return sse_event("response.failed", sequence_number=99, response=failed)


def _text_events(call: ModelCall) -> Iterator[dict[str, Any]]:
    item = _output_item(call)
    position = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    started = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": started}
    yield {"type": "response.content_part.added", **position, "part": empty}
    for word in call.words():
        yield {"type": "response.output_text.delta", **position, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **position, "text": call.text, "logprobs": []}
    yield {"type": "response.content_part.done", **position, "part": item["content"][0]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _function_call_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    position = {"item_id": item["id"], "output_index": 0}
    started = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "output_index": 0, "item": started}
    yield {"type": "response.function_call_arguments.delta", **position, "delta": "{}"}
    yield {"type": "response.function_call_arguments.done", **position, "name": item["name"], "arguments": "{}"}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _output_item(call: ModelCall) -> dict[str, Any]:
    if call.tool is not None:
        function_call = {"type": "function_call", "call_id": "call_1", "name": call.tool, "arguments": "{}"}
        return {"id": "fc_1", "status": "completed", **function_call}
    part = {"type": "output_text", "text": call.text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _response_head(call: ModelCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": "response",
        "created_at": _CREATED,
        "model": call.model,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": call.body.get("tools") or [],
        "error": None,
        "incomplete_details": None,
        "instructions": call.body.get("instructions"),
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
    }


_ANTHROPIC_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def anthropic_message(call: ModelCall) -> dict[str, Any]:
    """Return a message; a tool use if the request has tools."""
    prompt, answer = call.tokens
    return {
        "id": call.id,
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [_anthropic_content_block(call)],
        "stop_reason": _anthropic_stop_reason(call),
        "stop_sequence": None,
        "usage": {
            # Anthropic's input_tokens exclude the tokens of the prompt cache.
            "input_tokens": prompt,
            "output_tokens": answer,
            "cache_creation_input_tokens": 0 if call.cached else 5,
            "cache_read_input_tokens": 0 if call.cached else 7,
            "service_tier": "standard",
            **call.cost,
        },
        **call.extra,
    }


def anthropic_message_stream(call: ModelCall) -> Iterator[bytes]:
    """Yield the events of a streamed message; the first and the last but one have usage."""
    whole = anthropic_message(call)
    usage = whole["usage"]
    started = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield sse_event("message_start", message=started)
    if call.tool is not None:
        yield sse_event("content_block_start", index=0, content_block=_anthropic_content_block(call))
        yield sse_event("ping")
        yield sse_event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{}"})
    else:
        yield sse_event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield sse_event("ping")
        for word in call.words():
            yield sse_event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    yield sse_event("content_block_stop", index=0)
    final_usage = {"output_tokens": usage["output_tokens"], **call.cost}
    yield sse_event(
        "message_delta", delta={"stop_reason": _anthropic_stop_reason(call), "stop_sequence": None}, usage=final_usage
    )
    yield sse_event("message_stop")


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"type": "error", "error": {"type": _ANTHROPIC_ERRORS.get(status, "api_error"), "message": message}}


def anthropic_stream_error(call: ModelCall, status: int, message: str) -> bytes:  # noqa: ARG001 - the signature of all stream errors
    """Return the event with which a stream reports a failure."""
    return sse_event("error", error=anthropic_error(status, message)["error"])


def _anthropic_content_block(call: ModelCall) -> dict[str, Any]:
    if call.tool is not None:
        return {"type": "tool_use", "id": "toolu_1", "name": call.tool, "input": {}}
    return {"type": "text", "text": call.text}


def _anthropic_stop_reason(call: ModelCall) -> str:
    return "end_turn" if call.tool is None else "tool_use"


_GEMINI_ERRORS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def gemini_response(call: ModelCall) -> dict[str, Any]:
    """Return a response; a function call if the request has tools."""
    part: dict[str, Any] = {"text": call.text}
    if call.tool is not None:
        part = {"functionCall": {"name": call.tool, "args": {}}}
    return _build_gemini_response(call, [part], last=True)


def gemini_response_stream(call: ModelCall) -> Iterator[bytes]:
    """Yield the chunks of a stream: server-sent events, or the elements of a JSON array."""
    if call.tool is not None:
        chunks = [gemini_response(call)]
    else:
        words = list(call.words())
        chunks = [_build_gemini_response(call, [{"text": word}], last=False) for word in words[:-1]]
        chunks.append(_build_gemini_response(call, [{"text": words[-1]}], last=True))
    for number, chunk in enumerate(chunks):
        if call.sse:
            yield sse_data(chunk).replace(b"\n\n", b"\r\n\r\n")
        else:
            yield (b"[" if number == 0 else b",\r\n") + json.dumps(chunk).encode()
    if not call.sse:
        yield b"]"


def gemini_embedding(call: ModelCall) -> dict[str, Any]:
    """Return an embedding of three dimensions, one per request of a batch, without usage as Gemini does."""
    batch = call.body.get("requests")
    vector = {"values": [0.1, 0.2, 0.3]}
    return {"embeddings": [vector for _ in batch]} if isinstance(batch, list) else {"embedding": vector}


def gemini_error(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"code": status, "message": message, "status": _GEMINI_ERRORS.get(status, "INTERNAL")}}


def gemini_stream_error(call: ModelCall, status: int, message: str) -> bytes:
    """Return the chunk with which a stream reports a failure."""
    failed = gemini_error(status, message)
    return sse_data(failed).replace(b"\n\n", b"\r\n\r\n") if call.sse else b",\r\n" + json.dumps(failed).encode() + b"]"


def _build_gemini_response(call: ModelCall, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    prompt, answer = call.tokens
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    usage = {"promptTokenCount": prompt, "totalTokenCount": prompt}
    if last:
        candidate["finishReason"] = "STOP"
        usage = {"promptTokenCount": prompt, "candidatesTokenCount": answer, "totalTokenCount": prompt + answer}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": call.model,
        "responseId": call.id,
    }
