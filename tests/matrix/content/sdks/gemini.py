"""Google's SDK for Gemini."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from google import genai

from tests.matrix.content.marks import KEY, PICTURE, SECRET, mark

_SCHEMA: Final = {
    "type": "OBJECT",
    "description": mark("schema"),
    "properties": {"q": {"type": "STRING", "description": mark("property")}},
}
TOOL: Final[dict[str, Any]] = {
    "function_declarations": [{"name": "look_up", "description": mark("tool"), "parameters": _SCHEMA}]
}
QUESTION: Final[list[dict[str, Any]]] = [
    {
        "role": "user",
        "parts": [{"text": mark("user")}, {"inline_data": {"mime_type": "image/png", "data": PICTURE}}],
    }
]
RESULT: Final[list[dict[str, Any]]] = [
    {"role": "model", "parts": [{"function_call": {"name": "look_up", "args": {"q": mark("given-arguments")}}}]},
    {
        "role": "user",
        "parts": [{"function_response": {"name": "look_up", "response": {"who": mark("result")}}}],
    },
]
CONFIG: Final[dict[str, Any]] = {
    "system_instruction": mark("system"),
    "tools": [TOOL],
    "temperature": 0.5,
    "response_mime_type": "application/json",
    "response_schema": _SCHEMA,
    "labels": {"team": "writers"},
    "automatic_function_calling": {"disable": True},
    "http_options": {"headers": {"x-portkey-api-key": SECRET, "x-title": mark("title")}},
}
ASK: Final[dict[str, Any]] = {"model": "gemini-2.5-flash", "contents": QUESTION + RESULT, "config": CONFIG}


def look_up(q: str) -> str:
    """Look something up."""
    return f"{mark('result')} for {q}"


class Calls:
    """Every API of google-genai that instrumentations look at."""

    def __init__(self, url: str) -> None:
        self.client: Any = genai.Client(api_key=KEY, http_options={"base_url": url})

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.client.models.generate_content(**ASK).response_id]

    def tool_call(self) -> list[str]:
        """A whole answer that calls a tool."""
        return [self.client.models.generate_content(**{**ASK, "contents": QUESTION}).response_id]

    def called_tool(self) -> list[str]:
        """A tool that the SDK calls by itself."""
        config = {**CONFIG, "tools": [look_up]}
        del config["automatic_function_calling"]
        return [self.client.models.generate_content(**{**ASK, "contents": QUESTION, "config": config}).response_id]

    def stream(self) -> list[str]:
        """A stream."""
        return [chunk.response_id for chunk in self.client.models.generate_content_stream(**ASK)]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.client.aio.models.generate_content(**ASK)).response_id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream, handed on as it comes."""
        async for chunk in await self.client.aio.models.generate_content_stream(**ASK):
            yield chunk.response_id

    def embeddings(self) -> list[str]:
        """Two embeddings."""
        self.client.models.embed_content(model="gemini-embedding-001", contents=[mark("embedded")])
        return []
