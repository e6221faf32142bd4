"""Fixtures for the tests of apps that use byline. pytest loads them by itself; docs/testing.md has examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan

import byline
from byline.destinations import OTLP
from byline.instrument import find_runtime
from byline.testing import Gateway, Receiver, capture_spans


@pytest.fixture
def byline_spans() -> Iterator[list[ReadableSpan]]:
    """The spans of the global tracer provider that end during the test, with their attribution."""
    with capture_spans() as spans:
        yield spans


@pytest.fixture
def byline_gateway() -> Iterator[Gateway]:
    """A gateway that LLM SDKs can call: ``OpenAI(base_url=byline_gateway.base_url)``."""
    with Gateway() as gateway:
        yield gateway


@pytest.fixture
def byline_receiver() -> Iterator[Receiver]:
    """A server to which byline sends the spans of the test, instead of the app's destinations.

    Without an earlier `byline.instrument`, byline is switched on for the test. `byline.flush` sends what waits.
    """
    with Receiver() as receiver:
        destinations = [OTLP(receiver.url, label="byline-receiver")]
        runtime = find_runtime()
        if runtime is not None:
            with runtime.exporting_to(destinations):
                yield receiver
            return
        byline.instrument(destinations=destinations)
        try:
            yield receiver
        finally:
            byline.uninstrument()
