"""`capture_spans` and `assert_signed` work without a server."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import byline
from byline.testing import assert_signed, capture_spans


@pytest.fixture
def own() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


def call_model(provider: TracerProvider, **attributes: str) -> None:
    provider.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat", **attributes}).end()


def signed(**fields: str) -> ReadableSpan:
    provider = TracerProvider(shutdown_on_exit=False)
    with capture_spans(provider) as spans, byline.bound(**fields):
        call_model(provider)
    return spans[0]


def test_spans_of_the_block_are_attributed_and_collected(own: TracerProvider) -> None:
    """Spans before and after the block are not collected."""
    call_model(own)
    with capture_spans(own) as spans, byline.bound(session_id="s-1", user_id="ada"):
        call_model(own)
    call_model(own)
    (span,) = spans
    assert_signed(span, session_id="s-1", user_id="ada")


def test_the_global_provider_is_the_default(provider: TracerProvider) -> None:
    with capture_spans() as spans:
        call_model(provider)
    assert [span.name for span in spans] == ["chat"]


@pytest.mark.integration
def test_a_provider_is_created_if_there_is_none() -> None:
    """In a process of its own, because the global provider can be set only once."""
    code = """
from opentelemetry import trace
from byline.testing import capture_spans
with capture_spans() as spans:
    trace.get_tracer("app").start_span("x").end()
assert [span.name for span in spans] == ["x"]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_consecutive_and_nested_blocks(own: TracerProvider) -> None:
    """Each block has its own list, even if the lists are equal; the provider gets one processor for all blocks."""
    with capture_spans(own) as outer:
        with capture_spans(own) as first:
            pass
        with capture_spans(own) as second:
            call_model(own)
    assert (len(outer), len(first), len(second)) == (1, 0, 1)
    assert len(own._active_span_processor._span_processors) == 1


def test_no_span_is_attributed_after_the_block(own: TracerProvider) -> None:
    with capture_spans(own):
        pass
    with byline.bound(session_id="s-1"):
        span = own.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"})
        span.end()
    assert "session.id" not in (span.attributes or {})  # type: ignore[attr-defined]


def test_capture_works_together_with_instrument(own: TracerProvider) -> None:
    byline.instrument(tracer_provider=own, destinations=[], clients=())
    try:
        with capture_spans(own) as spans, byline.bound(session_id="s-1"):
            call_model(own)
    finally:
        byline.uninstrument()
    assert_signed(spans[0], session_id="s-1")


def test_spans_of_other_threads_are_collected(own: TracerProvider) -> None:
    with capture_spans(own) as spans:
        thread = threading.Thread(target=call_model, args=(own,))
        thread.start()
        thread.join()
    assert len(spans) == 1


def test_assert_signed_lists_all_differences() -> None:
    span = signed(session_id="s-1")
    with pytest.raises(AssertionError) as raised:
        assert_signed(span, session_id="s-2", user_id="ada")
    assert "session.id: 's-1', not 's-2'" in str(raised.value)
    assert "user_id in user.id: None, not 'ada'" in str(raised.value)


def test_assert_signed_reads_tags_and_metadata() -> None:
    """Metadata may have more keys than the expected ones."""
    provider = TracerProvider(shutdown_on_exit=False)
    with capture_spans(provider) as spans, byline.bound(tags=["a"], metadata={"plan": "free", "turn": 1}):
        call_model(provider)
    assert_signed(spans[0], tags=["a"], metadata={"turn": 1}, user_id=None)
    with pytest.raises(AssertionError, match="metadata turn: 1, not 2"):
        assert_signed(spans[0], metadata={"turn": 2})


def test_assert_signed_refuses_unknown_fields() -> None:
    with pytest.raises(TypeError, match="session is no field"):
        assert_signed(signed(), session="s-1")
