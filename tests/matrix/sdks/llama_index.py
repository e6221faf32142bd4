"""LlamaIndex: an agent on OpenAI's chat completions."""

from __future__ import annotations

import importlib
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """A function agent. Its workflow runs in tasks of its own."""

    def __init__(self, url: str) -> None:
        self.workflow: Any = importlib.import_module("llama_index.core.agent.workflow")
        models: Any = importlib.import_module("llama_index.llms.openai_like")
        self.model = models.OpenAILike(
            model="openai/gpt-4o",
            api_base=f"{url}/api/v1",
            api_key="sk-matrix",
            is_chat_model=True,
            is_function_calling_model=True,
            max_retries=0,
        )

    def _agent(self, *, streaming: bool) -> Any:
        return self.workflow.FunctionAgent(
            name="writer", description="Answers.", tools=[look_up], llm=self.model, streaming=streaming
        )

    def chat(self) -> list[str]:
        """One question, without an agent."""
        return [self.model.complete(QUESTION).raw.id]

    async def async_tool_call(self) -> list[str]:
        """The model calls a tool, and is told what it gave."""
        await self._agent(streaming=False).run(QUESTION)
        return []

    async def streamed_tool_call(self) -> list[str]:
        """The same with streamed responses."""
        handler = self._agent(streaming=True).run(QUESTION)
        async for _ in handler.stream_events():
            pass
        await handler
        return []


def look_up() -> str:
    """Look something up."""
    return "Ada did."
