"""OpenAI's SDK, and those that stand in its place."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any, Final

CHAT: Final[dict[str, Any]] = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "user", "content": "Who wrote this?"}],
    "temperature": 0.5,
}
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}
RESULT: Final = "Ada did."


class Calls:
    """Every API of OpenAI's SDK that the matrix uses."""

    module = "openai"

    def __init__(self, url: str) -> None:
        sdk = importlib.import_module(self.module)
        settings: dict[str, Any] = {"base_url": f"{url}/api/v1", "api_key": "sk-matrix", "max_retries": 0}
        self.client: Any = sdk.OpenAI(**settings)
        self.async_client: Any = sdk.AsyncOpenAI(**settings)

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.client.chat.completions.create(**CHAT).id]

    def stream(self) -> list[str]:
        """A stream, read to its end, without a wish for usage, which OpenRouter states anyway."""
        return [chunk.id for chunk in self.client.chat.completions.create(**CHAT, stream=True)]

    def closed_stream(self) -> list[str]:
        """A stream that the app closes after its first chunk."""
        stream = self.client.chat.completions.create(**CHAT, stream=True)
        first = next(iter(stream))
        stream.close()
        return [first.id]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.async_client.chat.completions.create(**CHAT)).id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream that is handed on as it comes."""
        async for chunk in await self.async_client.chat.completions.create(**CHAT, stream=True):
            yield chunk.id

    def responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        return [self.client.responses.create(model="openai/gpt-4o", input="Who?").id]

    def responses_stream(self) -> list[str]:
        """A streamed one."""
        events = self.client.responses.create(model="openai/gpt-4o", input="Who?", stream=True)
        return [event.response.id for event in events if event.type == "response.completed"]

    async def async_responses(self) -> list[str]:
        """A whole answer of the Responses API, awaited."""
        return [(await self.async_client.responses.create(model="openai/gpt-4o", input="Who?")).id]

    async def async_responses_stream(self) -> AsyncIterator[str]:
        """A streamed one that is handed on as it comes."""
        events = await self.async_client.responses.create(model="openai/gpt-4o", input="Who?", stream=True)
        async for event in events:
            if event.type in ("response.created", "response.completed"):
                yield event.response.id

    def embeddings(self) -> list[str]:
        """Two embeddings in one call; OpenAI's response has no id of its own."""
        self.client.embeddings.create(model="openai/text-embedding-3-small", input=["a", "b"], encoding_format="float")
        return []

    def tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        first = self.client.chat.completions.create(**CHAT, tools=[TOOL])
        call = first.choices[0].message
        messages = [
            *CHAT["messages"],
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": tool.id, "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
                    for tool in call.tool_calls
                ],
            },
            {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": RESULT},
        ]
        second = self.client.chat.completions.create(**{**CHAT, "messages": messages}, tools=[TOOL])
        return [first.id, second.id]
