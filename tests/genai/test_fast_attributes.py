"""Access to the SDK's private attributes is a shortcut: with other internals, the SDK's own methods are used."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from byline.genai.attributes import ROUTE
from byline.genai.fast_attributes import peek_attributes, remove_attributes, set_attributes
from byline.genai.tracer_provider import list_processors


class Closed:
    """A span with public attributes only."""

    def __init__(self, inner: Any) -> None:
        self.is_recording = inner.is_recording
        self.set_attributes = inner.set_attributes
        self.end = inner.end
        self._inner = inner

    @property
    def attributes(self) -> Mapping[str, Any]:
        return dict(self._inner.attributes)


@pytest.fixture(params=["open", "closed"])
def span(request: pytest.FixtureRequest) -> Any:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    made = tracer.start_span("chat", attributes={"a": 1, "b": 2})
    return Closed(made) if request.param == "closed" else made


def test_attributes_are_read_and_set(span: Any) -> None:
    set_attributes(span, {"b": "new", "c": ("x", "y")})
    assert dict(peek_attributes(span)) == {"a": 1, "b": "new", "c": ("x", "y")}
    assert dict(span.attributes) == {"a": 1, "b": "new", "c": ("x", "y")}


def test_ended_span_is_not_changed(span: Any) -> None:
    span.end()
    set_attributes(span, {"a": "late"})
    assert dict(peek_attributes(span)) == {"a": 1, "b": 2}


def test_attributes_of_unknown_containers_are_not_removed(span: Any) -> None:
    """The SDK has no way of its own for that."""
    remove_attributes(span, ("a", "never there"))
    assert dict(peek_attributes(span)) == ({"a": 1, "b": 2} if isinstance(span, Closed) else {"b": 2})


def test_text_that_the_limit_would_cut_is_left_out() -> None:
    """A cut id is another id."""
    provider = TracerProvider(shutdown_on_exit=False, span_limits=SpanLimits(max_span_attribute_length=4))
    span: Any = provider.get_tracer("tests").start_span("chat")
    set_attributes(span, {"user.id": "alice", "tags": ("a", "longer"), "short": "1234", "n": 12345, ROUTE: "/chat"})
    assert dict(span.attributes) == {"short": "1234", "n": 12345, ROUTE: "/cha"}


@pytest.mark.parametrize("other", [object(), SimpleNamespace(_active_span_processor=None)])
def test_provider_with_other_internals_has_no_processors(other: Any) -> None:
    assert list_processors(other) == []
