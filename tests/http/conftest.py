"""A gateway on loopback, whose calls byline records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from byline import http
from byline.gateways import OpenRouter
from byline.testing import Gateway

Finished = Callable[[], Sequence[ReadableSpan]]


def running(provider: TracerProvider, *, capture_content: bool) -> Iterator[Gateway]:
    with Gateway() as gateway:
        http.install(
            tracer_provider=provider,
            gateways=[OpenRouter(gateway.base_url)],
            clients="auto",
            llm_spans="auto",
            capture_content=capture_content,
        )
        yield gateway
        http.uninstall()


@pytest.fixture
def gateway(provider: TracerProvider) -> Iterator[Gateway]:
    yield from running(provider, capture_content=False)


@pytest.fixture
def capturing(provider: TracerProvider) -> Iterator[Gateway]:
    """The same with content captured."""
    yield from running(provider, capture_content=True)
