"""Haystack: a pipeline with an agent, on OpenAI's chat completions."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """A pipeline of one component, an agent."""

    def __init__(self, url: str) -> None:
        haystack: Any = importlib.import_module("haystack")
        agents: Any = importlib.import_module("haystack.components.agents")
        tools: Any = importlib.import_module("haystack.tools")
        generators: Any = importlib.import_module("haystack.components.generators.chat")
        self.messages: Any = importlib.import_module("haystack.dataclasses").ChatMessage
        generator = generators.OpenAIChatGenerator(
            api_key=importlib.import_module("haystack.utils").Secret.from_token("sk-matrix"),
            model="openai/gpt-4o",
            api_base_url=f"{url}/api/v1",
            max_retries=0,
        )
        self.agent = agents.Agent(chat_generator=generator, tools=[tools.create_tool_from_function(look_up)])
        self.pipeline = haystack.Pipeline()
        self.pipeline.add_component("writer", self.agent)

    def tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        self.pipeline.run({"writer": {"messages": [self.messages.from_user(QUESTION)]}})
        return []

    async def async_tool_call(self) -> list[str]:
        """The agent without a pipeline, awaited."""
        await self.agent.run_async(messages=[self.messages.from_user(QUESTION)])
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."
