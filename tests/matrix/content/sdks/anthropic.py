"""Anthropic's SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic

from tests.matrix.content.marks import IMAGE, KEY, SECRET, mark
from tests.matrix.content.sdks.openai import SCHEMA

QUESTION: Final[list[dict[str, Any]]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": mark("user")},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": mark("document")},
                "title": mark("title"),
                "context": mark("context"),
            },
        ],
    },
]
RESULT: Final[list[dict[str, Any]]] = [
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": mark("thinking"), "signature": mark("signature")},
            {"type": "tool_use", "id": "toolu_0", "name": "look_up", "input": {"q": mark("given-arguments")}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_0", "content": mark("result")}]},
]
MESSAGE: Final[dict[str, Any]] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 2048,
    "system": [{"type": "text", "text": mark("system"), "cache_control": {"type": "ephemeral"}}],
    "messages": QUESTION + RESULT,
    "tools": [{"name": "look_up", "description": mark("tool"), "input_schema": SCHEMA}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "extra_body": {"extra": mark("extra")},
    "extra_query": {"q": mark("query").replace(" ", "-")},
    "extra_headers": {"x-portkey-api-key": SECRET, "x-title": mark("title")},
}
TOOL_CALL: Final = {**MESSAGE, "messages": QUESTION}


class Calls:
    """Every API of Anthropic's SDK that instrumentations look at."""

    def __init__(self, url: str) -> None:
        settings: dict[str, Any] = {"base_url": f"{url}/api", "api_key": KEY, "max_retries": 0}
        self.client: Any = anthropic.Anthropic(**settings)
        self.async_client: Any = anthropic.AsyncAnthropic(**settings)

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.client.messages.create(**MESSAGE).id]

    def tool_call(self) -> list[str]:
        """A whole answer that calls a tool."""
        return [self.client.messages.create(**TOOL_CALL).id]

    def stream(self) -> list[str]:
        """A stream of the helper."""
        with self.client.messages.stream(**MESSAGE) as stream:
            return [stream.get_final_message().id]

    def tool_stream(self) -> list[str]:
        """A stream of events that calls a tool."""
        for _ in self.client.messages.create(**TOOL_CALL, stream=True):
            pass
        return []

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.async_client.messages.create(**MESSAGE)).id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream, handed on as it comes."""
        async for event in await self.async_client.messages.create(**MESSAGE, stream=True):
            yield event.type
