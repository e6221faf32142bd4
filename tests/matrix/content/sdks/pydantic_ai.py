"""Pydantic AI: agents with instructions, a tool and a typed answer."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

from tests.matrix.content.marks import KEY, PICTURE, SECRET, mark


class Calls:
    """Agents of Pydantic AI, on OpenAI's chat completions, its responses and its embeddings."""

    def __init__(self, url: str) -> None:
        top: Any = importlib.import_module("pydantic_ai")
        models: Any = importlib.import_module("pydantic_ai.models.openai")
        embeddings: Any = importlib.import_module("pydantic_ai.embeddings.openai")
        openai: Any = importlib.import_module("openai")
        client = openai.AsyncOpenAI(base_url=f"{url}/api/v1", api_key=KEY, max_retries=0)
        provider = importlib.import_module("pydantic_ai.providers.openai").OpenAIProvider(openai_client=client)
        more: dict[str, Any] = {
            "name": "writer",
            "instructions": mark("instructions"),
            "system_prompt": mark("system"),
            "model_settings": {
                "temperature": 0.5,
                "extra_body": {"extra": mark("extra")},
                "extra_headers": {"x-portkey-api-key": SECRET, "x-title": mark("title")},
            },
        }
        chat = models.OpenAIChatModel("openai/gpt-4o", provider=provider)
        self.question = [mark("user"), top.BinaryContent(PICTURE, media_type="image/png")]
        self.agent = top.Agent(chat, **more)
        self.responder = top.Agent(models.OpenAIResponsesModel("openai/gpt-4o", provider=provider), **more)
        self.with_tool = top.Agent(chat, tools=[top.Tool(look_up, description=mark("tool"))], **more)
        self.with_broken_tool = top.Agent(chat, tools=[break_down], **more)
        self.embedder = top.Embedder(embeddings.OpenAIEmbeddingModel("text-embedding-3-small", provider=provider))

    async def async_chat(self) -> list[str]:
        """A whole answer."""
        return _ids_of(await self.agent.run(self.question))

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream, handed on as it comes."""
        async with self.agent.run_stream(self.question) as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                yield result.response.provider_response_id

    async def async_responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        return _ids_of(await self.responder.run(self.question))

    async def async_tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        return _ids_of(await self.with_tool.run(self.question))

    async def async_broken_tool(self) -> list[str]:
        """The model calls a tool that fails."""
        return _ids_of(await self.with_broken_tool.run(self.question))

    async def async_embeddings(self) -> list[str]:
        """Two embeddings."""
        await self.embedder.embed_documents([mark("embedded"), mark("embedded-too")])
        return []


def look_up(q: str) -> str:
    """Look something up."""
    return f"{mark('result')} for {q}"


def break_down(q: str) -> str:
    """Look something up, in vain."""
    raise ValueError(f"{mark('broken-tool')} for {q}")


def _ids_of(result: Any) -> list[str]:
    return [message.provider_response_id for message in result.all_messages() if message.kind == "response"]
