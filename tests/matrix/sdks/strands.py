"""Strands: an agent around every call."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """Agents of Strands, on OpenAI's streamed chat completions. Strands hides the id of the response."""

    def __init__(self, url: str) -> None:
        self.strands: Any = importlib.import_module("strands")
        models: Any = importlib.import_module("strands.models.openai")
        client = {"base_url": f"{url}/api/v1", "api_key": "sk-matrix", "max_retries": 0}
        self.model = models.OpenAIModel(client_args=client, model_id="openai/gpt-4o")

    def _agent(self, *tools: Any) -> Any:
        return self.strands.Agent(model=self.model, tools=list(tools), callback_handler=None, name="writer")

    def chat(self) -> list[str]:
        """A whole answer."""
        self._agent()(QUESTION)
        return []

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        await self._agent().invoke_async(QUESTION)
        return []

    def tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        self._agent(self.strands.tool(look_up))(QUESTION)
        return []

    async def async_tool_call(self) -> list[str]:
        """A tool call, awaited."""
        await self._agent(self.strands.tool(look_up)).invoke_async(QUESTION)
        return []

    async def streamed_tool_call(self) -> list[str]:
        """A tool call whose events the app reads as they come."""
        async for _ in self._agent(self.strands.tool(look_up)).stream_async(QUESTION):
            pass
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."
