"""LangChain and LangGraph: chat models and an agent, on OpenAI's chat completions."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """LangChain's model of OpenAI. The chunks of its streams do not state the id of the response."""

    def __init__(self, url: str) -> None:
        openai: Any = importlib.import_module("langchain_openai")
        agents: Any = importlib.import_module("langchain.agents")
        self.model = openai.ChatOpenAI(
            model="openai/gpt-4o", base_url=f"{url}/api/v1", api_key="sk-matrix", max_retries=0, stream_usage=True
        )
        self.agent = agents.create_agent(self.model, tools=[look_up], name="writer")

    def chat(self) -> list[str]:
        """A whole answer."""
        return [id_of(self.model.invoke(QUESTION))]

    def stream(self) -> list[str]:
        """A stream, read to its end."""
        for _ in self.model.stream(QUESTION):
            pass
        return []

    def closed_stream(self) -> list[str]:
        """A stream that the app closes after its first chunk."""
        stream = self.model.stream(QUESTION)
        next(stream)
        stream.close()
        return []

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [id_of(await self.model.ainvoke(QUESTION))]

    def tool_call(self) -> list[str]:
        """An agent, which is a graph: the model calls a tool, and is told what it gave."""
        return ids_of(self.agent.invoke({"messages": [("user", QUESTION)]}))

    async def async_tool_call(self) -> list[str]:
        """The same agent, awaited."""
        return ids_of(await self.agent.ainvoke({"messages": [("user", QUESTION)]}))

    async def streamed_tool_call(self) -> list[str]:
        """The same agent, whose tokens the app reads as they come."""
        async for _ in self.agent.astream({"messages": [("user", QUESTION)]}, stream_mode="messages"):
            pass
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."


def id_of(message: Any) -> str:
    """Return the id of the response that a message is from."""
    return str(message.response_metadata["id"])


def ids_of(state: Any) -> list[str]:
    """Return the ids of all responses of a graph."""
    return [id_of(message) for message in state["messages"] if message.type == "ai"]
