"""Pydantic AI: an agent around every call."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any, Final

QUESTION: Final = "Who wrote this?"


class Calls:
    """Agents of Pydantic AI, on OpenAI's chat completions, its responses and its embeddings."""

    def __init__(self, url: str) -> None:
        top: Any = importlib.import_module("pydantic_ai")
        models: Any = importlib.import_module("pydantic_ai.models.openai")
        embeddings: Any = importlib.import_module("pydantic_ai.embeddings.openai")
        openai: Any = importlib.import_module("openai")
        client = openai.AsyncOpenAI(base_url=f"{url}/api/v1", api_key="sk-matrix", max_retries=0)
        provider = importlib.import_module("pydantic_ai.providers.openai").OpenAIProvider(openai_client=client)
        self.agent = top.Agent(models.OpenAIChatModel("openai/gpt-4o", provider=provider), name="writer")
        self.responder = top.Agent(models.OpenAIResponsesModel("openai/gpt-4o", provider=provider), name="writer")
        self.with_tool = top.Agent(self.agent.model, name="writer", tools=[look_up])
        self.embedder = top.Embedder(embeddings.OpenAIEmbeddingModel("text-embedding-3-small", provider=provider))

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return ids_of(await self.agent.run(QUESTION))

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream that is handed on as it comes."""
        async with self.agent.run_stream(QUESTION) as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                yield result.response.provider_response_id

    async def async_responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        return ids_of(await self.responder.run(QUESTION))

    async def async_responses_stream(self) -> AsyncIterator[str]:
        """A streamed one."""
        async with self.responder.run_stream(QUESTION) as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                yield result.response.provider_response_id

    async def async_embeddings(self) -> list[str]:
        """Two embeddings in one call."""
        await self.embedder.embed_documents(["a", "b"])
        return []

    async def async_tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        return ids_of(await self.with_tool.run(QUESTION))


def look_up() -> str:
    """Look something up."""
    return "Ada did."


def ids_of(result: Any) -> list[str]:
    """Return the ids of all replies of a run."""
    return [message.provider_response_id for message in result.all_messages() if message.kind == "response"]
