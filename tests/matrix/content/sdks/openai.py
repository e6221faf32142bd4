"""OpenAI's SDK, and those that stand in its place."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from tests.matrix.content.marks import IMAGE, KEY, SECRET, mark

PICTURE: Final = f"data:image/png;base64,{IMAGE}"
SCHEMA: Final = {
    "type": "object",
    "description": mark("schema"),
    "properties": {"q": {"type": "string", "description": mark("property")}},
    "required": ["q"],
    "additionalProperties": False,
}
FUNCTION: Final = {"name": "look_up", "description": mark("tool"), "parameters": SCHEMA}
TOOL: Final[dict[str, Any]] = {"type": "function", "function": FUNCTION}
ARGUMENTS: Final = json.dumps({"q": mark("given-arguments")})
QUESTION: Final[list[dict[str, Any]]] = [
    {"role": "system", "content": mark("system")},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": mark("user")},
            {"type": "image_url", "image_url": {"url": PICTURE}},
        ],
    },
]
RESULT: Final[list[dict[str, Any]]] = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "look_up", "arguments": ARGUMENTS}}],
    },
    {"role": "tool", "tool_call_id": "call_0", "content": mark("result")},
]
CHAT: Final[dict[str, Any]] = {
    "model": "openai/gpt-4o",
    "messages": QUESTION + RESULT,
    "tools": [TOOL],
    "tool_choice": "auto",
    "temperature": 0.5,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "shape", "description": mark("format"), "schema": SCHEMA, "strict": True},
    },
}
#: Arguments of OpenAI's SDK only.
EXTRA: Final[dict[str, Any]] = {
    "prediction": {"type": "content", "content": mark("prediction")},
    "extra_body": {"extra": mark("extra"), "plugins": [{"id": "web", "search_prompt": mark("plugin")}]},
    "extra_query": {"q": mark("query").replace(" ", "-")},
    "extra_headers": {"x-portkey-api-key": SECRET, "x-title": mark("title")},
}
RESPONSE: Final[dict[str, Any]] = {
    "model": "openai/gpt-4o",
    "instructions": mark("instructions"),
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": mark("input")},
                {"type": "input_image", "image_url": PICTURE, "detail": "low"},
            ],
        },
        {"type": "function_call", "call_id": "call_0", "name": "look_up", "arguments": ARGUMENTS},
        {"type": "function_call_output", "call_id": "call_0", "output": mark("output")},
    ],
    "tools": [{"type": "function", "strict": True, **FUNCTION}],
    "text": {"format": {"type": "json_schema", "name": "shape", "schema": SCHEMA}},
    "reasoning": {"effort": "low"},
}
TEXTS: Final = [mark("embedded"), mark("embedded-too")]


class Calls:
    """Every API of OpenAI's SDK that instrumentations look at."""

    module = "openai"

    def __init__(self, url: str) -> None:
        sdk = importlib.import_module(self.module)
        settings: dict[str, Any] = {"base_url": f"{url}/api/v1", "api_key": KEY, "max_retries": 0}
        self.client: Any = sdk.OpenAI(**settings)
        self.async_client: Any = sdk.AsyncOpenAI(**settings)

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.client.chat.completions.create(**CHAT, **EXTRA).id]

    def tool_call(self) -> list[str]:
        """A whole answer that calls a tool."""
        return [self.client.chat.completions.create(**{**CHAT, "messages": QUESTION}, **EXTRA).id]

    def stream(self) -> list[str]:
        """A stream."""
        chunks = self.client.chat.completions.create(**CHAT, **EXTRA, stream=True)
        return [chunk.id for chunk in chunks]

    def tool_stream(self) -> list[str]:
        """A stream that calls a tool."""
        return [
            chunk.id for chunk in self.client.chat.completions.create(**{**CHAT, "messages": QUESTION}, stream=True)
        ]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.async_client.chat.completions.create(**CHAT, **EXTRA)).id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream, handed on as it comes."""
        async for chunk in await self.async_client.chat.completions.create(**CHAT, stream=True):
            yield chunk.id

    def completion(self) -> list[str]:
        """A text that is gone on with."""
        return [self.client.completions.create(model="gpt-3.5", prompt=mark("prompt"), suffix=mark("suffix")).id]

    def responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        return [self.client.responses.create(**RESPONSE).id]

    def responses_stream(self) -> list[str]:
        """A streamed one."""
        for _ in self.client.responses.create(**RESPONSE, stream=True):
            pass
        return []

    def responses_tool_call(self) -> list[str]:
        """One that calls a tool."""
        return [self.client.responses.create(**{**RESPONSE, "input": mark("input")}).id]

    def embeddings(self) -> list[str]:
        """Two embeddings."""
        self.client.embeddings.create(model="openai/text-embedding-3-small", input=TEXTS, encoding_format="float")
        return []
