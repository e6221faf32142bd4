"""No SDK at all: an app that posts by itself."""

from __future__ import annotations

from typing import Any

import requests

from tests.matrix.content.marks import KEY
from tests.matrix.content.sdks.openai import CHAT, EXTRA, QUESTION, RESPONSE, TEXTS


class Calls:
    """OpenAI's API by way of ``requests``."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/api/v1"
        self.session = requests.Session()
        self.session.headers.update({"authorization": f"Bearer {KEY}", **EXTRA["extra_headers"]})

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self._post("chat/completions", {**CHAT, **EXTRA["extra_body"]}).json()["id"]]

    def tool_call(self) -> list[str]:
        """A whole answer that calls a tool."""
        return [self._post("chat/completions", {**CHAT, "messages": QUESTION}).json()["id"]]

    def stream(self) -> list[str]:
        """A stream."""
        self._post("chat/completions", {**CHAT, "stream": True})
        return []

    def responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        return [self._post("responses", RESPONSE).json()["id"]]

    def embeddings(self) -> list[str]:
        """Two embeddings."""
        self._post("embeddings", {"model": "openai/text-embedding-3-small", "input": TEXTS})
        return []

    def _post(self, path: str, body: dict[str, Any]) -> requests.Response:
        answer = self.session.post(f"{self.url}/{path}", params=EXTRA["extra_query"], json=body, timeout=30)
        if answer.status_code >= 400:
            raise ValueError(answer.text)
        return answer
