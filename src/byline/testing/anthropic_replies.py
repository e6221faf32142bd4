"""Anthropic's Messages API, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from byline.testing.simulated_model import ModelCall, sse_event

_ERRORS: Final = {
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
        "content": [_content_block(call)],
        "stop_reason": _stop_reason(call),
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
        yield sse_event("content_block_start", index=0, content_block=_content_block(call))
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
        "message_delta", delta={"stop_reason": _stop_reason(call), "stop_sequence": None}, usage=final_usage
    )
    yield sse_event("message_stop")


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}


def anthropic_stream_error(call: ModelCall, status: int, message: str) -> bytes:  # noqa: ARG001 - the signature of all stream errors
    """Return the event with which a stream reports a failure."""
    return sse_event("error", error=anthropic_error(status, message)["error"])


def _content_block(call: ModelCall) -> dict[str, Any]:
    if call.tool is not None:
        return {"type": "tool_use", "id": "toolu_1", "name": call.tool, "input": {}}
    return {"type": "text", "text": call.text}


def _stop_reason(call: ModelCall) -> str:
    return "end_turn" if call.tool is None else "tool_use"
