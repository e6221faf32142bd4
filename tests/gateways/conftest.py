"""A server on loopback that stands for any gateway, and clients that byline watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pytest
from opentelemetry.sdk.trace import TracerProvider

from byline import calls, testing
from byline.gateways import Gateway


class Watching(Protocol):
    """Watch the clients with these gateways configured, until the block ends."""

    def __call__(self, *gateways: Gateway, llm_spans: Any = "auto") -> AbstractContextManager[None]: ...


@pytest.fixture
def watching(provider: TracerProvider) -> Watching:
    @contextmanager
    def watch(*gateways: Gateway, llm_spans: Any = "auto") -> Iterator[None]:
        calls.install(
            tracer_provider=provider, gateways=gateways, clients="auto", llm_spans=llm_spans, capture_content=False
        )
        try:
            yield
        finally:
            calls.uninstall()

    return watch


@pytest.fixture
def server() -> Iterator[testing.Gateway]:
    with testing.Gateway() as running:
        yield running
