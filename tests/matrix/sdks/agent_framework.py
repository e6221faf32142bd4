"""Microsoft Agent Framework: an agent on OpenAI's chat completions."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """An agent with a tool. It hands the ids of its last response to the app."""

    def __init__(self, url: str) -> None:
        openai: Any = importlib.import_module("agent_framework.openai")
        client = openai.OpenAIChatCompletionClient(model="openai/gpt-4o", api_key="sk-matrix", base_url=f"{url}/api/v1")
        self.agent = client.as_agent(name="writer", instructions="Answer.", tools=[look_up])

    async def async_tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        await self.agent.run(QUESTION)
        return []

    async def streamed_tool_call(self) -> list[str]:
        """The same with streamed responses."""
        async for _ in self.agent.run(QUESTION, stream=True):
            pass
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."
