"""Wire readers: what the bodies of each API shape say of their call."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final
from byline.facts import Facts


class Wire:
    def __init__(self, name: str, operation: str, end_mark: bytes = b"") -> None:
        self.name = name
        self.operation = operation
        self.end_mark = end_mark

    def read_request(self, body: bytes, facts: Facts, *, path: str, host: str, content: bool) -> None:
        facts.operation = self.operation
        facts.provider = "anthropic" if self.name.startswith("anthropic") else "gcp.gemini" if "gemini" in self.name else "openai"
        try:
            data = json.loads(body)
        except ValueError:
            return
        if isinstance(data, dict):
            if isinstance(data.get("model"), str):
                facts.request_model = data["model"]
            facts.streamed = bool(data.get("stream"))

    def read_reply(self, body: bytes, facts: Facts, *, content: bool) -> dict[str, Any] | None:
        try:
            data = json.loads(body)
        except ValueError:
            return None
        if not isinstance(data, dict):
            return None
        self._take(data, facts)
        return data

    def read_stream(self, head: bytes, tail: bytes, facts: Facts, *, content: bool) -> dict[str, Any] | None:
        last = None
        for line in (head + b"\n" + tail).replace(b"\r\n", b"\n").split(b"\n"):
            if line.startswith(b"data:"):
                try:
                    data = json.loads(line[5:])
                except ValueError:
                    continue
                if isinstance(data, dict):
                    data = data.get("response") or data.get("message") or data
                    self._take(data, facts)
                    if data.get("usage") or data.get("usageMetadata"):
                        last = data
        return last

    def _take(self, data: dict[str, Any], facts: Facts) -> None:
        facts.response_id = data.get("id") or data.get("responseId") or facts.response_id
        facts.response_model = data.get("model") or data.get("modelVersion") or facts.response_model
        usage = data.get("usage") or data.get("usageMetadata") or {}
        for key in ("prompt_tokens", "input_tokens", "promptTokenCount"):
            if isinstance(usage.get(key), int):
                facts.input_tokens = usage[key]
        for key in ("completion_tokens", "output_tokens", "candidatesTokenCount"):
            if isinstance(usage.get(key), int):
                facts.output_tokens = usage[key]


_WIRES = {
    "/chat/completions": Wire("openai.chat", "chat", b"[DONE]"),
    "/responses": Wire("openai.responses", "chat", b"response.completed"),
    "/completions": Wire("openai.completions", "text_completion", b"[DONE]"),
    "/embeddings": Wire("openai.embeddings", "embeddings"),
    "/messages": Wire("anthropic.messages", "chat", b"message_stop"),
    ":generateContent": Wire("gemini.generate", "generate_content"),
    ":streamGenerateContent": Wire("gemini.generate", "generate_content", b'"finishReason"'),
}
_ENDINGS = tuple(_WIRES)


def recognise(host: str, path: str) -> Wire | None:
    if not path.endswith(_ENDINGS):
        return None
    return next(wire for ending, wire in _WIRES.items() if path.endswith(ending))


def read_error(status: int, body: bytes, facts: Facts) -> None:
    facts.error_type = facts.error_type or str(status)
