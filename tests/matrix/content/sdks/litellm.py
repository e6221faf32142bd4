"""LiteLLM's SDK, within the app's own process."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

from tests.matrix.content.marks import KEY
from tests.matrix.content.sdks.openai import CHAT, EXTRA, QUESTION, RESPONSE, TEXTS


class Calls:
    """Every API of LiteLLM's SDK that its callback looks at."""

    def __init__(self, url: str) -> None:
        self.sdk: Any = importlib.import_module("litellm")
        where = {"api_base": f"{url}/api/v1", "api_key": KEY, "max_retries": 0}
        more = {name: EXTRA[name] for name in ("extra_body", "extra_headers")}
        self.where = where
        self.ask: dict[str, Any] = {**CHAT, **where, **more}

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self.sdk.completion(**self.ask).id]

    def tool_call(self) -> list[str]:
        """A whole answer that calls a tool."""
        return [self.sdk.completion(**{**self.ask, "messages": QUESTION}).id]

    def stream(self) -> list[str]:
        """A stream."""
        return [chunk.id for chunk in self.sdk.completion(**self.ask, stream=True)]

    async def async_chat(self) -> list[str]:
        """A whole answer, awaited."""
        return [(await self.sdk.acompletion(**self.ask)).id]

    async def async_stream(self) -> AsyncIterator[str]:
        """A stream, handed on as it comes."""
        async for chunk in await self.sdk.acompletion(**self.ask, stream=True):
            yield chunk.id

    def responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        # It knows of this model that it does not reason.
        plain = {name: value for name, value in RESPONSE.items() if name != "reasoning"}
        self.sdk.responses(**plain, **self.where)
        return []

    def embeddings(self) -> list[str]:
        """Two embeddings."""
        self.sdk.embedding(model="openai/text-embedding-3-small", input=TEXTS, **self.where)
        return []
