"""The testing gateway that keeps count of what it states: the provider's own numbers of each call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from byline.testing import Gateway
from byline.testing.server import Handler, Request

#: The spellings of tokens in OpenAI's, Anthropic's and Gemini's replies; Anthropic states cached tokens apart.
_INPUT: Final = ("prompt_tokens", "input_tokens", "promptTokenCount")
_OUTPUT: Final = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_APART: Final = ("cache_creation_input_tokens", "cache_read_input_tokens")


class CountingGateway(Gateway):
    """Answers as the testing gateway does, and records tokens and cost of every response before sending them.

    Attributes:
        usage: Tokens and cost of each call, in the order of their beginning.
        reply: Returns the text that a request is answered with, ``None`` for the usual answer. Agents that do not use
            the tools of the API read their next step from the text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.usage: list[dict[str, float]] = []
        self.reply: Callable[[Any], str | None] | None = None

    def respond(self, request: Request, handler: Handler) -> None:
        """Answer one request."""
        if request.method == "POST":
            usage: dict[str, float] = {}
            self.usage.append(usage)
            text = None if self.reply is None else self.reply(request.json())
            counted: Any = _CountingHandler(handler, usage, text)
            super().respond(request, counted)
        else:
            super().respond(request, handler)


def total(calls: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the sums over several calls. A cost is among them only if the provider states costs."""
    sums: dict[str, float] = {}
    for usage in calls:
        for name, number in usage.items():
            sums[name] = round(sums.get(name, 0) + number, 12)
    return sums


class _CountingHandler:
    """Stands before a handler and reads the bytes that are sent."""

    def __init__(self, handler: Handler, usage: dict[str, float], text: str | None) -> None:
        self._handler = handler
        self._usage = usage
        self._text = text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        answer = json.loads(body)
        if self._text is not None and answer.get("choices"):
            answer["choices"][0]["message"] = {"role": "assistant", "content": self._text}
            answer["choices"][0]["finish_reason"] = "stop"
        self._usage.update(_usage_in(answer))
        self._handler.reply(status, json.dumps(answer).encode(), headers)

    def send_chunk(self, chunk: bytes) -> None:
        for line in chunk.splitlines():
            text = line.removeprefix(b"data: ").lstrip(b"[,")
            if text.startswith(b"{"):
                self._usage.update(_usage_in(json.loads(text)))
        self._handler.send_chunk(chunk)


def _usage_in(answer: dict[str, Any]) -> dict[str, float]:
    inner = answer.get("response") or answer.get("message") or {}
    usage = answer.get("usage") or answer.get("usageMetadata") or inner.get("usage") or {}
    found: dict[str, float] = {}
    for side, names in (("input", _INPUT), ("output", _OUTPUT)):
        number = next((usage[name] for name in names if name in usage), None)
        if number is not None:
            found[side] = number
    if "input" in found:
        found["input"] += sum(usage.get(name, 0) for name in _APART)
    if "cost" in usage:
        found["cost"] = usage["cost"]
    return found
