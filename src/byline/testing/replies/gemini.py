"""Gemini's generateContent and streamGenerateContent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from byline.testing.replies.model import Ask, data

_ERRORS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def generate(ask: Ask) -> dict[str, Any]:
    """Return a whole reply; a call of the first tool where there are tools."""
    part: dict[str, Any] = {"text": ask.text}
    if ask.tool is not None:
        part = {"functionCall": {"name": ask.tool, "args": {}}}
    return _reply(ask, [part], last=True)


def generate_stream(ask: Ask) -> Iterator[bytes]:
    """Yield the chunks of a stream: server-sent events, or the members of a JSON array."""
    if ask.tool is not None:
        replies = [generate(ask)]
    else:
        words = list(ask.words())
        replies = [_reply(ask, [{"text": word}], last=False) for word in words[:-1]]
        replies.append(_reply(ask, [{"text": words[-1]}], last=True))
    for number, reply in enumerate(replies):
        if ask.sse:
            yield data(reply).replace(b"\n\n", b"\r\n\r\n")
        else:
            yield (b"[" if number == 0 else b",\r\n") + json.dumps(reply).encode()
    if not ask.sse:
        yield b"]"


def embed(ask: Ask) -> dict[str, Any]:
    """Return one embedding of three dimensions, or one a request of a batch; Gemini counts no tokens here."""
    several = ask.body.get("requests")
    vector = {"values": [0.1, 0.2, 0.3]}
    return {"embeddings": [vector for _ in several]} if isinstance(several, list) else {"embedding": vector}


def error(status: int, message: str) -> dict[str, Any]:
    """Return an error."""
    return {"error": {"code": status, "message": message, "status": _ERRORS.get(status, "INTERNAL")}}


def stream_error(ask: Ask, status: int, message: str) -> bytes:
    """Return the chunk by which a stream says that it has failed in the middle."""
    failed = error(status, message)
    return data(failed).replace(b"\n\n", b"\r\n\r\n") if ask.sse else b",\r\n" + json.dumps(failed).encode() + b"]"


def _reply(ask: Ask, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    prompt, answer = ask.tokens
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    usage = {"promptTokenCount": prompt, "totalTokenCount": prompt}
    if last:
        candidate["finishReason"] = "STOP"
        usage = {"promptTokenCount": prompt, "candidatesTokenCount": answer, "totalTokenCount": prompt + answer}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": ask.model,
        "responseId": ask.id,
    }
