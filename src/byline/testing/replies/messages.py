"""Anthropic's Messages API, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from byline.testing.replies.model import Ask, event

_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def message(ask: Ask) -> dict[str, Any]:
    """Return a whole message; a use of the first tool where there are tools."""
    prompt, answer = ask.tokens
    return {
        "id": ask.id,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [_block(ask)],
        "stop_reason": _reason(ask),
        "stop_sequence": None,
        "usage": {
            # What was read from and written to the prompt cache is not part of the input tokens.
            "input_tokens": prompt,
            "output_tokens": answer,
            "cache_creation_input_tokens": 0 if ask.cached else 5,
            "cache_read_input_tokens": 0 if ask.cached else 7,
            "service_tier": "standard",
            **ask.cost,
        },
        **ask.extra,
    }


def message_stream(ask: Ask) -> Iterator[bytes]:
    """Yield the events of a streamed message: usage stands in the first and in the last but one."""
    whole = message(ask)
    usage = whole["usage"]
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield event("message_start", message=begun)
    if ask.tool is not None:
        yield event("content_block_start", index=0, content_block=_block(ask))
        yield event("ping")
        yield event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{}"})
    else:
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield event("ping")
        for word in ask.words():
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    yield event("content_block_stop", index=0)
    told = {"output_tokens": usage["output_tokens"], **ask.cost}
    yield event("message_delta", delta={"stop_reason": _reason(ask), "stop_sequence": None}, usage=told)
    yield event("message_stop")


def error(status: int, message: str) -> dict[str, Any]:
    """Return an error."""
    return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}


def stream_error(ask: Ask, status: int, message: str) -> bytes:  # noqa: ARG001 - one shape for all asks
    """Return the event by which a stream says that it has failed in the middle."""
    return event("error", error=error(status, message)["error"])


def _block(ask: Ask) -> dict[str, Any]:
    if ask.tool is not None:
        return {"type": "tool_use", "id": "toolu_1", "name": ask.tool, "input": {}}
    return {"type": "text", "text": ask.text}


def _reason(ask: Ask) -> str:
    return "end_turn" if ask.tool is None else "tool_use"
