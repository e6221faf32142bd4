"""The test gateway with marked responses: texts, reasoning, arguments, vectors, errors, whole and streamed."""

from __future__ import annotations

import json
from typing import Any, Final

from byline.testing import Gateway
from byline.testing.server import Handler, Request
from tests.matrix.content.marks import KEY, VECTOR, mark

_ARGUMENTS: Final = {"q": mark("arguments")}
_THOUGHT: Final = mark("reasoning")
_THINKING: Final = {"type": "thinking", "thinking": _THOUGHT, "signature": mark("signature")}
_SUMMARY: Final = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": _THOUGHT}]}


class Marking(Gateway):
    """Answers as the testing gateway does, in marked words."""

    def respond(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        marked: Any = _Marked(handler) if request.method == "POST" else handler
        super().respond(request, marked)


class _Marked:
    """Wraps a handler and marks its responses."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._handler.reply(status, json.dumps(_whole(json.loads(body))).encode(), headers)

    def send_chunk(self, chunk: bytes) -> None:
        if b"message_delta" in chunk:
            for event in _thinking():
                self._handler.send_chunk(event)
        lines = [
            b"data: " + json.dumps(_whole(json.loads(line[6:]))).encode() if line.startswith(b"data: {") else line
            for line in chunk.split(b"\n")
        ]
        self._handler.send_chunk(b"\n".join(lines))


def _whole(reply: Any) -> Any:
    found = _marked(reply)
    for choice in found.get("choices") or ():
        said = choice.get("message") or choice.get("delta")
        if said and said.get("role"):
            said["reasoning"] = said["reasoning_content"] = _THOUGHT
            said["reasoning_details"] = [{"type": "reasoning.text", "text": _THOUGHT, "index": 0}]
    if found.get("type") == "message" and found["content"]:
        found["content"].append(_THINKING)
    for response in (found, found.get("response")):
        if isinstance(response, dict) and response.get("output"):
            response["output"].append(_SUMMARY)
    for candidate in found.get("candidates") or ():
        candidate["content"]["parts"].append({"text": _THOUGHT, "thought": True})
    return found


def _marked(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        if name in ("input", "args") and not value:
            return _ARGUMENTS
        return {key: _marked(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return VECTOR if name in ("embedding", "values") else [_marked(item, name) for item in value]
    if value == "{}":
        return json.dumps(_ARGUMENTS)
    if name == "message" and isinstance(value, str):
        return f"{mark('error')}, and {KEY} is no key"
    if name in ("content", "text", "delta", "refusal") and isinstance(value, str) and value:
        return mark("answer") + " "
    return value


def _thinking() -> list[bytes]:
    begun = {**_THINKING, "thinking": "", "signature": ""}
    events = (
        {"type": "content_block_start", "index": 1, "content_block": begun},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": _THOUGHT}},
        {"type": "content_block_stop", "index": 1},
    )
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
