"""Gemini's generateContent and streamGenerateContent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from byline.testing.simulated_model import ModelCall, sse_data

_ERRORS: Final = {
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
    return _build_response(call, [part], last=True)


def gemini_response_stream(call: ModelCall) -> Iterator[bytes]:
    """Yield the chunks of a stream: server-sent events, or the elements of a JSON array."""
    if call.tool is not None:
        chunks = [gemini_response(call)]
    else:
        words = list(call.words())
        chunks = [_build_response(call, [{"text": word}], last=False) for word in words[:-1]]
        chunks.append(_build_response(call, [{"text": words[-1]}], last=True))
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
    return {"error": {"code": status, "message": message, "status": _ERRORS.get(status, "INTERNAL")}}


def gemini_stream_error(call: ModelCall, status: int, message: str) -> bytes:
    """Return the chunk with which a stream reports a failure."""
    failed = gemini_error(status, message)
    return sse_data(failed).replace(b"\n\n", b"\r\n\r\n") if call.sse else b",\r\n" + json.dumps(failed).encode() + b"]"


def _build_response(call: ModelCall, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
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
