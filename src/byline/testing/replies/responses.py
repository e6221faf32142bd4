"""The Responses API, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from byline.testing.replies.chat import CREATED
from byline.testing.replies.model import Ask, event


def response(ask: Ask) -> dict[str, Any]:
    """Return a whole reply; a call of the first tool where there are tools."""
    prompt, answer = ask.tokens
    cost = ask.cost
    if "cost_details" in cost:
        details = cost["cost_details"]
        cost["cost_details"] = {
            "upstream_inference_cost": None,
            "upstream_inference_input_cost": details["upstream_inference_prompt_cost"],
            "upstream_inference_output_cost": details["upstream_inference_completions_cost"],
        }
    return {
        **_head(ask),
        "status": "completed",
        "output": [_output(ask)],
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + answer,
            **cost,
        },
        **ask.extra,
    }


def response_stream(ask: Ask) -> Iterator[bytes]:
    """Yield the events of a streamed reply; usage stands in the last one."""
    whole = response(ask)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield from (
        event(fields.pop("type"), sequence_number=number, **fields)
        for number, fields in enumerate(
            [
                {"type": "response.created", "response": begun},
                {"type": "response.in_progress", "response": begun},
                *(_call_events(whole["output"][0]) if ask.tool is not None else _text_events(ask)),
                {"type": "response.completed", "response": whole},
            ]
        )
    )


def stream_error(ask: Ask, status: int, message: str) -> bytes:
    """Return the event by which a stream says that it has failed in the middle."""
    failed = {**_head(ask), "status": "failed", "output": [], "error": {"code": str(status), "message": message}}
    return event("response.failed", sequence_number=99, response=failed)


def _text_events(ask: Ask) -> Iterator[dict[str, Any]]:
    item = _output(ask)
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    begun = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    yield {"type": "response.content_part.added", **place, "part": empty}
    for word in ask.words():
        yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": ask.text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": item["content"][0]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _call_events(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": 0}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
    yield {"type": "response.function_call_arguments.delta", **place, "delta": "{}"}
    yield {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": "{}"}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _output(ask: Ask) -> dict[str, Any]:
    if ask.tool is not None:
        call = {"type": "function_call", "call_id": "call_1", "name": ask.tool, "arguments": "{}"}
        return {"id": "fc_1", "status": "completed", **call}
    part = {"type": "output_text", "text": ask.text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _head(ask: Ask) -> dict[str, Any]:
    return {
        "id": ask.id,
        "object": "response",
        "created_at": CREATED,
        "model": ask.model,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": ask.body.get("tools") or [],
        "error": None,
        "incomplete_details": None,
        "instructions": ask.body.get("instructions"),
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
    }
