"""Steps of jobs, which have no app span with which they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import byline
from byline.export import OTLP, reminder
from byline.testing import Receiver
from tests.export.support import AGENT, named, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def test_a_jobs_step_lasts_for_all_its_calls(receiver: Receiver) -> None:
    """Also where the first ones are sent long before the last one is made."""
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app:
        with byline.bound(span_name="Nightly", trace_id="t"):
            for name in ("first", "second"):
                with app.span(name, AGENT):
                    app.chat("call")
                assert destination.flush()
            assert "Nightly" not in [span.name for span in receiver.spans]
            app.chat("last")
        assert destination.flush()
        step = named(receiver.spans, "Nightly")
        assert step.start == named(receiver.spans, "first").start
        assert step.end == named(receiver.spans, "last").end
    assert tree(receiver.spans) == {
        None: ["Nightly"],
        "Nightly": ["first", "last", "second"],
        "first": ["call"],
        "second": ["call"],
    }


def test_a_jobs_step_is_sent_although_nothing_follows(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is idle afterwards, for hours maybe."""
    monkeypatch.setattr(reminder, "_LATER", 0.05)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app:
        with byline.bound(span_name="Nightly"):
            app.chat("call")
            assert destination.flush()
        receiver.wait_for(2)
        assert tree(receiver.spans) == {None: ["Nightly"], "Nightly": ["call"]}


def test_no_reminder_is_left_behind(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, spans="llm")) as app, byline.bound(span_name="Nightly"):
        app.chat("call")
        assert app.destinations[0].flush()
        assert "byline-reminder" in [thread.name for thread in threading.enumerate()]
        app.close()
        for thread in threading.enumerate():
            if thread.name == "byline-reminder":
                thread.join(10)
                assert not thread.is_alive()
    assert tree(receiver.spans) == {None: ["Nightly"], "Nightly": ["call"]}
