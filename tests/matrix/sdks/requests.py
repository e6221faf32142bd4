"""No SDK at all: an app that posts by itself."""

from __future__ import annotations

import json
from typing import Any

import requests

from tests.matrix.sdks.openai import CHAT


class Calls:
    """OpenAI's API by way of ``requests``."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/api/v1"
        self.session = requests.Session()
        self.session.headers["authorization"] = "Bearer sk-matrix"

    def chat(self) -> list[str]:
        """A whole answer."""
        return [self._post("chat/completions", CHAT).json()["id"]]

    def stream(self) -> list[str]:
        """A stream, read to its end."""
        lines = self._post("chat/completions", {**CHAT, "stream": True}, stream=True).iter_lines()
        return [json.loads(line[6:])["id"] for line in lines if line.startswith(b"data: {")]

    def closed_stream(self) -> list[str]:
        """A stream that the app closes after its first chunk."""
        answer = self._post("chat/completions", {**CHAT, "stream": True}, stream=True)
        first = next(line for line in answer.iter_lines(1) if line.startswith(b"data: {"))
        answer.close()
        return [json.loads(first[6:])["id"]]

    def responses(self) -> list[str]:
        """A whole answer of the Responses API."""
        return [self._post("responses", {"model": "openai/gpt-4o", "input": "Who?"}).json()["id"]]

    def embeddings(self) -> list[str]:
        """Two embeddings in one call."""
        self._post("embeddings", {"model": "openai/text-embedding-3-small", "input": ["a", "b"]})
        return []

    def _post(self, path: str, body: dict[str, Any], *, stream: bool = False) -> requests.Response:
        answer = self.session.post(f"{self.url}/{path}", json=body, stream=stream, timeout=30)
        answer.raise_for_status()
        return answer
