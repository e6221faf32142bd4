"""LiteLLM's SDK, within the app's own process."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

from tests.matrix.sdks.openai import CHAT, RESULT, TOOL


class Calls:
    """Every API of LiteLLM's SDK that the matrix uses."""

    def __init__(self, url: str) -> None:
        self.sdk: Any = importlib.import_module("litellm")
        self.where = {"api_base": f"{url}/api/v1", "api_key": "sk-matrix", "max_retries": 0}
        self.ask: dict[str, Any] = {**CHAT, **self.where}

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.sdk.completion(**self.ask).id]

    def stream(self) -> list[str]:
        """A stream, read to its end."""
        return [chunk.id for chunk in self.sdk.completion(**self.ask, stream=True)]

    def closed_stream(self) -> list[str]:
        """A stream that the app drops after its first chunk."""
        stream = self.sdk.completion(**self.ask, stream=True)
        return [next(iter(stream)).id]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.sdk.acompletion(**self.ask)).id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream that is handed on as it comes."""
        async for chunk in await self.sdk.acompletion(**self.ask, stream=True):
            yield chunk.id

    def responses(self) -> list[str]:
        """A whole response of the Responses API; LiteLLM replaces its id."""
        self.sdk.responses(model="openai/gpt-4o", input="Who?", **self.where)
        return []

    def responses_stream(self) -> list[str]:
        """A streamed one."""
        for _ in self.sdk.responses(model="openai/gpt-4o", input="Who?", stream=True, **self.where):
            pass
        return []

    def embeddings(self) -> list[str]:
        """Two embeddings in one call."""
        self.sdk.embedding(model="openai/text-embedding-3-small", input=["a", "b"], **self.where)
        return []

    def tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        first = self.sdk.completion(**self.ask, tools=[TOOL])
        message = first.choices[0].message
        tool = message.tool_calls[0]
        messages = [
            *CHAT["messages"],
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": tool.id, "content": RESULT},
        ]
        second = self.sdk.completion(**{**self.ask, "messages": messages}, tools=[TOOL])
        return [first.id, second.id]
