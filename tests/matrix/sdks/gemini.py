"""Google's SDK for Gemini."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, Final

from google import genai

ASK: Final[dict[str, Any]] = {"model": "gemini-2.5-flash", "contents": "Who wrote this?"}
TOOL: Final[dict[str, Any]] = {
    "function_declarations": [{"name": "look_up", "parameters": {"type": "OBJECT", "properties": {}}}]
}


class Calls:
    """Every API of google-genai that the matrix uses."""

    #: Members that Gemini's response lacks.
    unsaid: ClassVar[dict[str, list[str]]] = {
        "embeddings": ["gen_ai.response.model", "gen_ai.usage.input_tokens", "gen_ai.usage.cost"]
    }

    def __init__(self, url: str) -> None:
        self.client: Any = genai.Client(api_key="sk-matrix", http_options={"base_url": url})

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.client.models.generate_content(**ASK).response_id]

    def stream(self) -> list[str]:
        """A stream, read to its end."""
        return [chunk.response_id for chunk in self.client.models.generate_content_stream(**ASK)]

    def closed_stream(self) -> list[str]:
        """A stream that the app closes after its first chunk."""
        stream = self.client.models.generate_content_stream(**ASK)
        first = next(stream)
        stream.close()
        return [first.response_id]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.client.aio.models.generate_content(**ASK)).response_id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream that is handed on as it comes."""
        async for chunk in await self.client.aio.models.generate_content_stream(**ASK):
            yield chunk.response_id

    def embeddings(self) -> list[str]:
        """One embedding."""
        self.client.models.embed_content(model="gemini-embedding-001", contents="a")
        return []

    def tool_call(self) -> list[str]:
        """The model calls a tool, and gets its result."""
        first = self.client.models.generate_content(**ASK, config={"tools": [TOOL]})
        contents = [
            {"role": "user", "parts": [{"text": ASK["contents"]}]},
            {"role": "model", "parts": [{"function_call": {"name": "look_up", "args": {}}}]},
            {"role": "user", "parts": [{"function_response": {"name": "look_up", "response": {"who": "Ada"}}}]},
        ]
        second = self.client.models.generate_content(**{**ASK, "contents": contents}, config={"tools": [TOOL]})
        return [first.response_id, second.response_id]
