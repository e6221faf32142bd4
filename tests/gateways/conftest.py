"""A server on loopback that stands for any gateway, and clients that byline watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import httpx2
import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider

from byline import http, testing
from byline.gateways import Gateway


class Watching(Protocol):
    """Watch the clients with these gateways configured, until the block ends."""

    def __call__(self, *gateways: Gateway, llm_spans: Any = "auto") -> AbstractContextManager[None]: ...


@pytest.fixture
def watching(provider: TracerProvider) -> Watching:
    @contextmanager
    def watch(*gateways: Gateway, llm_spans: Any = "auto") -> Iterator[None]:
        http.install(
            tracer_provider=provider, gateways=gateways, clients="auto", llm_spans=llm_spans, capture_content=False
        )
        try:
            yield
        finally:
            http.uninstall()
            http.clear_results()

    return watch


@pytest.fixture(scope="session")
def _running() -> Iterator[testing.Gateway]:
    with testing.Gateway() as running:
        yield running


@pytest.fixture
def server(_running: testing.Gateway) -> testing.Gateway:
    """The server, before any request."""
    _running.requests.clear()
    _running._script.clear()
    return _running


def sdk(base_url: str | None, key: str = "sk-test-0a1b2c3d4e5f6g7h8i9j") -> openai.OpenAI:
    """OpenAI's own client, without the certificates that take it most of its time."""
    return openai.OpenAI(
        base_url=base_url, api_key=key, max_retries=0, http_client=httpx2.Client(verify=False, follow_redirects=True)
    )
