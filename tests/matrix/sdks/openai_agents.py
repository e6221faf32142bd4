"""OpenAI's Agents SDK, on its Responses API and on chat completions."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """An agent with a tool."""

    def __init__(self, url: str) -> None:
        openai: Any = importlib.import_module("openai")
        self.agents: Any = importlib.import_module("agents")
        settings: dict[str, Any] = {"base_url": f"{url}/api/v1", "api_key": "sk-matrix", "max_retries": 0}
        # A client of its own for the event loop of each thread.
        responses = self.agents.OpenAIResponsesModel("openai/gpt-4o", openai_client=openai.AsyncOpenAI(**settings))
        chat = self.agents.OpenAIChatCompletionsModel("openai/gpt-4o", openai_client=openai.AsyncOpenAI(**settings))
        tools = [self.agents.function_tool(look_up)]
        self.agent = self.agents.Agent(name="writer", model=responses, tools=tools)
        self.chat_agent = self.agents.Agent(name="writer", model=chat, tools=tools)

    def tool_call(self) -> list[str]:
        """The model calls a tool by chat completions, and is told what it gave."""
        return ids_of(self.agents.Runner.run_sync(self.chat_agent, QUESTION))

    async def async_tool_call(self) -> list[str]:
        """The same by the Responses API, awaited."""
        return ids_of(await self.agents.Runner.run(self.agent, QUESTION))

    async def streamed_tool_call(self) -> list[str]:
        """The same with streamed responses."""
        result = self.agents.Runner.run_streamed(self.agent, QUESTION)
        async for _ in result.stream_events():
            pass
        return ids_of(result)


def look_up() -> str:
    """Look something up."""
    return "Ada did."


def ids_of(result: Any) -> list[str]:
    """Return the ids of all responses of a run; chat completions give the SDK none."""
    return [response.response_id for response in result.raw_responses if response.response_id]
