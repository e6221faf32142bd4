"""LangChain: chat models and a graph, on OpenAI's chat completions."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """LangChain's model of OpenAI. The chunks of its streams do not state the id of the response."""

    def __init__(self, url: str) -> None:
        openai: Any = importlib.import_module("langchain_openai")
        graphs: Any = importlib.import_module("langgraph.graph")
        self.model = openai.ChatOpenAI(
            model="openai/gpt-4o", base_url=f"{url}/api/v1", api_key="sk-matrix", max_retries=0, stream_usage=True
        )
        graph = graphs.StateGraph(graphs.MessagesState)
        graph.add_node("ask", self._ask)
        graph.add_node("look_up", lambda _: {"messages": [("user", "Ada did.")]})
        graph.add_node("answer", self._ask)
        for start, end in ((graphs.START, "ask"), ("ask", "look_up"), ("look_up", "answer"), ("answer", graphs.END)):
            graph.add_edge(start, end)
        self.graph = graph.compile()

    def _ask(self, state: Any) -> Any:
        return {"messages": [self.model.invoke(state["messages"])]}

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
        """A graph that asks twice."""
        return ids_of(self.graph.invoke({"messages": [("user", QUESTION)]}))

    async def async_tool_call(self) -> list[str]:
        """The same graph, awaited: its nodes run in threads."""
        return ids_of(await self.graph.ainvoke({"messages": [("user", QUESTION)]}))


def id_of(message: Any) -> str:
    """Return the id of the response that a message is from."""
    return str(message.response_metadata["id"])


def ids_of(state: Any) -> list[str]:
    """Return the ids of all responses of a graph."""
    return [id_of(message) for message in state["messages"] if message.type == "ai"]
