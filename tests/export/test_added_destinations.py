"""Destinations that are added first, late or twice get all spans of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

import byline
from byline.export import OTLP
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.testing import Receiver
from tests.export.support import CHAT, named, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.mark.parametrize("spans", ["llm", "all"])
def test_a_destination_may_hear_of_spans_before_byline_does(receiver: Receiver, spans: Any) -> None:
    """Where the app has added it first; the app span is made within the request."""
    provider = TracerProvider(shutdown_on_exit=False)
    destination = OTLP(receiver.url, spans=spans)
    provider.add_span_processor(destination.processor())
    provider.add_span_processor(AttributionSpanProcessor())
    tracer = provider.get_tracer("app")
    with (
        byline.bound(trace_id="t", span_name="Step"),
        tracer.start_as_current_span("POST", kind=SpanKind.SERVER),
        tracer.start_as_current_span("chat", attributes=CHAT),
    ):
        pass
    provider.shutdown()
    expected: Any = {None: ["POST"], "POST": ["Step"], "Step": ["chat"]}
    assert tree(receiver.spans) == (expected if spans == "all" else {None: ["Step"], "Step": ["chat"]})


def test_added_destination_learns_of_open_spans(receiver: Receiver) -> None:
    """Though another one keeps track of it already."""
    later = OTLP(receiver.url, label="later")
    with Receiver() as other, running(OTLP(other.url)) as app:
        with app.request(), app.span("outer"):
            app.provider.add_span_processor(later.processor())
            with app.span("inner"):
                app.chat("chat")
        app.close()
        later.shutdown()
    assert tree(receiver.spans) == {
        None: ["POST /chat"],
        "POST /chat": ["outer"],
        "outer": ["inner"],
        "inner": ["chat"],
    }


def test_a_destination_that_is_added_by_hand_as_well_sends_once(receiver: Receiver) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    destination = OTLP(receiver.url)
    provider.add_span_processor(destination.processor())
    byline.instrument(tracer_provider=provider, destinations=[destination, destination], clients=())
    try:
        with provider.get_tracer("app").start_as_current_span("job"):
            pass
        assert byline.flush()
    finally:
        byline.uninstrument()
    assert [span.name for span in receiver.spans] == ["job"]


def test_destination_added_during_a_request_gets_the_attributed_server_span(receiver: Receiver) -> None:
    destination = OTLP(receiver.url)
    with running() as app:
        with app.request(session_id="s"):
            app.provider.add_span_processor(destination.processor())
        app.close()
        destination.shutdown()
    assert named(receiver.spans, "POST /chat").attributes["session.id"] == "s"
