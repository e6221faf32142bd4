"""Anthropic's SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic

from tests.matrix.sdks.openai import RESULT

MESSAGE: Final[dict[str, Any]] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "Who wrote this?"}],
}
TOOL: Final[dict[str, Any]] = {"name": "look_up", "input_schema": {"type": "object", "properties": {}}}


class Calls:
    """Every API of Anthropic's SDK that the matrix uses."""

    def __init__(self, url: str) -> None:
        settings: dict[str, Any] = {"base_url": f"{url}/api", "api_key": "sk-matrix", "max_retries": 0}
        self.client: Any = anthropic.Anthropic(**settings)
        self.async_client: Any = anthropic.AsyncAnthropic(**settings)

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.client.messages.create(**MESSAGE).id]

    def stream(self) -> list[str]:
        """A stream of the helper, read to its end."""
        with self.client.messages.stream(**MESSAGE) as stream:
            return [stream.get_final_message().id]

    def raw_stream(self) -> list[str]:
        """A stream of events."""
        events = self.client.messages.create(**MESSAGE, stream=True)
        return [event.message.id for event in events if event.type == "message_start"]

    def closed_stream(self) -> list[str]:
        """A stream that the app closes after its first event."""
        stream = self.client.messages.create(**MESSAGE, stream=True)
        first = next(iter(stream))
        stream.close()
        return [first.message.id]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.async_client.messages.create(**MESSAGE)).id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream that is handed on as it comes."""
        async for event in await self.async_client.messages.create(**MESSAGE, stream=True):
            yield event.message.id if event.type == "message_start" else ""

    def tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        first = self.client.messages.create(**MESSAGE, tools=[TOOL])
        call = next(block for block in first.content if block.type == "tool_use")
        messages = [
            *MESSAGE["messages"],
            {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": "look_up", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT}]},
        ]
        second = self.client.messages.create(**{**MESSAGE, "messages": messages}, tools=[TOOL])
        return [first.id, second.id]
